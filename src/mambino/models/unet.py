"""The plain convolutional U-Net of nnU-Net (dynamic-network-architectures, PlainConvUNet)."""

from torch import Tensor, nn

from mambino.errors import OptionError
from mambino.models.shapes import check_coarsest, check_sides
from mambino.nn.conv import conv_blocks
from mambino.nn.decoder import Decoder
from mambino.nn.init import he_normal

Sizes = tuple[tuple[int, ...], ...]


class UNet(nn.Module):
    """nnU-Net's PlainConvUNet: strided convolutions down, transposed ones up, logits at every stage.

    Args:
        dim: 2 or 3.
        in_channels, out_channels: of images and logits.
        features: channels of each stage, finest first.
        kernels, strides: of each stage, `dim` numbers each; 3 everywhere, and 2 after the first stage, if empty.
        convs: convolutions of each encoder stage; 2 everywhere if empty.
        decoder_convs: convolutions of each decoder stage, coarsest first; 2 everywhere if empty.
    """

    def __init__(
        self,
        *,
        dim: int,
        in_channels: int,
        out_channels: int,
        features: tuple[int, ...] = (32, 64, 128, 256, 320, 320),
        kernels: Sizes = (),
        strides: Sizes = (),
        convs: tuple[int, ...] = (),
        decoder_convs: tuple[int, ...] = (),
    ) -> None:
        super().__init__()
        stages = len(features)
        kernels = kernels or ((3,) * dim,) * stages
        strides = strides or ((1,) * dim,) + ((2,) * dim,) * (stages - 1)
        convs, decoder_convs = convs or (2,) * stages, decoder_convs or (2,) * (stages - 1)
        _check(dim, stages, {"kernels": kernels, "strides": strides}, {"convs": convs, "decoder_convs": decoder_convs})
        widths = (in_channels, *features)
        self.encoder = nn.ModuleList(
            conv_blocks(dim, widths[i], widths[i + 1], convs[i], kernels[i], strides[i]) for i in range(stages)
        )
        self.decoder = Decoder(dim, features, kernels, strides, decoder_convs, out_channels)
        self.divisor = _products(strides)
        self.in_channels = in_channels
        self.apply(he_normal)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits [b k *s] of images [b c *s]."""
        logits: Tensor = self.decoder.heads[-1](self._features(x)[-1])
        return logits

    def scales(self, x: Tensor) -> tuple[Tensor, ...]:
        """Return the logits of every decoder stage, finest first."""
        found = self._features(x)
        return tuple(head(f) for head, f in zip(self.decoder.heads, found, strict=True))[::-1]

    def _features(self, x: Tensor) -> list[Tensor]:
        check_sides(x, self.in_channels, self.divisor)
        check_coarsest(x, self.divisor)
        skips = []
        for stage in self.encoder:
            x = stage(x)
            skips.append(x)
        found: list[Tensor] = self.decoder(skips)
        return found


def _products(strides: Sizes) -> tuple[int, ...]:
    totals = [1] * len(strides[0])
    for stride in strides:
        totals = [t * s for t, s in zip(totals, stride, strict=True)]
    return tuple(totals)


def _check(dim: int, stages: int, sizes: dict[str, Sizes], counts: dict[str, tuple[int, ...]]) -> None:
    if stages < 2:
        raise OptionError(f"unet: features needs at least 2 stages, got {stages}")
    for name, value in sizes.items():
        if len(value) != stages or any(len(v) != dim for v in value):
            raise OptionError(f"unet: {name} needs {dim} numbers for each of {stages} stages, got {value}")
    even = [k for kernel in sizes["kernels"] for k in kernel if k % 2 == 0]
    if even:
        raise OptionError(f"unet: kernels must be odd, got {even[0]}")
    for name, count in counts.items():
        needed = stages - (name == "decoder_convs")
        if len(count) != needed or min(count) < 1:
            raise OptionError(f"unet: {name} needs {needed} numbers of at least 1, got {count}")
