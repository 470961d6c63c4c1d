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
from mambino.nn.patches import ConvMerging, OverlappingEmbed, PatchEmbed, PatchExpand, PatchMerging
from mambino.nn.ss2d import SS2D, VSSBlock
from mambino.ops.scan_paths import scan_paths
from mambino.ops.selective_scan import selective_scan
from mambino.weights.convert.vss import INSIDE

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


class Named(nn.Module):
    """A module that takes its image by the recorded name, with its channels where they were recorded."""

    def __init__(self, module: nn.Module, *, first_in: bool = False, first_out: bool = False) -> None:
        super().__init__()
        self.module, self.first_in, self.first_out = module, first_in, first_out

    def forward(self, x: Tensor) -> Tensor:
        y = self.module(x.movedim(1, -1) if self.first_in else x)
        return y.movedim(-1, 1) if self.first_out else y


def ss2d_v0(hyper: Hyper, _: int) -> nn.Module:
    return Named(SS2D(2, hyper["d_model"], state_size=hyper.get("d_state", 16), expand=hyper.get("expand", 2)))


def ss2d_v2(hyper: Hyper, _: int) -> nn.Module:
    first = hyper["channel_first"]
    module = SS2D(
        2,
        hyper["d_model"],
        state_size=hyper["d_state"],
        expand=hyper["ssm_ratio"],
        gate=hyper["forward_type"] == "v05",
        conv_bias=hyper["conv_bias"],
    )
    return Named(module, first_in=first, first_out=first)


def vss_v0(hyper: Hyper, _: int) -> nn.Module:
    return Named(VSSBlock(2, hyper["hidden_dim"], state_size=hyper["d_state"]))


def vss_v2(hyper: Hyper, _: int) -> nn.Module:
    first = hyper["channel_first"]
    module = VSSBlock(
        2,
        hyper["hidden_dim"],
        mlp_ratio=hyper["mlp_ratio"],
        state_size=hyper["ssm_d_state"],
        expand=hyper["ssm_ratio"],
        gate=hyper["forward_type"] == "v05",
        conv_bias=hyper["ssm_conv_bias"],
    )
    return Named(module, first_in=first, first_out=first)


def conv_merging(hyper: Hyper, _: int) -> nn.Module:
    first = hyper["channel_first"]
    module = ConvMerging(2, hyper["dim"], hyper["out_dim"], kernel=3 if first else 2)
    return Named(module, first_in=first, first_out=first)


def expand_dagger(hyper: Hyper, _: int) -> nn.Module:
    return Named(PatchExpand(2, hyper["dim"], hyper["dim"] // 2), first_in=True)


def final_expand_dagger(hyper: Hyper, _: int) -> nn.Module:
    return Named(PatchExpand(2, hyper["dim"], hyper["dim"], 4), first_in=True)


class CrossScan(nn.Module):
    """What the original makes before its scans: one sequence for each path."""

    def __init__(self, hyper: Hyper) -> None:
        super().__init__()
        self.hyper = hyper

    def paths(self, space: tuple[int, int]) -> Tensor:
        paths = scan_paths(space).long()
        return {0: paths, 1: paths[[0, 0, 0, 0]], 2: paths[[0, 0, 2, 2]]}[self.hyper["scans"]]

    def forward(self, x: Tensor) -> Tensor:
        first = self.hyper["in_channel_first"]
        tokens, space = (x.flatten(2), x.shape[2:]) if first else (x.flatten(1, 2).movedim(-1, 1), x.shape[1:3])
        sequences = tokens[:, :, self.paths(tuple(space))].movedim(2, 1)  # [b k c l]
        return sequences if self.hyper["out_channel_first"] else sequences.permute(0, 3, 1, 2)


class CrossMerge(CrossScan):
    """What the original makes after them: every token back in its place, and all paths summed."""

    def forward(self, x: Tensor) -> Tensor:
        first = self.hyper["in_channel_first"]
        space = tuple(x.shape[3:] if first else x.shape[1:3])
        sequences = x.flatten(3) if first else x.flatten(1, 2).permute(0, 2, 3, 1)  # [b k c l]
        places = self.paths(space)[None, :, None].expand_as(sequences)
        merged = torch.zeros_like(sequences).scatter(3, places, sequences).sum(1)
        return merged if self.hyper["out_channel_first"] else merged.movedim(1, -1)


_MODULE = ((r"^", "module."),)
_OF_SS2D = tuple((rf"^{old}", f"module.{new}") for old, new in INSIDE.items())
_OF_BLOCK = (
    *((rf"^(?:self_attention|op)\.{old}", f"module.mixer.{new}") for old, new in INSIDE.items()),
    (r"^ln_1\.", "module.norm."),
    (r"^mlp\.fc", "module.mlp.linear"),
    *_MODULE,
)
_CONV_MERGING = ((r"^1\.", "module.conv."), (r"^3\.", "module.norm."))
_EMBED_V2 = tuple((rf"^{i}\.", f"module.{name}.") for i, name in ((0, "proj"), (2, "norm"), (5, "proj2"), (7, "norm2")))


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
    "ss2d_v0": (ss2d_v0, _OF_SS2D),
    "ss2d_v2": (ss2d_v2, _OF_SS2D),
    "vssblock_v0": (vss_v0, _OF_BLOCK),
    "vssblock_v2": (vss_v2, _OF_BLOCK),
    "patch_merging_v0": (lambda hyper, _: Named(PatchMerging(2, hyper["dim"])), _MODULE),
    "patch_merging_v1": (lambda hyper, _: Named(PatchMerging(2, hyper["dim"], pad=True)), _MODULE),
    "patch_expand_vmunet": (lambda hyper, _: Named(PatchExpand(2, hyper["in_channels"], hyper["dim"])), _MODULE),
    "final_patch_expand_vmunet": (lambda hyper, _: Named(PatchExpand(2, hyper["dim"], hyper["dim"] // 4, 4)), _MODULE),
    "patch_expand_dagger": (expand_dagger, _MODULE),
    "final_patch_expand_dagger": (final_expand_dagger, _MODULE),
    "patch_embed_v0": (
        lambda hyper, _: Named(PatchEmbed(2, hyper["in_chans"], hyper["embed_dim"], hyper["patch_size"])),
        _MODULE,
    ),
    "patch_embed_v2": (
        lambda hyper, _: Named(OverlappingEmbed(2, 3, hyper["embed_dim"]), first_out=hyper["channel_first"]),
        _EMBED_V2,
    ),
    "downsample_v3": (conv_merging, _CONV_MERGING),
    "downsample_v2": (conv_merging, _CONV_MERGING),
    "scan": (lambda hyper, _: CrossScan(hyper), ()),
    "merge": (lambda hyper, _: CrossMerge(hyper), ()),
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
