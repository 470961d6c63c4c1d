"""What the networks are: titles, papers, code, and what to know of their sizes."""

from mambino.core.records import record
from mambino.models.claims import stated


@record
class Description:
    """What a network is, and what is said of it.

    Attributes:
        name: as `build` takes it.
        title: as its authors call it.
        paper: where it was published.
        year: of the paper.
        dims: numbers of axes it works on.
        claimed: parameters that are stated of it in print; `claims` has where, and of what.
        counted: parameters that we count with the paper's options.
        note: why these differ, or what else to know.
        kind: "segmentation"; or "classifier", which gives numbers for the whole image, or "backbone", which gives
            features: what others are built on, and nothing that `train` takes.
        code: repository and commit, or package, that ours equals; empty where none was released.
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
    code: str = ""


_UMAMBA_PAPER = "Ma et al., U-Mamba: enhancing long-range dependency for biomedical segmentation, arXiv 2401.04722"
_LIGHTM_PAPER = "Liao et al., LightM-UNet: Mamba assists in lightweight UNet, arXiv 2403.05246"
_SWIN_UMAMBA_PAPER = "Liu et al., Swin-UMamba: Mamba-based UNet with ImageNet-based pretraining, arXiv 2402.03302"
_VMAMBA_PAPER = "Liu et al., VMamba: visual state space model, arXiv 2401.10166"

DESCRIPTIONS: tuple[Description, ...] = (
    Description(
        name="lightm_unet",
        title="LightM-UNet",
        paper=_LIGHTM_PAPER,
        code="MrBlankness/LightM-UNet, 6b72e27",
        year=2024,
        dims=(2, 3),
        claimed=stated("lightm_unet"),
        counted="5.01 M in 2D, 5.02 M in 3D",
        note="the released code is newer than the one the paper's counts are of; see lightm_unet_legacy",
    ),
    Description(
        name="lightm_unet_legacy",
        title="LightM-UNet, code before 29 March 2024",
        paper=_LIGHTM_PAPER,
        code="MrBlankness/LightM-UNet, b484335",
        year=2024,
        dims=(2, 3),
        claimed=stated("lightm_unet_legacy"),
        counted="5.38 M in 2D, 6.15 M in 3D",
        note="the paper's counter (thop) saw nothing inside the Mamba blocks, 4.28 M parameters",
    ),
    Description(
        name="lightm_unet_paper",
        title="LightM-UNet, as the paper describes it",
        paper=_LIGHTM_PAPER,
        code="",
        year=2024,
        dims=(2, 3),
        claimed=stated("lightm_unet_paper"),
        counted="1.03 M in 2D, 1.71 M in 3D",
        note="no code of it was released; our width is the largest that keeps what the paper promises",
    ),
    Description(
        name="segresnet",
        title="SegResNet",
        paper="Myronenko, 3D MRI brain tumor segmentation using autoencoder regularization, arXiv 1810.11654",
        code="MONAI 1.3",
        year=2018,
        dims=(2, 3),
        claimed=stated("segresnet"),
        counted="6.30 M in 2D, 18.80 M in 3D",
        note="MONAI's network without the autoencoder, in the size of the Mamba papers' comparisons, whose count it is",
    ),
    Description(
        name="swin_unet",
        title="Swin-Unet",
        paper="Cao et al., Swin-Unet: Unet-like pure transformer, arXiv 2105.05537",
        code="HuCaoFighting/Swin-Unet, f48f623",
        year=2021,
        dims=(2,),
        claimed=stated("swin_unet"),
        counted="27.17 M",
        note="takes images of one size, its option patch; the count is one that later papers quote",
    ),
    Description(
        name="swin_unetr",
        title="SwinUNETR",
        paper="Hatamizadeh et al., Swin UNETR: Swin transformers for brain tumors in MRI, arXiv 2201.01266",
        code="MONAI 1.3",
        year=2022,
        dims=(2, 3),
        claimed=stated("swin_unetr"),
        counted="25.14 M in 2D, 62.19 M in 3D",
        note="MONAI's network, two neighbours of eight unseen where 3D patches merge; the Mamba papers count it",
    ),
    Description(
        name="resenc_unet",
        title="nnU-Net's ResidualEncoderUNet",
        paper="Isensee et al., nnU-Net revisited, arXiv 2404.09556",
        code="dynamic-network-architectures 0.2",
        year=2024,
        dims=(2, 3),
        claimed=stated("resenc_unet"),
        counted="102.35 M in 3D with 6 stages",
        note="the presets M, L and XL give its planner more or less memory, so patch, batch and stages differ",
    ),
    Description(
        name="umamba_bot",
        title="U-Mamba_Bot, code since March 2024",
        paper=_UMAMBA_PAPER,
        code="bowang-lab/U-Mamba, 28459e3",
        year=2024,
        dims=(2, 3),
        claimed=stated("umamba_bot"),
        counted="47.53 M at 320x320, 64.80 M at 512x512 in 2D; 42.12 M at 128x128x128 in 3D",
        note="another network than the paper's, which is umamba_bot_2024_01",
    ),
    Description(
        name="umamba_bot_2024_01",
        title="U-Mamba_Bot, code of January 2024",
        paper=_UMAMBA_PAPER,
        code="bowang-lab/U-Mamba, 92a741a",
        year=2024,
        dims=(2, 3),
        claimed=stated("umamba_bot_2024_01"),
        counted="63.34 M, 86.15 M in 2D; 58.41 M at 128x128x128 in 3D",
        note="they agree; the LightM-UNet paper counts it with 244.1 M in 2D and 173.53 M in 3D",
    ),
    Description(
        name="umamba_enc",
        title="U-Mamba_Enc, code since March 2024",
        paper=_UMAMBA_PAPER,
        code="bowang-lab/U-Mamba, 28459e3",
        year=2024,
        dims=(2, 3),
        claimed=stated("umamba_enc"),
        counted="47.02 M at 320x320, 64.01 M at 512x512 in 2D; 42.75 M at 128x128x128 in 3D",
        note="another network than the paper's; counted with patch, without which voxels are the tokens everywhere",
    ),
    Description(
        name="umamba_enc_2024_01",
        title="U-Mamba_Enc, code of January 2024",
        paper=_UMAMBA_PAPER,
        code="bowang-lab/U-Mamba, 92a741a",
        year=2024,
        dims=(2, 3),
        claimed=stated("umamba_enc_2024_01"),
        counted="67.33 M, 91.84 M in 2D; 59.68 M at 128x128x128 in 3D",
        note="they agree; the operations claimed leave the scan out",
    ),
    Description(
        name="unet",
        title="nnU-Net's PlainConvUNet",
        paper="Isensee et al., nnU-Net: a self-configuring method, Nature Methods 18, 203-211",
        code="dynamic-network-architectures 0.2",
        year=2021,
        dims=(2, 3),
        claimed=stated("unet"),
        counted="33.49 M, 46.33 M in 2D; 31.20 M in 3D",
        note="its width and depth follow from the plan; the LightM-UNet paper counts it with 126.56 M and 88.62 M",
    ),
    Description(
        name="vm_unet",
        title="VM-UNet",
        paper="Ruan et al., VM-UNet: vision Mamba UNet for medical image segmentation, arXiv 2402.02491",
        code="JCruan519/VM-UNet, 43c495b",
        year=2024,
        dims=(2, 3),
        claimed=stated("vm_unet"),
        counted="27.43 M in 2D",
        note="22.04 M is what thop counts: it does not see the parameters of the scans; in 3D it is ours alone",
    ),
    Description(
        name="ultralight_vm_unet",
        title="UltraLight VM-UNet",
        paper="Wu et al., UltraLight VM-UNet: parallel vision Mamba significantly reduces parameters, arXiv 2403.20035",
        code="UltraLight VM-UNet, 05e1000",
        year=2024,
        dims=(2,),
        claimed=stated("ultralight_vm_unet"),
        counted="0.049 M",
        note="they agree: 49 457, with three channels and one class",
    ),
    Description(
        name="mk_unet",
        title="MK-UNet",
        paper="Rahman and Marculescu, MK-UNet: multi-kernel lightweight CNN, arXiv 2509.18493",
        code="SLDGroup/MK-UNet",
        year=2025,
        dims=(2,),
        claimed=stated("mk_unet"),
        counted="0.316 M",
        note="they agree: 315 566, with three channels and one class; a small CNN to compare small Mamba networks with",
    ),
    Description(
        name="attention_unet",
        title="Attention U-Net",
        paper="Oktay et al., Attention U-Net: learning where to look for the pancreas, arXiv 1804.03999",
        code="MONAI 1.6",
        year=2018,
        dims=(2, 3),
        claimed=stated("attention_unet"),
        counted="31.7 M in 2D, 94.5 M in 3D",
        note="counted with stages of 64 to 1024 channels, one channel and two classes; what goes up weighs the skips",
    ),
    Description(
        name="vmamba",
        title="VMamba",
        paper=_VMAMBA_PAPER,
        code="MzeroMiko/VMamba, 40678b8 and 2ed52ea",
        year=2024,
        dims=(2, 3),
        claimed=stated("vmamba"),
        counted="22.89 M, 44.42 M; 30.25 M to 50.15 M",
        note="a classifier, which VM-UNet and Swin-UMamba are started from; both generations",
        kind="classifier",
    ),
    Description(
        name="vmamba_backbone",
        title="VMamba as a backbone",
        paper=_VMAMBA_PAPER,
        code="MzeroMiko/VMamba, 40678b8 and 2ed52ea",
        year=2024,
        dims=(2, 3),
        claimed=stated("vmamba_backbone"),
        counted="22.13 M, tiny, first generation",
        note="the features of all four stages, normalised",
        kind="backbone",
    ),
    Description(
        name="swin_umamba",
        title="Swin-UMamba",
        paper=_SWIN_UMAMBA_PAPER,
        code="JiarunLiu/Swin-UMamba, 2c1f72e",
        year=2024,
        dims=(2,),
        claimed=stated("swin_umamba"),
        counted="59.89 M",
        note="VMamba's encoder, a decoder of convolutions",
    ),
    Description(
        name="swin_umamba_dagger",
        title="Swin-UMamba†",
        paper=_SWIN_UMAMBA_PAPER,
        code="JiarunLiu/Swin-UMamba, 2c1f72e",
        year=2024,
        dims=(2,),
        claimed=stated("swin_umamba_dagger"),
        counted="27.50 M",
        note="VMamba's encoder, a decoder of VSS blocks",
    ),
    Description(
        name="swin_umamba_first",
        title="Swin-UMamba, code before 6 March 2024",
        paper=_SWIN_UMAMBA_PAPER,
        code="JiarunLiu/Swin-UMamba, 6855410",
        year=2024,
        dims=(2,),
        claimed=stated("swin_umamba_first"),
        counted="40.43 M",
        note="the first version of the paper; the deepest stage of its encoder has weights but no use",
    ),
    Description(
        name="swin_encoder",
        title="SwinUNETR's Swin transformer",
        paper="Hatamizadeh et al., Swin UNETR, arXiv 2201.01266",
        code="MONAI 1.3",
        year=2022,
        dims=(2, 3),
        claimed=stated("swin_encoder"),
        counted="8.06 M in 3D",
        note="the maps of all stages, whose weights are published by themselves; `out_channels` is its width",
        kind="backbone",
    ),
    Description(
        name="unetr",
        title="UNETR",
        paper="Hatamizadeh et al., UNETR: transformers for 3D medical image segmentation, arXiv 2103.10504",
        code="MONAI 1.3",
        year=2022,
        dims=(2, 3),
        claimed=stated("unetr"),
        counted="87.43 M at 320x320 in 2D; 93.01 M at 128x128x128 in 3D",
        note="takes images of one size, its option patch; as in MONAI 1.3, the count is the Mamba papers'",
    ),
)
