"""Labels know their numbers, regions and mistakes."""

import pytest

from mambino.core.labels import Labels
from mambino.errors import DataError


def test_plain_labels_have_a_channel_each_and_one_for_the_background():
    labels = Labels(names={"liver": (1,), "tumour": (2,)})
    assert not labels.has_regions
    assert labels.numbers == (0, 1, 2)
    assert labels.out_channels == 3


def test_regions_overlap_and_have_no_background_channel():
    labels = Labels(names={"whole": (1, 2, 3), "core": (2, 3)}, ignore=4, paint=(1, 2))
    assert labels.has_regions
    assert labels.numbers == (0, 1, 2, 3, 4)
    assert labels.out_channels == 2


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"names": {}}, "labels need at least one structure besides the background"),
        ({"names": {"a": (0,)}}, "label numbers start at 1, since 0 is background; got 0"),
        ({"names": {"a": (1,), "b": (3,)}}, r"label numbers must follow one another without gaps, got \[1, 3\]"),
        ({"names": {"a": (1, 2), "b": (2,)}}, "2 regions need as many entries in regions_class_order, got 0"),
    ],
)
def test_impossible_labels_are_refused(arguments, words):
    with pytest.raises(DataError, match=words):
        Labels(**arguments)
