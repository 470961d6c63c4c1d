"""The smallest options of each network, which buy it every contract test; and what to feed it."""

from mambino.core.plan import NetworkSpec
from mambino.models import MODELS, describe, divisor

SMALLEST = {
    "attention_unet": {"features": (4, 6, 8)},
    "lightm_unet": {"width": 8, "blocks": (1, 1), "decoder_blocks": (1,)},
    "lightm_unet_legacy": {"width": 8, "blocks": (1, 1), "decoder_blocks": (1,)},
    "lightm_unet_paper": {"width": 6, "blocks": (2, 1)},
    "mk_unet": {"features": (12, 24)},
    "resenc_unet": {"features": (4, 6, 8), "blocks": (1, 2, 1), "decoder_convs": (1, 2)},
    "segresnet": {"width": 8, "blocks": (1, 1), "decoder_blocks": (1,)},
    "swin_encoder": {"depths": (2, 1), "heads": (1, 1), "window": 3},
    "swin_umamba": {"width": 8, "depths": (1, 1), "state_size": 2},
    "swin_umamba_dagger": {"width": 8, "depths": (1, 1), "decoder_depth": 1, "state_size": 2},
    "swin_umamba_first": {"width": 8, "depths": (1, 1), "state_size": 2},
    "swin_unet": {"width": 4, "depths": (2, 1), "heads": (1, 2), "window": 2, "drop_path": 0.0},
    "swin_unetr": {"width": 4, "depths": (2, 1), "heads": (1, 2), "window": 3},
    "ultralight_vm_unet": {"features": (4, 8, 8, 12)},
    "umamba_bot": {"features": (6, 8, 12), "blocks": (1, 1, 1), "decoder_blocks": (1, 1)},
    "umamba_bot_2024_01": {"features": (4, 6, 8), "blocks": (1, 2, 1), "decoder_blocks": (2, 1)},
    "umamba_enc": {"features": (12, 14), "blocks": (1, 1), "decoder_blocks": (1,)},
    "umamba_enc_2024_01": {"features": (8, 12), "blocks": (1, 2), "decoder_blocks": (1,)},
    "unet": {"features": (4, 6, 8), "convs": (1, 2, 1), "decoder_convs": (2, 1)},
    "vm_unet": {"width": 16, "depths": (1, 1), "decoder_depths": (1, 1), "state_size": 2},
    "vmamba": {"width": 4, "depths": (1, 1), "state_size": 2},
    "vmamba_backbone": {"width": 4, "depths": (1, 1), "state_size": 2},
    "unetr": {"width": 2, "hidden": 4, "mlp": 6, "heads": 2},
}

# Weights that the original has and never uses.
UNUSED = {"swin_umamba_first": ("encoder.stages.1.", "encoder.merges.0.")}

# Networks for images of one size, and that size in 3D; in 2D they take its first two sides.
PATCH = {"swin_unet": (32, 48), "unetr": (32, 48, 16)}

# Parameters of these, by the number of axes, with two channels in and three out.
PARAMETERS = {
    "attention_unet": {2: 3606, 3: 10302},
    "lightm_unet": {2: 12043, 3: 12223},
    "lightm_unet_legacy": {2: 13152, 3: 15744},
    "lightm_unet_paper": {2: 4945, 3: 5305},
    "mk_unet": {2: 8858},
    "resenc_unet": {2: 4268, 3: 11828},
    "segresnet": {2: 8507, 3: 24923},
    "swin_encoder": {2: 1338, 3: 2094},
    "swin_umamba": {2: 22038},
    "swin_umamba_dagger": {2: 8310},
    "swin_umamba_first": {2: 13590},
    "swin_unet": {2: 2674},
    "swin_unetr": {2: 10855, 3: 28135},
    "ultralight_vm_unet": {2: 2751},
    "umamba_bot": {2: 9764, 3: 24020},
    "umamba_bot_2024_01": {2: 6730, 3: 16234},
    "umamba_enc": {2: 13821, 3: 40053},
    "umamba_enc_2024_01": {2: 12291, 3: 28227},
    "unet": {2: 2758, 3: 7654},
    "unetr": {2: 17217, 3: 71657},
    "vm_unet": {2: 32423, 3: 49063},
    "vmamba": {2: 2095, 3: 3551},
    "vmamba_backbone": {2: 2076, 3: 3532},
}

EVERY = [(name, dim) for name in sorted(MODELS) for dim in describe(name).dims]
CASES = [(name, dim) for name, dim in EVERY if describe(name).kind == "segmentation"]


def spec(name: str, dim: int, **options) -> NetworkSpec:
    sized = {"patch": PATCH[name][:dim]} if name in PATCH else {}
    options = {**SMALLEST[name], **sized, **options}
    return NetworkSpec(name=name, dim=dim, in_channels=2, out_channels=3, options=options)


def sides(name: str, dim: int) -> tuple[int, ...]:
    """Return unequal sides that the network takes, with more than one voxel at the bottom.

    In a volume the first is the longest: where two slices are left, oneDNN's bfloat16 gradient of a 3D convolution's
    weights reads memory that nobody wrote (see mambino.training.precision).
    """
    asked = spec(name, dim)
    steps = zip(divisor(asked), (2, 3) if dim == 2 else (4, 3, 2), strict=True)
    return asked.options.get("patch") or tuple(step * count for step, count in steps)
