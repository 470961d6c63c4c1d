"""On real data, and with the memory of its reference GPU, plans are those of nnU-Net 2.8.1.

nnunet.json holds what its planner chose (`nnUNetv2_plan_experiment`, defaults), axis by axis;
benchmarks/planning.py says how to make such plans again, and prints both side by side.
"""

import itertools
import json
from pathlib import Path

import pytest

from mambino.core.options import PlanOptions
from mambino.imageio.folders import open_dataset
from mambino.planning.choice import choose
from mambino.planning.measure import measured
from tests.places import DATA, needs_shared
from tests.planning.measured import price

THEIRS = json.loads((Path(__file__).parent / "nnunet.json").read_text())


@needs_shared
@pytest.mark.parametrize("name", sorted(THEIRS))
def test_the_plan_is_that_of_nnunet(name, tmp_path):
    dataset = open_dataset(DATA / name)
    found = measured(dataset, tmp_path / "fingerprint.json", workers=1)
    made = choose(dataset, found, PlanOptions(device="cuda", memory=8.0), measure=price(seconds=None))
    assert {f"{config.dim}d" for config in made.configs.values()} == set(THEIRS[name])
    for dim, theirs in THEIRS[name].items():
        ours = made.config(f"{dim}-unet")
        assert [channel.scheme for channel in ours.normalise] == theirs["schemes"]
        assert [channel.inside for channel in ours.normalise] == theirs["inside"]
        assert list(ours.network.options["features"]) == theirs["features"]
        assert ours.batch == theirs["batch"]
        assert any(_same(axes, theirs["axes"]) for axes in itertools.permutations(_axes(ours)))


def _axes(config):
    strides, kernels = (zip(*config.network.options[name], strict=True) for name in ("strides", "kernels"))
    return list(zip(config.spacing, config.patch, strides, kernels, strict=True))


def _same(ours, theirs):
    return all(
        (axis[0], axis[1]) == (pytest.approx(other["spacing"], rel=1e-4), other["patch"])
        and list(axis[2]) == other["strides"]
        and list(axis[3]) == other["kernels"]
        for axis, other in zip(ours, theirs, strict=True)
    )
