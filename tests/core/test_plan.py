"""A plan holds only configurations that can work."""

from dataclasses import replace

import pytest

from mambino.core.labels import Labels
from mambino.core.plan import Config, NetworkSpec, Normalise, Plan, Recipe
from mambino.core.records import dump, parse
from mambino.errors import FileFormatError, OptionError

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
        ({"normalise": ()}, "normalise needs an entry for each of 1 channels, got 0"),
    ],
)
def test_impossible_configurations_are_refused(change, words):
    with pytest.raises(OptionError, match=words):
        replace(CONFIG, **change)


def test_configurations_are_asked_for_by_name():
    assert PLAN.config("2d-unet") == CONFIG
    with pytest.raises(OptionError, match="the plan has no configuration 3d"):
        PLAN.config("3d")
    with pytest.raises(OptionError, match="the default configuration 3d is not among"):
        replace(PLAN, default="3d")
