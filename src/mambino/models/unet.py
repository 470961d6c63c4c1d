"""nnU-Net's two convolutional U-Nets (dynamic-network-architectures): PlainConvUNet and ResidualEncoderUNet."""

from torch import nn

from mambino.models.stages import Sizes, Stages, UShaped, assembled, counted, make_stages
from mambino.nn.conv import ConvBlock, conv_blocks, residual_blocks
from mambino.nn.decoder import Decoder
from mambino.nn.init import still_residuals

RESIDUAL_BLOCKS = (1, 3, 4, 6)
"""Of the first stages of a residual encoder; all further ones have as many as the last of these."""


class UNet(UShaped):
    """nnU-Net's PlainConvUNet: strided convolutions down, transposed ones up, logits at every stage.

    Args:
        dim: 2 or 3.
        in_channels, out_channels: of images and logits.
        features: channels of each stage, finest first.
        kernels, strides: of each stage, `dim` numbers each; 3 everywhere, and 2 after the first stage, if empty.
        convs: convolutions of each encoder stage; 2 everywhere if empty.
        decoder_convs: convolutions of each decoder stage, coarsest first; 2 everywhere if empty.
    """

    channels_last = True  # faster in bfloat16 on a processor: measured

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
        stages = make_stages("unet", dim, features, kernels, strides)
        convs = counted("unet", "convs", convs, (2,) * len(features))
        decoder_convs = counted("unet", "decoder_convs", decoder_convs, (2,) * (len(features) - 1))
        encoder = [
            conv_blocks(dim, before, width, count, kernel, stride)
            for before, width, count, kernel, stride in zip(
                (in_channels, *features[:-1]), features, convs, stages.kernels, stages.strides, strict=True
            )
        ]
        decoder = Decoder(dim, features, stages.kernels, stages.strides, decoder_convs, out_channels)
        super().__init__(in_channels, stages.divisor, encoder, decoder)


class ResEncUNet(UShaped):
    """nnU-Net's ResidualEncoderUNet: residual blocks down, one plain convolution a stage on the way up.

    The presets M, L and XL of nnU-Net are this network: they differ in the memory that its planner may use, so in
    patch, batch and number of stages, which are no options here.

    Args:
        dim: 2 or 3.
        in_channels, out_channels: of images and logits.
        features: channels of each stage, finest first.
        kernels, strides: of each stage, `dim` numbers each; 3 everywhere, and 2 after the first stage, if empty.
        blocks: residual blocks of each encoder stage; 1, 3, 4, and 6 in all others, if empty.
        decoder_convs: convolutions of each decoder stage, coarsest first; 1 everywhere if empty.
    """

    channels_last = True

    def __init__(
        self,
        *,
        dim: int,
        in_channels: int,
        out_channels: int,
        features: tuple[int, ...] = (32, 64, 128, 256, 320, 320),
        kernels: Sizes = (),
        strides: Sizes = (),
        blocks: tuple[int, ...] = (),
        decoder_convs: tuple[int, ...] = (),
    ) -> None:
        stages, count = make_stages("resenc_unet", dim, features, kernels, strides), len(features)
        published = (*RESIDUAL_BLOCKS, *RESIDUAL_BLOCKS[-1:] * count)[:count]
        blocks = counted("resenc_unet", "blocks", blocks, published)
        decoder_convs = counted("resenc_unet", "decoder_convs", decoder_convs, (1,) * (count - 1))
        encoder = residual_encoder(stages, in_channels, blocks)
        decoder = Decoder(dim, features, stages.kernels, stages.strides, decoder_convs, out_channels)
        super().__init__(in_channels, stages.divisor, encoder, decoder)
        self.apply(still_residuals)


def residual_encoder(
    stages: Stages, in_channels: int, blocks: tuple[int, ...], layers: tuple[nn.Module | None, ...] = ()
) -> list[nn.Module]:
    """Return the stages of nnU-Net's residual encoder, each with its layer of `layers` behind it."""
    dim, features = stages.dim, stages.features
    stem = ConvBlock(dim, in_channels, features[0], stages.kernels[0], (1,) * dim)
    rows = [
        residual_blocks(dim, before, width, count, kernel, stride)
        for before, width, count, kernel, stride in zip(
            (features[0], *features[:-1]), features, blocks, stages.kernels, stages.strides, strict=True
        )
    ]
    return assembled(stem, rows, layers or (None,) * len(rows))
