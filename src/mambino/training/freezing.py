"""An encoder that learns nothing for a while, so that a fresh decoder does not spoil what it has learnt before."""

from torch import nn

from mambino.errors import OptionError


def hold(network: nn.Module, *, frozen: bool) -> None:
    """Let the encoder learn or not; what embeds the image lies before it and always learns, as in Swin-UMamba.

    A parameter without a gradient is passed by in the optimiser, decay included.
    """
    encoder = getattr(network, "encoder", None)
    if not isinstance(encoder, nn.Module):
        return
    parameters = list(encoder.parameters())
    if parameters and parameters[0].requires_grad is frozen:
        for parameter in parameters:
            parameter.requires_grad_(not frozen)


def check_encoder(network: nn.Module, name: str, epochs: int) -> None:
    """Refuse to freeze the encoder of a network that has none of this name.

    Raises:
        OptionError: names the network and the option.
    """
    if epochs and not isinstance(getattr(network, "encoder", None), nn.Module):
        raise OptionError(
            f"--freeze-encoder {epochs}: the network {name} has no part that is its encoder alone",
            hint="leave the option out",
        )
