"""Paired labels are recognised by name, and the axis that tells them apart is never mirrored."""

from pathlib import Path

import pytest

from mambino.core.options import PlanOptions
from mambino.imageio.folders import open_dataset
from mambino.planning.choice import choose
from mambino.planning.measure import measured
from mambino.planning.sides import mirror_axes, paired_names
from tests.places import DATA, needs_shared
from tests.planning.measured import ONE, SIDES, facts, fingerprint, price


@pytest.mark.parametrize(
    "names",
    [
        ("left_parotid", "right_parotid"),
        ("Parotid Left", "Parotid Right"),
        ("L kidney", "R kidney"),
        ("kidney-L", "kidney-R"),
        ("lt optic nerve", "rt optic nerve"),
        ("LeftLung", "RightLung"),
        ("LtEye", "RtEye"),
        ("LEFT_HIP", "RIGHT_HIP"),
        ("upper lobe left 2", "upper lobe right 2"),
    ],
)
def test_names_that_differ_by_a_side_are_a_pair(names):
    assert paired_names(names) == (names,)
    assert paired_names(names[::-1]) == (names,)


@pytest.mark.parametrize(
    "names", [("liver", "spleen"), ("left_lung", "right_kidney"), ("lumbar", "rumbar"), ("left_lung", "left_kidney")]
)
def test_other_names_are_not(names):
    assert paired_names(names) == ()


def test_without_pairs_every_axis_may_be_mirrored():
    assert mirror_axes(fingerprint([facts()]), ONE).value == (0, 1, 2)


def test_in_a_volume_turned_to_ras_the_last_axis_tells_left_from_right():
    assert mirror_axes(fingerprint([facts()]), SIDES).value == (0, 1)
    centres = {"1": (0.5, 0.6, 0.3), "2": (0.5, 0.2, 0.6)}
    assert mirror_axes(fingerprint([facts(centres=centres)] * 3), SIDES).value == (0, 1)


def test_in_a_volume_whose_masks_say_otherwise_the_masks_are_believed():
    cases = [facts(centres={"1": (0.5, 0.7, 0.5 + s), "2": (0.5, 0.3, 0.5 - s)}) for s in (0.1, -0.1) * 3]
    assert mirror_axes(fingerprint(cases), SIDES).value == (0, 2)


@pytest.mark.parametrize("axis", [0, 1])
def test_in_pictures_the_masks_tell_the_axis(axis):
    cases = []
    for number in range(6):
        left, right = [0.5, 0.5 + 0.02 * (-1) ** number], [0.5, 0.5]
        left[axis], right[axis] = 0.7, 0.3
        cases.append(facts(shape=(40, 50), spacing=(1.0, 1.0), centres={"1": tuple(left), "2": tuple(right)}))
    chosen = mirror_axes(fingerprint(cases), SIDES)
    assert chosen.value == (1 - axis,)
    assert "left_lung and right_lung" in chosen.why


@needs_shared
@pytest.mark.parametrize(("name", "mirror"), [("cxr_lungs", (0,)), ("ct_headneck", (0, 1)), ("skin_ph2", (0, 1))])
def test_real_data_is_not_mirrored_from_left_to_right(tmp_path, name, mirror):
    dataset = open_dataset(DATA / name)
    found = measured(dataset, tmp_path / "fingerprint.json", workers=1)
    assert mirror_axes(found, dataset.labels).value == mirror


@needs_shared
def test_a_2d_network_on_volumes_counts_the_axes_of_its_slices(tmp_path: Path):
    dataset = open_dataset(DATA / "ct_headneck")
    found = measured(dataset, tmp_path / "fingerprint.json", workers=1)
    made = choose(dataset, found, PlanOptions(device="cuda"), measure=price())
    config = made.config("2d-unet")
    assert made.config("3d-unet").mirror == (0, 1)  # z, y, x without x
    assert config.slice_axis == 1  # leaves z, x
    assert config.mirror == (0,)
