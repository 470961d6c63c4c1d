"""The specification of a network from the shapes of its tensors, under our names, as far as they show it."""

import itertools
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from mambino.core.plan import NetworkSpec, Value
from mambino.errors import WeightsError

Shapes = Mapping[str, tuple[int, ...]]
Sizes = tuple[tuple[int, ...], ...]

_CUBE = 16  # voxels along the side of a token of UNETR


@dataclass(frozen=True, slots=True)
class Hints:
    """What a plan or other tensors of a checkpoint say that the shapes of weights do not.

    Attributes:
        patch: size of the images (voxels).
        strides: of each stage of an encoder.
        masks: shapes of the attention masks of Swin-Unet, which follow from the size of its images.
    """

    patch: tuple[int, ...] = ()
    strides: Sizes = ()
    masks: Sizes = ()


@dataclass(frozen=True, slots=True)
class Found:
    """A specification, and sentences on what no shape shows and was taken as published."""

    spec: NetworkSpec
    assumed: tuple[str, ...] = field(default=())


def infer(model: str, shapes: Shapes, hints: Hints = Hints()) -> Found:
    """Say which network of ours has tensors of these shapes.

    Raises:
        WeightsError: a tensor that tells a size is missing, or the sizes are not to be had from shapes.
    """
    try:
        return _READERS[model](model, shapes, hints)
    except (KeyError, IndexError) as error:
        raise WeightsError(
            f"the size of the network {model} cannot be told from these weights: {error.args[0]} is missing",
            hint="the file may be cut short, or of another network",
        ) from None


def _count(shapes: Shapes, pattern: str) -> int:
    """Return one more than the largest number that the group of `pattern` takes at the beginning of a name."""
    return max((int(m[1]) for name in shapes if (m := re.match(pattern, name))), default=-1) + 1


def _counts(shapes: Shapes, outer: str, inner: str = r"\.(\d+)\.", first: int = 0) -> tuple[int, ...]:
    """Return how many blocks each stage has, counted from `first`."""
    stages = _count(shapes, rf"{outer}\.(\d+)\.")
    return tuple(_count(shapes, rf"{outer}\.{stage}{inner}") - first for stage in range(stages))


def _axes(shape: tuple[int, ...]) -> int:
    return len(shape) - 2


def _spec(model: str, dim: int, channels: int, classes: int, options: dict[str, Value]) -> NetworkSpec:
    return NetworkSpec(name=model, dim=dim, in_channels=channels, out_channels=classes, options=options)


def _residual(model: str, shapes: Shapes, _: Hints) -> Found:
    """Read SegResNet and both forms of LightM-UNet."""
    released = "stem.pointwise.weight" in shapes
    stem = shapes["stem.pointwise.weight" if released else "stem.weight"]
    head = shapes["head.pointwise.weight" if released else "head.weight"]
    channels = shapes["stem.depthwise.weight"][0] if released else stem[1]
    learnt = [name for name in shapes if name.startswith("ups.0.upsample.")]
    options: dict[str, Value] = {
        "width": stem[0],
        "blocks": _counts(shapes, "stages", first=1),
        "decoder_blocks": _counts(shapes, "decoder"),
        "upsample": ("pixelshuffle" if "conv" in learnt[0] else "deconv") if learnt else "interpolate",
    }
    return Found(_spec(model, _axes(stem), channels, head[0], options))


def _staged(model: str, shapes: Shapes, hints: Hints) -> Found:
    """Read nnU-Net's networks and U-Mamba; only transposed convolutions show their strides."""
    inner, kernel = _STAGED[model]
    stages = _count(shapes, r"encoder\.(\d+)\.")
    kernels = [shapes[f"encoder.{i}.{kernel}"] for i in range(stages)]
    dim = _axes(kernels[0])
    first = next(shapes[name] for name in _FIRST if name in shapes)
    shown = _strides(shapes, stages, dim)
    strides = hints.strides or shown
    if not strides:
        raise WeightsError(
            f"the strides of the network {model} do not show in its weights, and this file holds no plan of nnU-Net",
            hint="convert the checkpoint as nnU-Net wrote it, with its init_args, or beside its plans.json",
        )
    if shown and hints.strides and shown[1:] != hints.strides[1:]:
        raise WeightsError(f"the plan has strides {hints.strides}, but the weights those of {shown}")
    options: dict[str, Value] = {
        "features": tuple(shape[0] for shape in kernels),
        "kernels": tuple(shape[2:] for shape in kernels),
        "strides": strides,
        "convs" if model == "unet" else "blocks": _counts(shapes, "encoder", inner),
        "decoder_convs" if model in {"unet", "resenc_unet"} else "decoder_blocks": _counts(shapes, r"decoder\.stages"),
    }
    if model == "umamba_enc" and hints.patch:
        options["patch"] = hints.patch
    return Found(_spec(model, dim, first[1], shapes["decoder.heads.0.weight"][0], options))


# The names of blocks in a stage, and of the convolution that shows width and kernel.
_STAGED = {
    "unet": (r"\.(\d+)\.", "0.conv.weight"),
    "resenc_unet": (r"\.blocks\.(\d+)\.", "blocks.0.conv1.conv.weight"),
    "umamba_bot": (r"\.blocks\.(\d+)\.", "blocks.0.conv1.weight"),
    "umamba_enc": (r"\.blocks\.(\d+)\.", "blocks.0.conv1.weight"),
    "umamba_bot_2024_01": (r"\.blocks\.(\d+)\.", "blocks.0.conv1.conv.weight"),
    "umamba_enc_2024_01": (r"\.blocks\.(\d+)\.", "blocks.0.conv1.conv.weight"),
}
_FIRST = ("encoder.0.stem.0.conv1.weight", "encoder.0.stem.conv.weight", "encoder.0.0.conv.weight")


def _strides(shapes: Shapes, stages: int, dim: int) -> Sizes:
    """Return the strides that transposed convolutions show, coarsest first among them; none where there are none."""
    ups = [shapes.get(f"decoder.ups.{i}.weight") for i in range(stages - 1)]
    if not all(ups):
        return ()
    return ((1,) * dim, *(up[2:] for up in reversed(ups) if up))


def _visual(model: str, shapes: Shapes, _: Hints) -> Found:
    """Read networks of VSS blocks."""
    second = any(".mlp." in name for name in shapes)
    mixer = "encoder.stages.0.0.mixer."
    embed = shapes["embed.proj.weight"]
    width = shapes["encoder.stages.0.0.norm.weight"][0]
    inner = shapes[mixer + "in_proj.weight"][0] // (1 if second else 2)
    options: dict[str, Value] = {
        "width": width,
        "depths": _counts(shapes, r"encoder\.stages"),
        "state_size": shapes[mixer + "A_log"][1],
    }
    channels, head = embed[1], shapes.get("head.weight") or shapes.get("heads.0.weight")
    if model == "vm_unet":
        options["decoder_depths"] = _counts(shapes, "decoder")
    elif model == "swin_umamba_dagger":
        options["decoder_depth"] = _counts(shapes, "decoder")[0]
    elif model.startswith("vmamba"):
        options |= {"generation": 2 if second else 1, "expand": inner / width}
    else:
        channels = shapes["stem.0.weight"][1]
    return Found(_spec(model, _axes(embed), channels, head[0] if head else 1, options))


def _windowed(model: str, shapes: Shapes, hints: Hints) -> Found:
    """Read networks of Swin blocks: the table of relative positions shows heads and window."""
    middle = r"\.blocks\.(\d+)\." if model != "swin_unet" else r"\.(\d+)\."
    prefix = "encoder." if model == "swin_unetr" else ""
    depths = _counts(shapes, rf"{re.escape(prefix)}stages", middle)
    block = "blocks.0" if model != "swin_unet" else "0"
    tables = [shapes[f"{prefix}stages.{i}.{block}.attention.table"] for i in range(len(depths))]
    embed = shapes[f"{prefix}embed.weight"]
    dim = _axes(embed)
    window = (round(tables[0][0] ** (1 / dim)) + 1) // 2
    options: dict[str, Value] = {"depths": depths, "heads": tuple(table[1] for table in tables), "window": window}
    if model == "swin_encoder":
        return Found(_spec(model, dim, embed[1], embed[0], options))
    options["width"] = embed[0]
    assumed: tuple[str, ...] = ()
    if model == "swin_unet":
        options["patch"], assumed = _pixels(hints, window)
        options["positions"] = "positions" in shapes
    return Found(_spec(model, dim, embed[1], shapes["head.weight"][0], options), assumed)


def _pixels(hints: Hints, window: int) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """Return the size of the images of Swin-Unet: of the plan, or square with as many windows as a mask has."""
    if hints.patch:
        return hints.patch, ()
    windows = max((mask[0] for mask in hints.masks), default=0)
    if windows and math.isqrt(windows) ** 2 == windows:
        return (math.isqrt(windows) * window * 4,) * 2, ()
    return (224, 224), ("the size of the images does not show in these weights; the authors' is taken, 224 x 224",)


def _transformer(model: str, shapes: Shapes, hints: Hints) -> Found:
    """Read UNETR: its positions show how many tokens an image has, not along which axis."""
    embed, tokens = shapes["transformer.embed.weight"], shapes["transformer.positions"][1]
    dim, hidden = _axes(embed), embed[0]
    heads = 12 if hidden % 12 == 0 else 1
    assumed = [f"the number of heads does not show in weights; {heads} is taken"]
    patch = tuple(-(-side // _CUBE) * _CUBE for side in hints.patch)
    if math.prod(side // _CUBE for side in patch) != tokens or not patch:
        side = round(tokens ** (1 / dim))
        if side**dim != tokens:
            raise WeightsError(
                f"the {tokens} positions of UNETR fit no image with equal sides, and this file says no size",
                hint="convert the checkpoint as nnU-Net wrote it, with its init_args, or beside its plans.json",
            )
        patch = (side * _CUBE,) * dim
        assumed.append(f"the size of the images is taken to be {' x '.join(map(str, patch))}, with equal sides")
    options: dict[str, Value] = {
        "patch": patch,
        "width": shapes["first.conv1.weight"][0],
        "hidden": hidden,
        "mlp": shapes["transformer.blocks.0.mlp.linear1.weight"][0],
        "heads": heads,
    }
    return Found(_spec(model, dim, embed[1], shapes["head.weight"][0], options), tuple(assumed))


_READERS: dict[str, Callable[[str, Shapes, Hints], Found]] = dict(
    itertools.chain(
        ((name, _residual) for name in ("segresnet", "lightm_unet", "lightm_unet_legacy")),
        ((name, _staged) for name in _STAGED),
        (
            (name, _visual)
            for name in (
                "vm_unet",
                "vmamba",
                "vmamba_backbone",
                "swin_umamba",
                "swin_umamba_first",
                "swin_umamba_dagger",
            )
        ),
        ((name, _windowed) for name in ("swin_unet", "swin_unetr", "swin_encoder")),
        (("unetr", _transformer),),
    )
)
