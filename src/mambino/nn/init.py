"""Weight initialisation. Nothing is drawn for weights without data: torch would load its compiler for that (1.5 s)."""

from torch import nn

from mambino.nn.conv import ResidualBlock


def he_normal(module: nn.Module, slope: float = 1e-2) -> None:
    """Draw the weights of a convolution for leaky rectifiers of this slope, with zero bias; for `Module.apply`."""
    if isinstance(module, nn.Conv2d | nn.Conv3d | nn.ConvTranspose2d | nn.ConvTranspose3d):
        if module.weight.is_meta:
            return
        nn.init.kaiming_normal_(module.weight, a=slope)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def truncated_normal(module: nn.Module, deviation: float = 0.02) -> None:
    """Draw the weights of a linear layer from a truncated normal distribution, with zero bias; for `Module.apply`."""
    if isinstance(module, nn.Linear):
        if module.weight.is_meta:
            return
        nn.init.trunc_normal_(module.weight, std=deviation)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def still_residuals(module: nn.Module) -> None:
    """Let a residual block begin as its way past: the last normalisation gives zero; for `Module.apply`."""
    if isinstance(module, ResidualBlock):
        nn.init.zeros_(module.conv2.norm.weight)
