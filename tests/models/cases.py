"""The smallest options of each network, which buy it every contract test; and what to feed it."""

from mambino.core.plan import NetworkSpec
from mambino.models import MODELS

# Fewer than 16 channels where a volume has two slices left: there oneDNN's bfloat16 gradient of a 3D convolution's
# weights reads memory that nobody wrote (torch 2.13 on a processor with AVX512-BF16).
SMALLEST = {
    "lightm_unet": {"width": 8, "blocks": (1, 1), "decoder_blocks": (1,)},
    "lightm_unet_legacy": {"width": 8, "blocks": (1, 1), "decoder_blocks": (1,)},
    "resenc_unet": {"features": (4, 6, 8), "blocks": (1, 2, 1), "decoder_convs": (1, 2)},
    "umamba_bot": {"features": (6, 8, 12), "blocks": (1, 1, 1), "decoder_blocks": (1, 1)},
    "umamba_bot_2024_01": {"features": (4, 6, 8), "blocks": (1, 2, 1), "decoder_blocks": (2, 1)},
    "umamba_enc": {"features": (12, 14), "blocks": (1, 1), "decoder_blocks": (1,)},
    "umamba_enc_2024_01": {"features": (8, 12), "blocks": (1, 2), "decoder_blocks": (1,)},
    "unet": {"features": (4, 6, 8), "convs": (1, 2, 1), "decoder_convs": (2, 1)},
}

# Parameters of these, 2D and 3D, with two channels in and three out.
PARAMETERS = {
    "lightm_unet": (12043, 12223),
    "lightm_unet_legacy": (13152, 15744),
    "resenc_unet": (4268, 11828),
    "umamba_bot": (9764, 24020),
    "umamba_bot_2024_01": (6730, 16234),
    "umamba_enc": (13821, 40053),
    "umamba_enc_2024_01": (12291, 28227),
    "unet": (2758, 7654),
}

CASES = [(name, dim) for name in sorted(MODELS) for dim in (2, 3)]


def spec(name: str, dim: int, **options) -> NetworkSpec:
    return NetworkSpec(name=name, dim=dim, in_channels=2, out_channels=3, options={**SMALLEST[name], **options})
