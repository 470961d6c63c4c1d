"""Full-size checkpoints, known by their keys and shapes, fit our networks through the tables: none is left."""

import gzip
import json

import pytest
import torch

from mambino.core.plan import NetworkSpec
from mambino.models import build
from mambino.weights.convert import load_state, recognise
from tests.places import SHARED

KEYS = SHARED / "reference" / "keys"
pytestmark = pytest.mark.skipif(not KEYS.is_dir(), reason="the inventories of keys are not here")


def flat(name, channels, classes, **options):
    return NetworkSpec(name=name, dim=2, in_channels=channels, out_channels=classes, options=options)


def second(depths, expand):
    return flat("vmamba", 3, 1000, depths=depths, generation=2, state_size=1, expand=expand)


SPECS = {
    "vmunet_isic": flat("vm_unet", 3, 1),
    "vmunet_synapse": flat("vm_unet", 3, 9),
    "vmunet_ctor_default": flat("vm_unet", 3, 1, depths=(2, 2, 9, 2), decoder_depths=(2, 9, 2, 2)),
    "vmamba_tiny_v0": flat("vmamba", 3, 1000),
    "vmamba_tiny_v0_newnames": flat("vmamba", 3, 1000),
    "vmamba_small_v0": flat("vmamba", 3, 1000, depths=(2, 2, 27, 2)),
    "vmamba_tiny_v2_s1l8": second((2, 2, 8, 2), 1.0),
    "vmamba_tiny_v2_s2l5": second((2, 2, 5, 2), 2.0),
    "vmamba_small_v2_s2l15": second((2, 2, 15, 2), 2.0),
    "vmamba_small_v2_s1l20": second((2, 2, 20, 2), 1.0),
}


@pytest.mark.filterwarnings("ignore:for .* copying from a non-meta parameter")  # no numbers, only names and shapes
@pytest.mark.parametrize("name", SPECS)
def test_every_key_finds_its_place(name):
    with gzip.open(KEYS / f"{name}.json.gz", "rt") as file:
        state = {key: torch.zeros(1).expand(shape) for key, shape in json.load(file).items()}
    with torch.device("meta"):
        network = build(SPECS[name])
    dropped = load_state(network, state, recognise(state))
    assert all(reason.startswith("another name of") for reason in dropped.values())
