"""How the recorded operators are made of ours: by the beginning of a subcase's name, or by the operator."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from mambino.models.lightm_unet import RVM, ResMamba, ResUp
from mambino.models.umamba import Enlarge, MambaLayer, ProjectedBlock
from mambino.nn.conv import SeparableConv
from mambino.nn.dims import MAX_POOL
from mambino.nn.mamba import Mamba
from mambino.ops.selective_scan import selective_scan

Hyper = Mapping[str, Any]


class Scan(nn.Module):
    """The selective scan with inputs by name."""

    def __init__(self, *, softplus: bool) -> None:
        super().__init__()
        self.softplus = softplus

    def forward(self, **inputs: Tensor) -> tuple[Tensor, ...]:
        return selective_scan(**inputs, softplus=self.softplus)


class MambaByName(Mamba):
    """Mamba that takes its sequence by the recorded name."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x)


def mamba(hyper: Hyper, _: int) -> nn.Module:
    return MambaByName(
        hyper["d_model"],
        state_size=hyper.get("d_state", 16),
        kernel=hyper.get("d_conv", 4),
        expand=hyper.get("expand", 2),
        rank=hyper.get("dt_rank"),
        bias=hyper.get("bias", False),
        conv_bias=hyper.get("conv_bias", True),
    )


def rvm(hyper: Hyper, _: int) -> nn.Module:
    return RVM(hyper["input_dim"], hyper["output_dim"])


class Down(nn.Sequential):
    """Layers in a row that take their input by name."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x)


def rvm_down(hyper: Hyper, dim: int) -> nn.Module:
    return Down(rvm(hyper, dim), MAX_POOL[dim](2))


def separable(hyper: Hyper, dim: int) -> nn.Module:
    return SeparableConv(dim, hyper["in_channels"], hyper["out_channels"], kernel=hyper["kernel"], bias=hyper["bias"])


def mamba_layer(hyper: Hyper, _: int) -> nn.Module:
    return MambaLayer(hyper["dim"], channels_as_tokens=hyper["channel_token"])


def enlarge(hyper: Hyper, dim: int) -> nn.Module:
    return Enlarge(dim, hyper["cin"], hyper["cout"], (hyper["scale"],) * dim)


def projected(hyper: Hyper, dim: int) -> nn.Module:
    return ProjectedBlock(dim, hyper["cin"], hyper["cout"], (3,) * dim, (hyper["stride"],) * dim)


# The module, and how recorded parameter names become ours.
BUILD: dict[str, tuple[Callable[[Hyper, int], nn.Module], tuple[tuple[str, str], ...]]] = {
    "selective_scan": (lambda hyper, _: Scan(softplus=hyper["delta_softplus"]), ()),
    "mamba_ssm.Mamba block": (mamba, ()),
    "rvm_layer": (rvm, ()),
    "rvm_down": (rvm_down, ()),
    "res_mamba_block": (lambda hyper, _: ResMamba(hyper["channels"]), ((r"^conv([12])\.", r"mix\1."),)),
    "res_up_block": (
        lambda hyper, dim: ResUp(dim, hyper["channels"]),
        ((r"^conv\.0\.conv\.", "conv.depthwise."), (r"^conv\.1\.conv\.", "conv.pointwise.")),
    ),
    "mamba_patch_token": (mamba_layer, ((r"^mamba\.", "mixer."),)),
    "mamba_channel_token": (mamba_layer, ((r"^mamba\.", "mixer."),)),
    "upsample_layer": (enlarge, ()),
    "basic_res_block": (projected, ()),
    "dwconv": (separable, ((r"^0\.conv\.", "depthwise."), (r"^1\.conv\.", "pointwise."))),
}


def find(network: str, sub: str) -> tuple[Callable[[Hyper, int], nn.Module], tuple[tuple[str, str], ...]] | None:
    """Return how an operator is made, or None where it does not exist yet."""
    if network in BUILD:
        return BUILD[network]
    return next((made for name, made in BUILD.items() if sub.rpartition("_")[0] == name), None)


def spatial_axes(inputs: Mapping[str, Tensor]) -> int:
    return max((x.dim() for x in inputs.values()), default=2) - 2


def as_tuple(output: Any) -> tuple[Tensor, ...]:
    return (output,) if isinstance(output, torch.Tensor) else tuple(output)
