"""Published checkpoints, known by their keys and shapes, fit our networks through the tables: none is left."""

import gzip
import json
import re

import pytest
import torch

from mambino.core.plan import NetworkSpec
from mambino.models import build
from mambino.weights.convert import recognise
from mambino.weights.convert.rules import renamed
from tests.places import SHARED

KEYS = SHARED / "reference" / "keys"
pytestmark = pytest.mark.skipif(not KEYS.is_dir(), reason="the inventories of keys are not beside this checkout")


def spec(name, dim, channels, classes, **options):
    return NetworkSpec(name=name, dim=dim, in_channels=channels, out_channels=classes, options=options)


def second(depths, expand):
    return spec("vmamba", 2, 3, 1000, depths=depths, generation=2, state_size=1, expand=expand)


SEVEN = (32, 64, 128, 256, 512, 512, 512)
# Slices of a volume lie far apart: the second and the last stage leave them as they are.
FLAT = {"strides": ((1, 1, 1), (1, 2, 2), *((2, 2, 2),) * 3, (1, 2, 2))}
SPECS = {
    "lightmunet_2d_xray": spec("lightm_unet", 2, 3, 2),
    "lightmunet_3d_lits": spec("lightm_unet", 3, 1, 3),
    "lightmunet_legacy_2d_xray": spec("lightm_unet_legacy", 2, 3, 2),
    "lightmunet_legacy_3d_lits": spec("lightm_unet_legacy", 3, 1, 3),
    "nnunet_plain_2d": spec("unet", 2, 1, 14, features=SEVEN),
    "nnunet_plain_3d": spec("unet", 3, 1, 3),
    "nnunet_resenc_3d": spec("resenc_unet", 3, 1, 3),
    "segresnet_3d": spec("segresnet", 3, 1, 3),
    "swinumamba_abdomenmr": spec("swin_umamba", 2, 1, 14),
    "swinumamba_endoscopy": spec("swin_umamba", 2, 3, 8),
    "swinumamba_microscopy": spec("swin_umamba", 2, 3, 3),
    "swinumamba_abdomenmr_first_version": spec("swin_umamba_first", 2, 1, 14),
    "swinumambad_abdomenmr": spec("swin_umamba_dagger", 2, 1, 14),
    "swinumambad_endoscopy": spec("swin_umamba_dagger", 2, 3, 8),
    "swinumambad_microscopy": spec("swin_umamba_dagger", 2, 3, 3),
    "swinunet_synapse": spec("swin_unet", 2, 3, 9),
    "swinunetr_2d": spec("swin_unetr", 2, 1, 14),
    "swinunetr_3d": spec("swin_unetr", 3, 1, 3),
    "umamba_bot_202401_2d_abdomenmr": spec("umamba_bot_2024_01", 2, 1, 14, features=SEVEN),
    "umamba_enc_202401_2d_abdomenmr": spec("umamba_enc_2024_01", 2, 1, 14, features=SEVEN),
    "umamba_bot_202403_2d_abdomenmr": spec("umamba_bot", 2, 1, 14, features=SEVEN),
    "umamba_enc_202403_2d_abdomenmr": spec("umamba_enc", 2, 1, 14, features=SEVEN, patch=(320, 320)),
    "umamba_bot_202401_3d_abdomenmr": spec("umamba_bot_2024_01", 3, 1, 14, **FLAT),
    "umamba_enc_202401_3d_abdomenmr": spec("umamba_enc_2024_01", 3, 1, 14, **FLAT),
    "umamba_bot_202403_3d_abdomenmr": spec("umamba_bot", 3, 1, 14, **FLAT),
    "umamba_enc_202403_3d_abdomenmr": spec("umamba_enc", 3, 1, 14, patch=(48, 160, 224), **FLAT),
    "unetr_3d": spec("unetr", 3, 1, 3, patch=(128, 128, 128)),
    "vmamba_tiny_v0": spec("vmamba", 2, 3, 1000),
    "vmamba_tiny_v0_newnames": spec("vmamba", 2, 3, 1000),
    "vmamba_small_v0": spec("vmamba", 2, 3, 1000, depths=(2, 2, 27, 2)),
    "vmamba_tiny_v2_s1l8": second((2, 2, 8, 2), 1.0),
    "vmamba_tiny_v2_s2l5": second((2, 2, 5, 2), 2.0),
    "vmamba_small_v2_s2l15": second((2, 2, 15, 2), 2.0),
    "vmamba_small_v2_s1l20": second((2, 2, 20, 2), 1.0),
    "vmunet_isic": spec("vm_unet", 2, 3, 1),
    "vmunet_synapse": spec("vm_unet", 2, 3, 9),
    "vmunet_ctor_default": spec("vm_unet", 2, 3, 1, depths=(2, 2, 9, 2), decoder_depths=(2, 9, 2, 2)),
}


def test_every_inventory_is_tested():
    assert {path.name.removesuffix(".json.gz") for path in KEYS.glob("*.json.gz")} == set(SPECS)


@pytest.mark.parametrize("name", SPECS)
def test_every_key_finds_its_place_and_no_place_stays_empty(name):
    keys = json.loads(gzip.decompress((KEYS / f"{name}.json.gz").read_bytes()))
    source = recognise(keys)
    assert source.model == SPECS[name].name
    with torch.device("meta"):
        wanted = {key: list(value.shape) for key, value in build(SPECS[name]).state_dict().items()}
    dropped = {key for key in keys if any(re.search(pattern, key) for pattern in source.drop)}
    assert {renamed(key, source): shape for key, shape in keys.items() if key not in dropped} == wanted
    assert all(re.search(r"attn_mask$|_index$", key) for key in dropped)
