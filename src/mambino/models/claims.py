"""What is said in print of what networks cost, of which network and image, and why our counts differ.

`docs/models.md` sets our counts beside these, written by `tools/list_models.py`.
"""

from mambino.core.plan import NetworkSpec, Value
from mambino.core.records import record


@record
class Claim:
    """A network, an image, and what is said of both; nothing where only our count is known.

    Attributes:
        network: with the options it is stated for.
        size: of the image (voxels).
        data: what such images are of, where that tells the setting.
        parameters: millions, as printed; empty where they are not stated.
        operations: billions, as printed; empty where they are not stated.
        images: how many the operations are of.
        source: where it is stated.
        note: why our count differs, or what else to know.
    """

    network: NetworkSpec
    size: tuple[int, ...]
    data: str
    parameters: str = ""
    operations: str = ""
    images: int = 1
    source: str = ""
    note: str = ""


LIGHTM = "LightM-UNet paper"
LIGHTM_FIGURE = "LightM-UNet paper, figure"
SWIN_UMAMBA = "Swin-UMamba paper"
VMAMBA = "VMamba repository"
LATER = "later papers"
QUOTED = "quoted in print"

ABDOMEN, ENDOSCOPY, MICROSCOPY = "abdominal MR", "endoscopy", "microscopy"
LIVER, LUNGS, SKIN, SLICES = "liver CT", "radiographs", "skin lesions", "abdominal CT"
SIX = (32, 64, 128, 256, 320, 320)
SEVEN = (32, 64, 128, 256, 512, 512, 512)
EIGHT = (*SEVEN, 512)
FLAT = ((1, 1, 1), (1, 2, 2), *((2, 2, 2),) * 3, (1, 2, 2))

_SIZE: dict[str, tuple[int, ...]] = {
    ABDOMEN: (320, 320),
    ENDOSCOPY: (384, 640),
    MICROSCOPY: (512, 512),
    LIVER: (128, 128, 128),
    LUNGS: (512, 512),
    SKIN: (256, 256),
    SLICES: (224, 224),
}
_CHANNELS = {
    ABDOMEN: (1, 14),
    ENDOSCOPY: (3, 8),
    MICROSCOPY: (3, 3),
    LIVER: (1, 3),
    LUNGS: (3, 2),
    SKIN: (3, 1),
    SLICES: (3, 9),
}
"""Channels and outputs; skin lesions have one output, with a sigmoid."""

_FEATURES = {ABDOMEN: SEVEN, ENDOSCOPY: SEVEN, MICROSCOPY: EIGHT, LIVER: SIX, LUNGS: EIGHT}
"""Widths of nnU-Net's stages, as its planner has them for these images."""

_BATCH = {LIVER: 2, LUNGS: 12}
"""Images in a batch of nnU-Net's plan: the LightM-UNet paper states operations of a whole one."""


def claims(model: str = "") -> tuple[Claim, ...]:
    """Return what is said of a network, or of all."""
    return tuple(claim for claim in _CLAIMS if model in {"", claim.network.name})


def stated(model: str) -> str:
    """Return the parameters that are stated of a network, in words: each number once, with where it stands."""
    sizes: dict[tuple[str, str], list[str]] = {}
    for claim in claims(model):
        if claim.parameters:
            size = "x".join(map(str, claim.size))
            sizes.setdefault((claim.parameters, claim.source), []).append(size)
    return "; ".join(f"{number} M at {', '.join(at)} ({source})" for (number, source), at in sizes.items())


def told(claim: Claim) -> str:
    """Return the options of a network in words, without those that nnU-Net's planner or the image's size gives."""
    given = {"features", "strides", "patch"}
    return ", ".join(f"{name} {value}" for name, value in claim.network.options.items() if name not in given)


Options = dict[str, Value]


def _claim(
    model: str,
    data: str,
    parameters: str = "",
    operations: str = "",
    source: str = "",
    note: str = "",
    *,
    options: Options | None = None,
) -> Claim:
    """Return what is said of a network for one of the data sets above."""
    channels, classes = _CHANNELS[data]
    images = _BATCH[data] if operations and source.startswith(LIGHTM) else 1
    return Claim(
        network=_network(model, len(_SIZE[data]), channels, classes, options),
        size=_SIZE[data],
        data=data,
        parameters=parameters,
        operations=operations,
        images=images,
        source=source,
        note=note,
    )


def _network(model: str, dim: int, channels: int, classes: int, options: Options | None = None) -> NetworkSpec:
    return NetworkSpec(name=model, dim=dim, in_channels=channels, out_channels=classes, options=options or {})


def _lightm(model: str, note: str) -> tuple[Claim, ...]:
    """Return what the paper says of LightM-UNet, set beside one of the three networks that it may be of."""
    return (
        _claim(model, LIVER, "1.87", "457.62", LIGHTM, note),
        _claim(model, LUNGS, "1.09", "267", LIGHTM_FIGURE, note),
    )


def _of_nnunet(model: str, *rows: tuple[str, str, str], note: str = "") -> tuple[Claim, ...]:
    """Return what the Swin-UMamba paper says of a network whose width follows from nnU-Net's plan."""
    return tuple(
        _claim(model, data, held, work, SWIN_UMAMBA, note, options={"features": _FEATURES[data]})
        for data, held, work in rows
    )


def _second_umamba(model: str, *rows: tuple[str, str]) -> tuple[Claim, ...]:
    """Return the settings of U-Mamba since March 2024, of which nothing is stated in print."""
    note = "another network than the paper's; the released code takes {} G: it enlarges before a pointwise convolution"
    found = []
    for data, original in rows:
        options: Options = {"features": _FEATURES[data]}
        if model == "umamba_enc":
            options["patch"] = _SIZE[data]
        found.append(_claim(model, data, note=note.format(original), options=options))
    return tuple(found)


def _flat(model: str) -> Claim:
    """Return the setting of U-Mamba's volumes, whose slices lie far apart."""
    network = _network(model, 3, 1, 14, {"features": SIX, "strides": FLAT})
    return Claim(network=network, size=(48, 160, 224), data=ABDOMEN)


def _vmamba(parameters: str, operations: str, depths: tuple[int, ...], expand: float | None = None) -> Claim:
    """Return a classifier; one with `expand` is of the second generation."""
    options: Options = {"depths": depths}
    if expand is not None:
        options |= {"expand": expand, "generation": 2, "state_size": 1}
    return Claim(
        network=_network("vmamba", 2, 3, 1000, options),
        size=(224, 224),
        data="photographs",
        parameters=parameters,
        operations=operations,
        source=VMAMBA,
    )


def _depths(encoder: tuple[int, ...], decoder: tuple[int, ...]) -> Options:
    return {"depths": encoder, "decoder_depths": decoder}


_UNSEEN = (
    "the counter (thop) saw nothing inside the Mamba blocks: 4.28 M parameters and all their operations are missing"
)
_OLDER = "the claim is of the older code, lightm_unet_legacy, and counted as said there"
_OURS = "the width is ours, the largest that keeps the parameters promised; operations are claimed of the older code"
_TWICE = "the encoder is counted four times there, and every convolution of the decoder twice"
_NO_SCAN = "the operations claimed leave the scan out, unlike those of Swin-UMamba in the same table"
_THOP = "thop passes by bare parameters, einsum and the scan"
_UMAMBA = f"{_TWICE}; Mamba is left out"

_CLAIMS: tuple[Claim, ...] = (
    *_lightm("lightm_unet", _OLDER),
    *_lightm("lightm_unet_legacy", _UNSEEN),
    *_lightm("lightm_unet_paper", _OURS),
    _claim("vm_unet", SKIN, "27.43", "", QUOTED),
    _claim("vm_unet", SKIN, "22.04", "4.11", QUOTED, _THOP),
    _claim("vm_unet", SLICES),
    _claim("vm_unet", SKIN, options=_depths((2, 2, 2, 2), (2, 2, 2, 2))),
    _claim("vm_unet", SKIN, options=_depths((2, 2, 9, 2), (2, 2, 2, 1))),
    _claim("vm_unet", SKIN, "44.27", "", LATER, options=_depths((2, 2, 9, 2), (2, 9, 2, 2))),
    _claim("swin_umamba", ABDOMEN, "60", "68.0", SWIN_UMAMBA),
    _claim("swin_umamba", ENDOSCOPY, "60", "163.6", SWIN_UMAMBA),
    _claim("swin_umamba", MICROSCOPY, "60", "174.4", SWIN_UMAMBA),
    _claim("swin_umamba_dagger", ABDOMEN, "28", "18.9", SWIN_UMAMBA, "half a million from both 27 and 28"),
    _claim("swin_umamba_dagger", ENDOSCOPY, "28", "45.3", SWIN_UMAMBA, "half a million from both 27 and 28"),
    _claim("swin_umamba_dagger", MICROSCOPY, "27", "48.2", SWIN_UMAMBA),
    _claim("swin_umamba_first", ABDOMEN, "40", "", f"{SWIN_UMAMBA}, first version", "the deepest stage has no use"),
    *_of_nnunet("umamba_bot_2024_01", (ABDOMEN, "63", "45.7"), (ENDOSCOPY, "63", "109.7"), (MICROSCOPY, "86", "117.8")),
    _claim("umamba_bot_2024_01", LUNGS, "244.1", "12516", LIGHTM_FIGURE, _UMAMBA, options={"features": EIGHT}),
    _claim("umamba_bot_2024_01", LIVER, "173.53", "18055", LIGHTM_FIGURE, _UMAMBA, options={"features": SIX}),
    _flat("umamba_bot_2024_01"),
    *_of_nnunet(
        "umamba_enc_2024_01",
        (ABDOMEN, "67", "49.9"),
        (ENDOSCOPY, "67", "119.8"),
        (MICROSCOPY, "92", "128.7"),
        note=_NO_SCAN,
    ),
    _claim("umamba_enc_2024_01", LIVER, options={"features": SIX}),
    _flat("umamba_enc_2024_01"),
    *_second_umamba("umamba_bot", (ABDOMEN, "41.05"), (ENDOSCOPY, "98.59"), (MICROSCOPY, "101.05"), (LIVER, "969.95")),
    *_second_umamba(
        "umamba_enc", (ABDOMEN, "43.15"), (ENDOSCOPY, "103.97"), (MICROSCOPY, "104.98"), (LIVER, "1001.84")
    ),
    *_of_nnunet("unet", (ABDOMEN, "33", "23.3"), (ENDOSCOPY, "33", "55.9"), (MICROSCOPY, "46", "60.1")),
    _claim("unet", LUNGS, "126.56", "5598", LIGHTM_FIGURE, _TWICE, options={"features": EIGHT}),
    _claim("unet", LIVER, "88.62", "7248", LIGHTM_FIGURE, _TWICE, options={"features": SIX}),
    _claim("resenc_unet", LIVER, note="6 stages of 1, 3, 4, 6, 6, 6 blocks"),
    _claim("segresnet", ABDOMEN, "6", "24.5", SWIN_UMAMBA),
    _claim("segresnet", LIVER, "", "1162", LIGHTM_FIGURE),
    _claim("unetr", ABDOMEN, "87", "42.1", SWIN_UMAMBA, options={"patch": (320, 320)}),
    _claim("unetr", LIVER, "", "1896", LIGHTM_FIGURE, "we cannot explain it", options={"patch": (128, 128, 128)}),
    _claim("swin_unetr", ABDOMEN, "25", "27.9", SWIN_UMAMBA),
    _claim("swin_unetr", LIVER, "", "1578", LIGHTM_FIGURE, "read off a figure, to a few percent"),
    _claim("swin_unet", SLICES, "27.17", "6.16", LATER),
    _vmamba("23", "5.6", (2, 2, 9, 2)),
    _vmamba("44", "11.2", (2, 2, 27, 2)),
    _vmamba("30", "4.9", (2, 2, 8, 2), expand=1.0),
    _vmamba("31", "4.9", (2, 2, 5, 2), expand=2.0),
    _vmamba("50", "8.7", (2, 2, 15, 2), expand=2.0),
    _vmamba("49", "8.6", (2, 2, 20, 2), expand=1.0),
    Claim(network=_network("vmamba_backbone", 2, 3, 1), size=(224, 224), data="photographs"),
    _claim(
        "ultralight_vm_unet",
        SKIN,
        "0.049",
        "0.060",
        "its paper",
        "we have not reproduced the operations; counters of that time see part of Mamba",
    ),
    _claim(
        "mk_unet",
        SKIN,
        "0.316",
        "0.314",
        "its paper",
        "operations claimed are more than those of the convolutions; we have not found out which",
    ),
    Claim(network=_network("swin_encoder", 3, 1, 48), size=(96, 96, 96), data=""),
    *(Claim(network=_network("attention_unet", dim, 1, 2), size=(128,) * dim, data="") for dim in (2, 3)),
)
