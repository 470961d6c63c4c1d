"""A plan holds each network for each dimension that fits, and a reason for every number."""

import pytest

from mambino.core.options import PlanOptions
from mambino.errors import OptionError
from mambino.planning.choice import choose
from tests.planning.measured import SIDES, dataset, facts, fingerprint, price

VOLUMES = fingerprint([facts(n) for n in range(20)])
PICTURES = fingerprint([facts(n, shape=(400, 512), spacing=(1.0, 1.0)) for n in range(20)])
CPU = PlanOptions(device="cpu", memory=8.0, minutes=8.0)


def test_volumes_get_both_dimensions_and_pictures_one():
    made = choose(dataset(VOLUMES), VOLUMES, CPU, measure=price())
    assert set(made.configs) == {"3d-unet", "3d-lightm_unet", "2d-unet", "2d-lightm_unet"}
    assert made.default == "3d-unet"
    assert made.config("2d-unet").slice_axis == 0
    made = choose(dataset(PICTURES), PICTURES, CPU, measure=price())
    assert set(made.configs) == {"2d-unet", "2d-lightm_unet"}
    assert made.config("2d-unet").slice_axis is None


def test_networks_of_one_dimension_see_the_same_data():
    made = choose(dataset(PICTURES), PICTURES, CPU, measure=price(1e-9))
    first, second = made.configs.values()
    for field in ("spacing", "orientation", "slice_axis", "crop", "normalise", "resample", "mirror", "shape"):
        assert getattr(first, field) == getattr(second, field)


@pytest.mark.parametrize("options", [CPU, PlanOptions(device="cuda")], ids=["cpu", "gpu"])
def test_every_number_has_a_reason(options):
    made = choose(dataset(VOLUMES), VOLUMES, options, measure=price())
    for name, config in made.configs.items():
        fields = {reason.field for reason in made.reasons if reason.config in {name, f"{config.dim}d"}}
        assert fields >= {
            "spacing",
            "orientation",
            "normalise",
            "mirror",
            "shape",
            "resample",
            "network",
            "patch",
            "batch",
        }
        assert fields >= {"memory", "step", "length", "optimiser", "augmentation", "foreground"}
    assert all(reason.why for reason in made.reasons)


def test_what_was_assumed_is_said():
    made = choose(dataset(VOLUMES), VOLUMES, PlanOptions(device="cpu"), measure=price())
    (device,) = [reason for reason in made.reasons if reason.field == "device"]
    assert "60 minutes" in device.why
    assert made.minutes == 60


def test_the_network_asked_for_is_the_default():
    options = PlanOptions(device="cpu", memory=8.0, minutes=8.0, model="lightm_unet")
    assert choose(dataset(VOLUMES), VOLUMES, options, measure=price()).default == "3d-lightm_unet"
    options = PlanOptions(device="cpu", memory=8.0, minutes=8.0, model="lightm_unet_legacy")
    made = choose(dataset(VOLUMES), VOLUMES, options, measure=price())
    assert made.default == "3d-lightm_unet_legacy"
    assert "3d-unet" in made.configs


def test_a_network_nobody_knows_is_refused():
    with pytest.raises(OptionError, match="there is no network 'unett'") as caught:
        choose(dataset(VOLUMES), VOLUMES, PlanOptions(model="unett"), measure=price())
    assert "lightm_unet" in caught.value.hint


def test_a_classifier_is_refused():
    with pytest.raises(
        OptionError, match="vmamba is a classifier: it gives no masks, so nothing can be planned"
    ) as caught:
        choose(dataset(VOLUMES), VOLUMES, PlanOptions(model="vmamba"), measure=price())
    assert "vm_unet" in caught.value.hint
    assert "vmamba" not in caught.value.hint


def test_a_network_that_does_not_fit_is_left_out_unless_it_is_the_one_asked_for():
    options = PlanOptions(device="cpu", memory=8.0, minutes=8.0, params=100_000)
    made = choose(dataset(VOLUMES), VOLUMES, options, measure=price())
    assert set(made.configs) == {"3d-unet", "2d-unet"}
    assert any(reason.value == "left out" and "--params 100000" in reason.why for reason in made.reasons)
    with pytest.raises(OptionError, match="--params 100000: the smallest lightm_unet"):
        choose(
            dataset(VOLUMES), VOLUMES, PlanOptions(device="cpu", params=100_000, model="lightm_unet"), measure=price()
        )


def test_channels_that_differ_have_a_reason_each():
    found = fingerprint([facts()], channels=2)
    made = choose(dataset(found, channels=("CT", "PET")), found, CPU, measure=price())
    fields = {reason.field for reason in made.reasons}
    assert {"normalise.CT", "normalise.PET"} <= fields
    assert [channel.scheme for channel in made.config("3d-unet").normalise] == ["ct", "zscore"]


def test_short_trainings_mirror_only_what_could_be_real():
    made = choose(dataset(VOLUMES), VOLUMES, CPU, measure=price())
    assert made.config("3d-unet").mirror == (2,)  # z, y, x: left and right of a body look alike
    assert made.config("2d-unet").mirror == (1,)
    made = choose(dataset(PICTURES), PICTURES, CPU, measure=price())
    assert made.config("2d-unet").mirror == (0, 1)  # nobody knows which way a picture stands
    made = choose(dataset(PICTURES, labels=SIDES), PICTURES, CPU, measure=price())
    assert made.config("2d-unet").mirror == ()


def test_long_trainings_mirror_every_axis_as_nnunet_does():
    made = choose(dataset(VOLUMES), VOLUMES, PlanOptions(device="cuda"), measure=price())
    assert made.config("3d-unet").mirror == (0, 1, 2)
