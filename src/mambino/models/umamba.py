"""U-Mamba (arXiv 2401.04722): nnU-Net's residual U-Net with Mamba at the bottom or in the encoder, in two generations.

Follows bowang-lab/U-Mamba (Apache-2.0), commits 28459e3 of March 2024 and 92a741a of January 2024. The paper's
numbers are of the older one, which is another network: names here that end in 2024_01.
"""

import math
from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn.functional import conv2d, conv3d, interpolate

from mambino.errors import OptionError, ShapeError
from mambino.models.stages import Sizes, Stages, UShaped, assembled, counted, make_stages
from mambino.models.unet import residual_encoder
from mambino.nn.conv import ResidualBlock, padded_conv, residual_blocks
from mambino.nn.decoder import Decoder
from mambino.nn.dims import CONV, INSTANCE_NORM
from mambino.nn.init import still_residuals
from mambino.nn.mixers import Mixer, Scan, make_mixer
from mambino.nn.tokens import to_image, to_tokens

FEATURES = (32, 64, 128, 256, 320, 320)
POINTWISE = {2: conv2d, 3: conv3d}


class UMambaBot(UShaped):
    """U-Mamba_Bot as released since March 2024: a Mamba layer behind the last stage of the encoder.

    Args:
        dim: 2 or 3. In 2D the finest decoder stage joins no skip.
        in_channels, out_channels: of images and logits.
        features: channels of each stage, finest first.
        kernels, strides: of each stage, `dim` numbers each; 3 everywhere, and 2 after the first stage, if empty.
        blocks: residual blocks of each encoder stage; 2, but 1 in the coarser half, if empty.
        decoder_blocks: of each decoder stage, coarsest first; 2, but 1 where the encoder's rule has come to the
            same number of stages, if empty.
        mixer: "scan" is Mamba; "conv" or "attention" of like width in its place; "none" leaves the layer out.
        scan: "identity" takes the recurrence out of Mamba, and leaves its projections, convolution, gate and norm.
    """

    def __init__(
        self,
        *,
        dim: int,
        in_channels: int,
        out_channels: int,
        features: tuple[int, ...] = FEATURES,
        kernels: Sizes = (),
        strides: Sizes = (),
        blocks: tuple[int, ...] = (),
        decoder_blocks: tuple[int, ...] = (),
        mixer: Mixer = "scan",
        scan: Scan = "selective",
    ) -> None:
        stages = make_stages("umamba_bot", dim, features, kernels, strides)
        counts = _released_counts("umamba_bot", len(features), blocks, decoder_blocks)
        encoder, decoder = _released(stages, in_channels, out_channels, counts, (None,) * len(features))
        super().__init__(in_channels, stages.divisor, encoder, decoder, _layer(features[-1], mixer, scan))


class UMambaEnc(UShaped):
    """U-Mamba_Enc as released since March 2024: Mamba layers behind the stages of the encoder.

    In 3D each stage has one, in 2D every second, counted from the coarsest. With a patch, stages with no more voxels
    than channels read the channels as tokens, each as wide as the stage has voxels: weights are then for images of
    this size alone.

    Args:
        patch: size of all images (voxels); if empty, voxels are the tokens everywhere and images of any size fit.
        dim, in_channels, out_channels, features, kernels, strides, blocks, decoder_blocks, mixer, scan: of `UMambaBot`.
    """

    def __init__(
        self,
        *,
        dim: int,
        in_channels: int,
        out_channels: int,
        features: tuple[int, ...] = FEATURES,
        kernels: Sizes = (),
        strides: Sizes = (),
        blocks: tuple[int, ...] = (),
        decoder_blocks: tuple[int, ...] = (),
        patch: tuple[int, ...] = (),
        mixer: Mixer = "scan",
        scan: Scan = "selective",
    ) -> None:
        stages = make_stages("umamba_enc", dim, features, kernels, strides)
        counts = _released_counts("umamba_enc", len(features), blocks, decoder_blocks)
        few = _few_voxels(stages, patch)
        layers: list[nn.Module | None] = [None] * len(features)
        places = range(len(features) - 1, -1, -2 if dim == 2 else -1)
        for i in places:
            layers[i] = _layer(few[i] or features[i], mixer, scan, channels_as_tokens=few[i] > 0)
        encoder, decoder = _released(stages, in_channels, out_channels, counts, tuple(layers))
        super().__init__(in_channels, stages.divisor, encoder, decoder)
        self.patch = patch if mixer != "none" and any(few[i] for i in places) else ()

    def _features(self, x: Tensor) -> list[Tensor]:
        if self.patch and tuple(x.shape[2:]) != self.patch:
            raise ShapeError(
                f"the network was built for images of {self.patch}, got {tuple(x.shape[2:])}",
                hint="its coarse stages read channels as tokens; build it with this patch, or with none",
            )
        return super()._features(x)


class UMambaBot202401(UShaped):
    """U-Mamba_Bot of January 2024, which the paper measures: residual blocks throughout, transposed convolutions.

    Args:
        blocks: residual blocks of each encoder stage; 2 everywhere if empty.
        decoder_blocks: of each decoder stage, coarsest first; 2 everywhere if empty.
        dim, in_channels, out_channels, features, kernels, strides, mixer, scan: of `UMambaBot`.
    """

    def __init__(
        self,
        *,
        dim: int,
        in_channels: int,
        out_channels: int,
        features: tuple[int, ...] = FEATURES,
        kernels: Sizes = (),
        strides: Sizes = (),
        blocks: tuple[int, ...] = (),
        decoder_blocks: tuple[int, ...] = (),
        mixer: Mixer = "scan",
        scan: Scan = "selective",
    ) -> None:
        stages = make_stages("umamba_bot_2024_01", dim, features, kernels, strides)
        counts = _even_counts("umamba_bot_2024_01", len(features), blocks, decoder_blocks)
        encoder = residual_encoder(stages, in_channels, counts[0])
        decoder = _residual_decoder(stages, out_channels, counts[1])
        super().__init__(in_channels, stages.divisor, encoder, decoder, _layer(features[-1], mixer, scan))


class UMambaEnc202401(UShaped):
    """U-Mamba_Enc of January 2024, which the paper measures: as its Bot, with a Mamba layer behind every stage.

    Residual blocks begin as their way past, which those of Bot do not.

    Args:
        dim, in_channels, out_channels, features, kernels, strides, mixer, scan: of `UMambaBot`.
        blocks, decoder_blocks: of `UMambaBot202401`.
    """

    def __init__(
        self,
        *,
        dim: int,
        in_channels: int,
        out_channels: int,
        features: tuple[int, ...] = FEATURES,
        kernels: Sizes = (),
        strides: Sizes = (),
        blocks: tuple[int, ...] = (),
        decoder_blocks: tuple[int, ...] = (),
        mixer: Mixer = "scan",
        scan: Scan = "selective",
    ) -> None:
        stages = make_stages("umamba_enc_2024_01", dim, features, kernels, strides)
        counts = _even_counts("umamba_enc_2024_01", len(features), blocks, decoder_blocks)
        layers = tuple(_layer(width, mixer, scan) for width in features)
        encoder = residual_encoder(stages, in_channels, counts[0], layers)
        super().__init__(in_channels, stages.divisor, encoder, _residual_decoder(stages, out_channels, counts[1]))
        self.apply(still_residuals)


class MambaLayer(nn.Module):
    """Normalise and mix tokens, with no way past.

    Args:
        width: numbers of a token.
        channels_as_tokens: whether tokens are channels, each of all voxels; else voxels, row by row.
        mixer, scan: of `nn.mixers.make_mixer`.
    """

    def __init__(
        self, width: int, *, channels_as_tokens: bool = False, mixer: Mixer = "scan", scan: Scan = "selective"
    ) -> None:
        super().__init__()
        self.channels_as_tokens = channels_as_tokens
        self.norm = nn.LayerNorm(width)
        self.mixer = make_mixer(mixer, width, scan=scan)

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.flatten(2) if self.channels_as_tokens else to_tokens(x)
        mixed: Tensor = self.mixer(self.norm(tokens))
        return mixed.reshape(x.shape) if self.channels_as_tokens else to_image(mixed, x.shape[2:])


class ProjectedBlock(nn.Module):
    """Two convolutions with norms; the way past them is a plain pointwise convolution, also where nothing changes.

    Where that strides, the voxels that it sees are taken out first. On processors with AVX2 alone, with one thread and
    fewer than eight channels that lie last, oneDNN's gradient of the strided one writes beyond its memory (oneDNN 3.12
    in torch 2.13).
    """

    def __init__(
        self, dim: int, in_channels: int, out_channels: int, kernel: Sequence[int], stride: Sequence[int]
    ) -> None:
        super().__init__()
        one = (1,) * dim
        self.conv1 = padded_conv(dim, in_channels, out_channels, kernel, stride)
        self.conv2 = padded_conv(dim, out_channels, out_channels, kernel, one)
        self.conv3 = padded_conv(dim, in_channels, out_channels, one, stride)
        self.norm1, self.norm2 = (INSTANCE_NORM[dim](out_channels, eps=1e-5, affine=True) for _ in range(2))
        self.activation = nn.LeakyReLU(1e-2, inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        y = self.activation(self.norm1(self.conv1(x)))
        thin = tuple(slice(None, None, step) for step in self.conv3.stride)
        seen = x[(slice(None), slice(None), *thin)]
        past = POINTWISE[x.ndim - 2](seen, self.conv3.weight, self.conv3.bias)
        result: Tensor = self.activation(self.norm2(self.conv2(y)) + past)
        return result


class Enlarge(nn.Module):
    """Change the channels, then repeat each voxel.

    The original repeats first. The result is the same, but the convolution sees each value once.
    """

    def __init__(self, dim: int, in_channels: int, out_channels: int, stride: Sequence[int]) -> None:
        super().__init__()
        self.stride = tuple(float(s) for s in stride)
        self.conv = CONV[dim](in_channels, out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return interpolate(self.conv(x), scale_factor=self.stride, mode="nearest")


def projected_blocks(
    dim: int, in_channels: int, out_channels: int, count: int, kernel: Sequence[int], stride: Sequence[int]
) -> nn.Sequential:
    """Return a projected block, which changes the channels and takes the stride, and `count` - 1 residual blocks."""
    rest = [ResidualBlock(dim, out_channels, out_channels, kernel, (1,) * dim) for _ in range(count - 1)]
    return nn.Sequential(ProjectedBlock(dim, in_channels, out_channels, kernel, stride), *rest)


Counts = tuple[tuple[int, ...], tuple[int, ...]]
"""Blocks of the stages of encoder and decoder."""

Layers = tuple[nn.Module | None, ...]


def halved(stages: int, counts: Sequence[int]) -> tuple[int, ...]:
    """Return the blocks that the code of March 2024 makes of those of a plan: 1 from half the number of stages on.

    The same rule serves the decoder, whose stages are counted from the coarsest, so its finest ones lose blocks.
    """
    return tuple(count if i < math.ceil(stages / 2) else 1 for i, count in enumerate(counts))


def _released_counts(network: str, stages: int, blocks: tuple[int, ...], decoder_blocks: tuple[int, ...]) -> Counts:
    return (
        counted(network, "blocks", blocks, halved(stages, (2,) * stages)),
        counted(network, "decoder_blocks", decoder_blocks, halved(stages, (2,) * (stages - 1))),
    )


def _even_counts(network: str, stages: int, blocks: tuple[int, ...], decoder_blocks: tuple[int, ...]) -> Counts:
    return (
        counted(network, "blocks", blocks, (2,) * stages),
        counted(network, "decoder_blocks", decoder_blocks, (2,) * (stages - 1)),
    )


def _released(
    stages: Stages, in_channels: int, out_channels: int, counts: Counts, layers: Layers
) -> tuple[list[nn.Module], Decoder]:
    """Return encoder and decoder of March 2024."""
    dim, features, (blocks, decoder_blocks) = stages.dim, stages.features, counts
    stem = projected_blocks(dim, in_channels, features[0], blocks[0], stages.kernels[0], (1,) * dim)
    rows = [
        projected_blocks(dim, before, width, count, kernel, stride)
        for before, width, count, kernel, stride in zip(
            (features[0], *features[:-1]), features, blocks, stages.kernels, stages.strides, strict=True
        )
    ]
    decoder = Decoder(
        dim,
        features,
        stages.kernels,
        stages.strides,
        decoder_blocks,
        out_channels,
        stage=projected_blocks,
        up=Enlarge,
        last_skip=dim != 2,
    )
    return assembled(stem, rows, layers), decoder


def _residual_decoder(stages: Stages, out_channels: int, blocks: tuple[int, ...]) -> Decoder:
    dim, features = stages.dim, stages.features
    return Decoder(dim, features, stages.kernels, stages.strides, blocks, out_channels, stage=residual_blocks)


def _layer(width: int, mixer: Mixer, scan: Scan, *, channels_as_tokens: bool = False) -> nn.Module | None:
    if mixer == "none":
        return None
    return MambaLayer(width, channels_as_tokens=channels_as_tokens, mixer=mixer, scan=scan)


def _few_voxels(stages: Stages, patch: tuple[int, ...]) -> tuple[int, ...]:
    """Return the voxels that a patch has at each stage, or 0 where it has more of them than channels."""
    if not patch:
        return (0,) * len(stages.features)
    if len(patch) != stages.dim or any(p % d or p < 1 for p, d in zip(patch, stages.divisor, strict=True)):
        raise OptionError(f"umamba_enc: patch needs {stages.dim} multiples of {stages.divisor}, got {patch}")
    found, voxels = [], math.prod(patch)
    for width, stride in zip(stages.features, stages.strides, strict=True):
        voxels //= math.prod(stride)
        found.append(voxels if voxels <= width else 0)
    return tuple(found)
