"""The smallest options of each network, which buy it every contract test; and what to feed it."""

from mambino.core.plan import NetworkSpec
from mambino.models import MODELS, describe

SMALLEST = {
    "lightm_unet": {"width": 8, "blocks": (1, 1), "decoder_blocks": (1,)},
    "lightm_unet_legacy": {"width": 8, "blocks": (1, 1), "decoder_blocks": (1,)},
    "unet": {"features": (4, 6, 8), "convs": (1, 2, 1), "decoder_convs": (2, 1)},
    "vm_unet": {"width": 16, "depths": (1, 1), "decoder_depths": (1, 1), "state_size": 2},
    "vmamba": {"width": 4, "depths": (1, 1), "state_size": 2},
    "vmamba_backbone": {"width": 4, "depths": (1, 1), "state_size": 2},
}

# Parameters of these, 2D and 3D, with two channels in and three out.
PARAMETERS = {
    "lightm_unet": (12043, 12223),
    "lightm_unet_legacy": (13152, 15744),
    "unet": (2758, 7654),
    "vm_unet": (32423, 49063),
    "vmamba": (2095, 3551),
    "vmamba_backbone": (2076, 3532),
}

EVERY = [(name, dim) for name in sorted(MODELS) for dim in describe(name).dims]
CASES = [(name, dim) for name, dim in EVERY if describe(name).kind == "segmentation"]


def spec(name: str, dim: int, **options) -> NetworkSpec:
    return NetworkSpec(name=name, dim=dim, in_channels=2, out_channels=3, options={**SMALLEST[name], **options})
