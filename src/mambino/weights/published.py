"""What authors published: which weights, where a person gets them, under which licence, and what the papers claim."""

from mambino.core.records import record


@record
class Published:
    """One set of weights.

    Attributes:
        network: ours that they fit.
        weights: what they were trained on.
        file: its name, or what is known of it.
        where: whose repository leads to it; mambino downloads nothing.
        licence: of the published code; "none stated" where we found none.
        claimed: what the paper, or for VMamba its repository, reports.
        measured: what we measured with them; nothing yet where empty.
    """

    network: str
    weights: str
    file: str
    where: str
    licence: str
    claimed: str
    measured: str = ""


_NNUNET = "a checkpoint of nnU-Net"


def _vmamba(weights: str, file: str, claimed: str, release: str = "") -> Published:
    return Published(
        network="vmamba",
        weights=f"VMamba-{weights}, ImageNet, 1000 classes",
        file=file,
        where="github.com/MzeroMiko/VMamba" + release,
        licence="MIT",
        claimed=f"top-1 {claimed} %",
    )


def _swin_umamba(network: str, abdomen: str, endoscopy: str, microscopy: str) -> tuple[Published, ...]:
    """Return the three sets of a network; their scripts evaluate these epochs."""
    return tuple(
        Published(
            network=network,
            weights=weights,
            file=f"{_NNUNET}, checkpoint_{epoch}",
            where="github.com/JiarunLiu/Swin-UMamba",
            licence="Apache-2.0",
            claimed=claimed,
        )
        for weights, epoch, claimed in (
            ("abdominal MR (AMOS22)", 99, abdomen),
            ("endoscopy (EndoVis17)", 249, endoscopy),
            ("microscopy (NeurIPS22)", 349, microscopy),
        )
    )


def _umamba(network: str, weights: str, claimed: str) -> Published:
    return Published(
        network=network,
        weights=weights,
        file=_NNUNET,
        where="github.com/bowang-lab/U-Mamba",
        licence="Apache-2.0",
        claimed=claimed,
    )


def _vm_unet(weights: str, claimed: str) -> Published:
    return Published(
        network="vm_unet",
        weights=weights,
        file="best*.pth",
        where="github.com/JCruan519/VM-UNet",
        licence="Apache-2.0",
        claimed=claimed,
    )


def _lightm(weights: str, claimed: str) -> Published:
    return Published(
        network="lightm_unet_legacy",  # which the paper's figures describe
        weights=weights,
        file=_NNUNET,
        where="github.com/MrBlankness/LightM-UNet",
        licence="Apache-2.0",
        claimed=claimed,
    )


_PUBLISHED = (
    _vmamba("T, first generation", "vssmtiny_dp01_ckpt_epoch_292.pth", "82.2", ", release #v0cls"),
    _vmamba("S, first generation", "vssmsmall_dp03_ckpt_epoch_238.pth", "83.5"),
    _vmamba("T[s1l8], second generation", "vssm1_tiny_0230s_ckpt_epoch_264.pth", "82.6"),
    _vmamba("T[s2l5], second generation", "vssm_tiny_0230_ckpt_epoch_262.pth", "82.5"),
    _vmamba("S[s2l15], second generation", "vssm_small_0229_ckpt_epoch_222.pth", "83.6"),
    _vmamba("S[s1l20], second generation", "vssm1_small_0229s_ckpt_epoch_240.pth", "83.3"),
    _vm_unet("skin lesions (ISIC17)", "mIoU 80.23, Dice 89.03"),
    _vm_unet("skin lesions (ISIC18)", "mIoU 81.35, Dice 89.71"),
    _vm_unet("abdominal CT (Synapse)", "Dice 81.08, HD95 19.21"),
    *_swin_umamba("swin_umamba", "Dice .7760, NSD .8421", "Dice .6767, NSD .6922", "F1 .5806"),
    *_swin_umamba("swin_umamba_dagger", "Dice .7705, NSD .8376", "Dice .6783, NSD .6933", "F1 .5982"),
    _umamba("umamba_bot_2024_01", "abdominal CT, 3D", "Dice .8683"),
    _umamba("umamba_bot_2024_01", "abdominal MR, 3D", "Dice .8453"),
    _umamba("umamba_bot_2024_01", "abdominal MR, 2D", "Dice .7588, NSD .8285"),
    _umamba("umamba_enc_2024_01", "abdominal CT, 3D", "Dice .8638"),
    _umamba("umamba_enc_2024_01", "abdominal MR, 3D", "Dice .8501"),
    _umamba("umamba_enc_2024_01", "abdominal MR, 2D", "Dice .7625, NSD .8327"),
    _lightm("liver and tumour in CT (LiTS)", "Dice 84.58, mIoU 77.48"),
    _lightm("lungs in radiographs (Montgomery, Shenzhen)", "Dice 96.17, mIoU 92.74"),
    Published(
        network="swin_unet",
        weights="abdominal CT (Synapse)",
        file="the state dict of its wrapper",
        where="github.com/HuCaoFighting/Swin-Unet",
        licence="none stated",
        claimed="Dice 79.13, HD95 21.55",
    ),
)


def list_weights() -> tuple[Published, ...]:
    """Return what is known of published weights that `convert` reads; links and files were not looked up."""
    return _PUBLISHED
