"""Weight initialisation."""

from torch import nn


def he_normal(module: nn.Module, slope: float = 1e-2) -> None:
    """Draw the weights of a convolution for leaky rectifiers of this slope, with zero bias; for `Module.apply`."""
    if isinstance(module, nn.Conv2d | nn.Conv3d | nn.ConvTranspose2d | nn.ConvTranspose3d):
        nn.init.kaiming_normal_(module.weight, a=slope)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def truncated_normal(module: nn.Module, std: float = 0.02) -> None:
    """Draw the weights of a linear layer as transformers do, with zero bias; for `Module.apply`."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=std)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
