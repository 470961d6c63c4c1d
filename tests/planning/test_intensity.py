"""Each channel is scaled by what its name says, as in nnU-Net."""

import pytest

from mambino.planning.intensity import normalise
from tests.planning.measured import facts, fingerprint


@pytest.mark.parametrize(
    ("channel", "scheme"),
    [("CT", "ct"), ("ct", "ct"), ("MRI", "zscore"), ("R", "zscore"), ("rgb_to_0_1", "rgb"), ("noNorm", "none")],
)
def test_the_name_of_a_channel_decides_its_scheme(channel, scheme):
    (chosen,) = normalise((channel,), fingerprint([facts()]))
    assert chosen.value.scheme == scheme
    assert chosen.why


def test_ct_takes_its_numbers_from_the_foreground_of_the_training_set():
    (chosen,) = normalise(("CT",), fingerprint([facts()]))
    ct = chosen.value
    assert (ct.mean, ct.std, ct.lower, ct.upper) == (40.0, 20.0, -100.0, 300.0)


def test_channels_of_one_data_set_may_differ():
    found = normalise(("CT", "PET"), fingerprint([facts()], channels=2))
    assert [channel.value.scheme for channel in found] == ["ct", "zscore"]


@pytest.mark.parametrize(("cropped", "inside"), [((36, 50, 24), True), ((36, 50, 28), False)])
def test_zero_means_no_image_where_cropping_takes_a_quarter(cropped, inside):
    (chosen,) = normalise(("MRI",), fingerprint([facts(cropped=cropped)]))
    assert chosen.value.inside is inside
    (ct,) = normalise(("CT",), fingerprint([facts(cropped=cropped)]))
    assert not ct.value.inside
