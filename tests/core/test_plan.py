"""A plan holds only configurations that can work."""

from dataclasses import replace

import pytest

from mambino.core.labels import Labels
from mambino.core.plan import Config, NetworkSpec, Normalise, Plan, Resample, read_plan
from mambino.core.recipe import Recipe
from mambino.core.records import dump, parse
from mambino.errors import DataError, FileFormatError, OptionError

NETWORK = NetworkSpec(name="unet", dim=2, in_channels=1, out_channels=2, options={"features": (8, 16)})
CONFIG = Config(
    dim=2, spacing=(1.0, 1.0), normalise=(Normalise(scheme="zscore"),), shape=(64, 64), patch=(64, 64), batch=2,
    network=NETWORK, recipe=Recipe(),
)  # fmt: skip
PLAN = Plan(
    dataset="x", folder="x", channels=("grey",), labels=Labels(names={"a": (1,)}), device="cpu", default="2d-unet",
    configs={"2d-unet": CONFIG},
)  # fmt: skip


def test_a_plan_survives_its_file():
    assert parse(Plan, dump(PLAN), "plan.json") == PLAN


def test_a_typo_in_a_plan_is_named():
    with pytest.raises(FileFormatError, match=r"plan\.json is not a valid plan: .*configs\.2d-unet\.bacth: Unexpected"):
        parse(Plan, dump(PLAN).replace('"batch"', '"bacth"'), "plan.json")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"dim": 4}, "a configuration has 2 or 3 axes, got dim 4"),
        ({"spacing": (1.0,)}, r"spacing needs 2 positive entries, got \(1.0,\)"),
        ({"patch": (64, 0)}, r"patch needs 2 positive entries, got \(64, 0\)"),
        ({"batch": 0}, "batch must be at least 1, got 0"),
        ({"network": replace(NETWORK, dim=3)}, "a configuration of dim 2 holds a network of dim 3"),
        ({"spacing": (1.0, float("nan"))}, r"spacing needs 2 positive entries, got \(1.0, nan\)"),
        ({"spacing": (1.0, 1e-7)}, r"spacing is at least 1e-06, got \(1.0, 1e-07\)"),
        ({"shape": (64,)}, r"shape needs 2 positive entries, got \(64,\)"),
        ({"normalise": ()}, "normalise needs an entry for each of 1 channels, got 0"),
        ({"slice_axis": 3}, "slice_axis is 0, 1 or 2, and for dim 2 only; got 3 for dim 2"),
        ({"axes": (2, 0, 1)}, r"axes is an order of 0, 1 and 2, and for dim 3 only; got \(2, 0, 1\) for dim 2"),
        ({"mirror": (5,)}, r"mirror names axes from 0 to 1, each once, got \(5,\)"),
        ({"mirror": (1, 1)}, r"mirror names axes from 0 to 1, each once, got \(1, 1\)"),
        ({"swap_axis": 2}, "swap_axis is an axis from 0 to 1, got 2"),
        ({"swap": ((0, 1),)}, r"swap needs swap_axis, the axis along which it applies, got swap \(\(0, 1\),\) alone"),
        ({"swap": ((7, 8),), "swap_axis": 1}, r"swap names two different output channels from 0 to 1, got \(7, 8\)"),
        ({"swap": ((1, 1),), "swap_axis": 1}, r"swap names two different output channels from 0 to 1, got \(1, 1\)"),
    ],
)
def test_impossible_configurations_are_refused(change, words):
    with pytest.raises(OptionError, match=words):
        replace(CONFIG, **change)


@pytest.mark.parametrize("orientation", ["RAR", "XYZ", "RA"])
def test_an_orientation_that_is_none_is_refused(orientation):
    with pytest.raises(DataError, match=f"got '{orientation}'"):
        replace(CONFIG, orientation=orientation)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"rate": -1.0}, "rate must be above 0, got -1.0"),
        ({"rate": float("nan")}, "rate must be above 0, got nan"),
        ({"weight_decay": -0.1}, "weight_decay must be 0 or more, got -0.1"),
        ({"warmup": 1.0}, "warmup must be a share, at least 0 and below 1, got 1.0"),
        ({"epochs": 0}, "epochs must be at least 1, got 0"),
        ({"steps": 0}, "steps must be at least 1, got 0"),
        ({"foreground": 33.0}, "foreground must be a share, 0 to 1, got 33.0"),
        ({"clip": -1.0}, "clip must be 0 or more, got -1.0"),
    ],
)
def test_impossible_recipes_are_refused(change, words):
    with pytest.raises(OptionError, match=words):
        Recipe(**change)


def test_impossible_numbers_are_refused():
    with pytest.raises(OptionError, match="a network needs channels in and out, got in_channels 0 and out_channels 2"):
        replace(NETWORK, in_channels=0)
    with pytest.raises(OptionError, match=r"lower <= upper and std >= 0, got lower 2.0, upper 1.0 and std 1.0"):
        Normalise(scheme="ct", lower=2.0, upper=1.0)
    with pytest.raises(OptionError, match="image_order must be 0 to 3, got 7"):
        Resample(image_order=7)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"out_channels": 5}, r"of 2d-unet has out_channels 5, but the labels need 2 \(a and background\)"),
        ({"in_channels": 3}, r"the network of 2d-unet has in_channels 3, the data set 1 channels \(grey\)"),
    ],
)
def test_a_network_that_does_not_fit_the_data_set_is_refused(change, words):
    normalise = CONFIG.normalise * change.get("in_channels", 1)
    config = replace(CONFIG, network=replace(NETWORK, **change), normalise=normalise)
    with pytest.raises(OptionError, match=words):
        replace(PLAN, configs={"2d-unet": config})


def test_the_background_has_no_partner_unless_there_are_regions():
    config = replace(CONFIG, swap=((0, 1),), swap_axis=1)
    with pytest.raises(OptionError, match=r"exchanges paired organs, but 0 is the background; got \(\(0, 1\),\)"):
        replace(PLAN, configs={"2d-unet": config})
    regions = Labels(names={"left": (1, 2), "right": (3, 4)}, paint=(1, 3))
    assert replace(PLAN, configs={"2d-unet": config}, labels=regions).labels == regions


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('"batch"', '"bacth"', r"configs\.2d-unet\.batch: Field required; configs\.2d-unet\.bacth: Unexpected keyword"),
        ('"mirror": []', '"mirror": [5]', r"configs\.2d-unet: mirror names axes from 0 to 1, each once, got \(5,\)$"),
        ('"steps": 50', '"steps": 0', r"configs\.2d-unet\.recipe: steps must be at least 1, got 0$"),
        ('"out_channels": 2', '"out_channels": 5', "plan: the network of 2d-unet has out_channels 5"),
        ('"format": 1', '"format": 9', r"plan\.json has format 9, but this version of mambino reads format 1$"),
        ("{", "", "is not a valid plan: Invalid JSON: "),
    ],
)
def test_a_plan_that_was_edited_badly_is_refused_with_the_next_step(tmp_path, old, new, words):
    text = dump(PLAN)
    assert old in text
    (tmp_path / "plan.json").write_text(text.replace(old, new, 1))
    with pytest.raises(FileFormatError, match=words) as caught:
        read_plan(tmp_path)
    assert f"correct it, or remove it and plan again: mambino plan DATA -o {tmp_path}" in caught.value.hint


def test_a_folder_without_a_plan_is_refused_with_the_next_step(tmp_path):
    with pytest.raises(DataError, match=r"holds no plan\.json") as caught:
        read_plan(tmp_path)
    assert caught.value.hint == f"make one: mambino plan DATA -o {tmp_path}"


def test_configurations_are_asked_for_by_name():
    assert PLAN.config("2d-unet") == CONFIG
    with pytest.raises(OptionError, match="the plan has no configuration 3d"):
        PLAN.config("3d")
    with pytest.raises(OptionError, match="the default configuration 3d is not among"):
        replace(PLAN, default="3d")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"out_channels": 2**20}, "numbers of a network are at most 16384, got out_channels 1048576"),
        ({"options": {"blocks": (1, 2**31)}}, r"at most 16384, got blocks \(1, 2147483648\)"),
        ({"options": {"strides": ((1, -(2**31)),)}}, "at most 16384, got strides"),
    ],
)
def test_numbers_that_no_network_has_are_refused(changes, words):
    values = {"name": "unet", "dim": 2, "in_channels": 1, "out_channels": 2, "options": {}}
    with pytest.raises(OptionError, match=words):
        NetworkSpec(**{**values, **changes})
