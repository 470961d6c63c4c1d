"""Networks by name."""

import difflib
import inspect
from importlib import import_module
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any

from mambino.core.plan import NetworkSpec
from mambino.core.records import record
from mambino.errors import OptionError

if TYPE_CHECKING:
    from torch import nn

MODELS: dict[str, str] = {
    "lightm_unet": "mambino.models.lightm_unet:LightMUNet",
    "lightm_unet_legacy": "mambino.models.lightm_unet:LightMUNetLegacy",
    "lightm_unet_paper": "mambino.models.lightm_unet:LightMUNetPaper",
    "mk_unet": "mambino.models.mk_unet:MKUNet",
    "resenc_unet": "mambino.models.unet:ResEncUNet",
    "segresnet": "mambino.models.segresnet:SegResNet",
    "swin_encoder": "mambino.models.swin_unetr:SwinEncoder",
    "swin_umamba": "mambino.models.swin_umamba:SwinUMamba",
    "swin_umamba_dagger": "mambino.models.swin_umamba:SwinUMambaDagger",
    "swin_umamba_first": "mambino.models.swin_umamba:SwinUMambaFirst",
    "swin_unet": "mambino.models.swin_unet:SwinUNet",
    "swin_unetr": "mambino.models.swin_unetr:SwinUNETR",
    "ultralight_vm_unet": "mambino.models.ultralight:UltraLightVMUNet",
    "umamba_bot": "mambino.models.umamba:UMambaBot",
    "umamba_bot_2024_01": "mambino.models.umamba:UMambaBot202401",
    "umamba_enc": "mambino.models.umamba:UMambaEnc",
    "umamba_enc_2024_01": "mambino.models.umamba:UMambaEnc202401",
    "unet": "mambino.models.unet:UNet",
    "vm_unet": "mambino.models.vm_unet:VMUNet",
    "vmamba": "mambino.models.vmamba:VMamba",
    "vmamba_backbone": "mambino.models.vmamba:VMambaBackbone",
    "unetr": "mambino.models.unetr:UNETR",
}


@record
class Description:
    """What a network is, and what is said of it.

    Attributes:
        name: as `build` takes it.
        title: as its authors call it.
        paper: where it was published.
        year: of that.
        dims: numbers of axes it works on.
        claimed: parameters that the paper states.
        counted: parameters that we count with the paper's options.
        note: why these differ, or what else to know.
        kind: "segmentation"; or "classifier", which gives numbers for the whole image, or "backbone", which gives
            features: what others are built on, and nothing that `train` takes.
    """

    name: str
    title: str
    paper: str
    year: int
    dims: tuple[int, ...]
    claimed: str
    counted: str
    note: str
    kind: str = "segmentation"


_UMAMBA_PAPER = "Ma et al., U-Mamba: enhancing long-range dependency for biomedical segmentation, arXiv 2401.04722"
_LIGHTM_PAPER = "Liao et al., LightM-UNet: Mamba assists in lightweight UNet, arXiv 2403.05246"
_SWIN_UMAMBA_PAPER = "Liu et al., Swin-UMamba: Mamba-based UNet with ImageNet-based pretraining, arXiv 2402.03302"
_VMAMBA_PAPER = "Liu et al., VMamba: visual state space model, arXiv 2401.10166"

_DESCRIPTIONS = (
    Description(
        name="lightm_unet",
        title="LightM-UNet",
        paper=_LIGHTM_PAPER,
        year=2024,
        dims=(2, 3),
        claimed="1.09 M in 2D, 1.87 M in 3D",
        counted="5.01 M in 2D, 5.02 M in 3D",
        note="the released code is newer than the one the paper's counts are of; see lightm_unet_legacy",
    ),
    Description(
        name="lightm_unet_legacy",
        title="LightM-UNet, code before 29 March 2024",
        paper=_LIGHTM_PAPER,
        year=2024,
        dims=(2, 3),
        claimed="1.09 M in 2D, 1.87 M in 3D",
        counted="5.38 M in 2D, 6.15 M in 3D",
        note="the paper's counter (thop) saw nothing inside the Mamba blocks, 4.28 M parameters",
    ),
    Description(
        name="lightm_unet_paper",
        title="LightM-UNet, as the paper describes it",
        paper=_LIGHTM_PAPER,
        year=2024,
        dims=(2, 3),
        claimed="1.09 M in 2D, 1.87 M in 3D",
        counted="1.03 M in 2D, 1.71 M in 3D",
        note="no code of it was released; our width is the largest that keeps what the paper promises",
    ),
    Description(
        name="segresnet",
        title="SegResNet",
        paper="Myronenko, 3D MRI brain tumor segmentation using autoencoder regularization, arXiv 1810.11654",
        year=2018,
        dims=(2, 3),
        claimed="6 M in 2D",
        counted="6.30 M in 2D, 18.80 M in 3D",
        note="MONAI's network without the autoencoder, in the size of the Mamba papers' comparisons, whose count it is",
    ),
    Description(
        name="swin_unet",
        title="Swin-Unet",
        paper="Cao et al., Swin-Unet: Unet-like pure transformer, arXiv 2105.05537",
        year=2021,
        dims=(2,),
        claimed="27.17 M",
        counted="27.17 M",
        note="takes images of one size, its option patch; the count is one that later papers quote",
    ),
    Description(
        name="swin_unetr",
        title="SwinUNETR",
        paper="Hatamizadeh et al., Swin UNETR: Swin transformers for brain tumors in MRI, arXiv 2201.01266",
        year=2022,
        dims=(2, 3),
        claimed="25 M in 2D",
        counted="25.14 M in 2D, 62.19 M in 3D",
        note="MONAI's network, two neighbours of eight unseen where 3D patches merge; the Mamba papers count it",
    ),
    Description(
        name="resenc_unet",
        title="nnU-Net's ResidualEncoderUNet",
        paper="Isensee et al., nnU-Net revisited, arXiv 2404.09556",
        year=2024,
        dims=(2, 3),
        claimed="",
        counted="102.35 M in 3D with 6 stages",
        note="the presets M, L and XL give its planner more or less memory, so patch, batch and stages differ",
    ),
    Description(
        name="umamba_bot",
        title="U-Mamba_Bot, code since March 2024",
        paper=_UMAMBA_PAPER,
        year=2024,
        dims=(2, 3),
        claimed="",
        counted="47.53 M at 320x320, 64.80 M at 512x512 in 2D; 42.12 M at 128x128x128 in 3D",
        note="another network than the paper's, which is umamba_bot_2024_01",
    ),
    Description(
        name="umamba_bot_2024_01",
        title="U-Mamba_Bot, code of January 2024",
        paper=_UMAMBA_PAPER,
        year=2024,
        dims=(2, 3),
        claimed="63 M at 320x320, 86 M at 512x512 in 2D",
        counted="63.34 M, 86.15 M in 2D; 58.41 M at 128x128x128 in 3D",
        note="they agree; the LightM-UNet paper counts it with 244.1 M in 2D and 173.53 M in 3D",
    ),
    Description(
        name="umamba_enc",
        title="U-Mamba_Enc, code since March 2024",
        paper=_UMAMBA_PAPER,
        year=2024,
        dims=(2, 3),
        claimed="",
        counted="47.02 M at 320x320, 64.01 M at 512x512 in 2D; 42.75 M at 128x128x128 in 3D",
        note="another network than the paper's; counted with patch, without which voxels are the tokens everywhere",
    ),
    Description(
        name="umamba_enc_2024_01",
        title="U-Mamba_Enc, code of January 2024",
        paper=_UMAMBA_PAPER,
        year=2024,
        dims=(2, 3),
        claimed="67 M at 320x320, 92 M at 512x512 in 2D",
        counted="67.33 M, 91.84 M in 2D; 59.68 M at 128x128x128 in 3D",
        note="they agree; the operations claimed leave the scan out",
    ),
    Description(
        name="unet",
        title="nnU-Net's PlainConvUNet",
        paper="Isensee et al., nnU-Net: a self-configuring method, Nature Methods 18, 203-211",
        year=2021,
        dims=(2, 3),
        claimed="33 M at 320x320, 46 M at 512x512 in 2D; 31 M at 128x128x128 in 3D",
        counted="33.49 M, 46.33 M in 2D; 31.20 M in 3D",
        note="its width and depth follow from the plan; the LightM-UNet paper counts it with 126.56 M and 88.62 M",
    ),
    Description(
        name="vm_unet",
        title="VM-UNet",
        paper="Ruan et al., VM-UNet: vision Mamba UNet for medical image segmentation, arXiv 2402.02491",
        year=2024,
        dims=(2, 3),
        claimed="27.43 M, elsewhere 22.04 M",
        counted="27.43 M in 2D",
        note="22.04 M is what thop counts: it does not see the parameters of the scans; in 3D it is ours alone",
    ),
    Description(
        name="ultralight_vm_unet",
        title="UltraLight VM-UNet",
        paper="Wu et al., UltraLight VM-UNet: parallel vision Mamba significantly reduces parameters, arXiv 2403.20035",
        year=2024,
        dims=(2,),
        claimed="0.049 M",
        counted="0.049 M",
        note="they agree: 49 457, with three channels and one class",
    ),
    Description(
        name="mk_unet",
        title="MK-UNet",
        paper="Rahman and Marculescu, MK-UNet: multi-kernel lightweight CNN, arXiv 2509.18493",
        year=2025,
        dims=(2,),
        claimed="0.316 M",
        counted="0.316 M",
        note="they agree: 315 566, with three channels and one class; a small CNN to compare small Mamba networks with",
    ),
    Description(
        name="vmamba",
        title="VMamba",
        paper=_VMAMBA_PAPER,
        year=2024,
        dims=(2, 3),
        claimed="tiny 23 M, small 44 M; second generation 30 M to 50 M",
        counted="22.89 M, 44.42 M; 30.25 M to 50.15 M",
        note="a classifier, which VM-UNet and Swin-UMamba are started from; both generations",
        kind="classifier",
    ),
    Description(
        name="vmamba_backbone",
        title="VMamba as a backbone",
        paper=_VMAMBA_PAPER,
        year=2024,
        dims=(2, 3),
        claimed="",
        counted="22.13 M, tiny, first generation",
        note="the features of all four stages, normalised",
        kind="backbone",
    ),
    Description(
        name="swin_umamba",
        title="Swin-UMamba",
        paper=_SWIN_UMAMBA_PAPER,
        year=2024,
        dims=(2,),
        claimed="60 M",
        counted="59.89 M",
        note="VMamba's encoder, a decoder of convolutions",
    ),
    Description(
        name="swin_umamba_dagger",
        title="Swin-UMamba†",
        paper=_SWIN_UMAMBA_PAPER,
        year=2024,
        dims=(2,),
        claimed="28 M",
        counted="27.50 M",
        note="VMamba's encoder, a decoder of VSS blocks",
    ),
    Description(
        name="swin_umamba_first",
        title="Swin-UMamba, code before 6 March 2024",
        paper=_SWIN_UMAMBA_PAPER,
        year=2024,
        dims=(2,),
        claimed="40 M",
        counted="40.43 M",
        note="the first version of the paper; the deepest stage of its encoder has weights but no use",
    ),
    Description(
        name="swin_encoder",
        title="SwinUNETR's Swin transformer",
        paper="Hatamizadeh et al., Swin UNETR, arXiv 2201.01266",
        year=2022,
        dims=(2, 3),
        claimed="",
        counted="8.06 M in 3D",
        note="the maps of all stages, whose weights are published by themselves; `out_channels` is its width",
        kind="backbone",
    ),
    Description(
        name="unetr",
        title="UNETR",
        paper="Hatamizadeh et al., UNETR: transformers for 3D medical image segmentation, arXiv 2103.10504",
        year=2022,
        dims=(2, 3),
        claimed="87 M in 2D",
        counted="87.43 M at 320x320 in 2D; 93.01 M at 128x128x128 in 3D",
        note="takes images of one size, its option patch; as in MONAI 1.3, the count is the Mamba papers'",
    ),
)


def build(spec: NetworkSpec) -> "nn.Module":
    """Make the network that `spec` describes, with fresh weights.

    Raises:
        OptionError: the name or an option is not known, or a value does not fit.
    """
    network = _find(spec.name)
    known = _options(network)
    for name in spec.options:
        if name not in known:
            raise OptionError(
                f"the network {spec.name} has no option {name!r}; it has {', '.join(known)}", hint=_near(name, known)
            )
    dims = describe(spec.name).dims
    if spec.dim not in dims:
        raise OptionError(f"the network {spec.name} has {' or '.join(map(str, dims))} axes, got {spec.dim}")
    options = {name: _tuples(value) for name, value in spec.options.items()}
    module: nn.Module = network(dim=spec.dim, in_channels=spec.in_channels, out_channels=spec.out_channels, **options)
    return module


def divisor(spec: NetworkSpec) -> tuple[int, ...]:
    """Return what each side of the input of this network must be a multiple of."""
    import torch  # noqa: PLC0415 - names and descriptions are read where torch is not wanted

    with torch.device("meta"):
        return tuple(build(spec).divisor)  # type: ignore[arg-type]


def names() -> tuple[str, ...]:
    """Return the names of all networks, those of other packages among them."""
    return tuple(sorted({**_extensions(), **MODELS}))


def segmenting() -> tuple[str, ...]:
    """Return the names of those that give masks."""
    return tuple(name for name in names() if describe(name).kind == "segmentation")


def list_models() -> tuple[Description, ...]:
    """Describe all networks, those of other packages among them."""
    return tuple(describe(name) for name in names())


def describe(name: str) -> Description:
    """Describe a network.

    One of another package carries its own `Description` in the class attribute `description`.

    Raises:
        OptionError: there is no network of this name.
    """
    own = next((described for described in _DESCRIPTIONS if described.name == name), None)
    if own is not None:
        return own
    network = _find(name)
    blank = Description(name=name, title=name, paper="", year=0, dims=(2, 3), claimed="", counted="", note="")
    described: Description = getattr(network, "description", blank)
    return described


def _find(name: str) -> Any:
    path = {**_extensions(), **MODELS}.get(name)
    if path is None:
        raise OptionError(f"there is no network {name!r}", hint=_near(name, names()))
    module, _, attribute = path.partition(":")
    return getattr(import_module(module), attribute)


def _extensions() -> dict[str, str]:
    return {point.name: point.value for point in entry_points(group="mambino.models")}


def options_of(name: str) -> tuple[str, ...]:
    """Return the names of the options of a network.

    Raises:
        OptionError: there is no network of this name.
    """
    return _options(_find(name))


def _options(network: Any) -> tuple[str, ...]:
    fixed = {"dim", "in_channels", "out_channels"}
    return tuple(name for name in inspect.signature(network).parameters if name not in fixed)


def _near(name: str, known: tuple[str, ...]) -> str:
    found = difflib.get_close_matches(name, known, n=1)
    return f"did you mean {found[0]}?" if found else f"choose from {', '.join(known)}"


def _tuples(value: Any) -> Any:
    """Turn the lists that JSON has into tuples."""
    return tuple(_tuples(v) for v in value) if isinstance(value, list | tuple) else value
