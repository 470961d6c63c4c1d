"""Cleaning is taken where it gains, and left where it hurts or does nothing; sizes to try follow the truth."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from mambino.core.grid import pixel_grid
from mambino.core.image import Segmentation
from mambino.core.labels import Labels
from mambino.inference.cleaning import cleaned
from mambino.selection.comparing import counted, of_label
from mambino.selection.postprocessing import NOTHING, SIZES, Way, chosen_options, gains, improves, proposals, ways
from mambino.selection.scores import dice_of

LABELS = Labels(names={"liver": (1,), "spleen": (2,)})
NAMES = ("liver", "spleen")
REGIONS = Labels(names={"liver": (1, 2), "spleen": (2,)}, paint=(1, 2))
LARGEST, FILLED = Way({}, largest=True), Way({}, fill=True)


def mask(array, labels=LABELS):
    return Segmentation(np.asarray(array, np.uint8), pixel_grid(np.shape(array)), labels)


def tried(pairs, given):
    """Return the Dice of each way for pairs of prediction and truth."""
    asked = [way.options(NAMES) for way in given]
    return [{f"c{i}": dice_of(cleaned(made, one), true) for i, (made, true) in enumerate(pairs)} for one in asked]


def patients(pairs):
    return {f"c{i}": f"c{i}" for i in range(len(pairs))}


def noisy(seed, labels=LABELS, size=12):
    """Return a mask of noise round a square, and the square."""
    random = np.random.default_rng(seed)
    true = np.zeros((size, size), int)
    true[2:6, 2:6], true[8:11, 7:11] = 1, 2
    made = np.where(random.random(true.shape) < 0.1, random.integers(0, 3, true.shape), true)
    return mask(made, labels), mask(true, labels)


def test_noise_is_removed_and_the_gain_is_said():
    pairs, given = [noisy(seed) for seed in range(6)], (NOTHING, LARGEST)
    found = gains(tried(pairs, given), given, NAMES, patients(pairs))
    assert all(gain.taken and gain.largest and gain.after > gain.before for gain in found)
    assert found[0].said == "largest piece kept"
    assert found[0].difference.cases == 6
    assert chosen_options(found).largest == NAMES


def test_two_true_pieces_are_not_taken_apart():
    true = np.zeros((9, 9), int)
    true[1:3, 1:3], true[6:8, 5:9], true[4, 4] = 1, 1, 2
    pairs = [(mask(true), mask(true))] * 3
    given = (NOTHING, LARGEST, Way({"liver": 5.0}))
    found = gains(tried(pairs, given), given, NAMES, patients(pairs))
    assert [(gain.said, gain.taken, gain.after) for gain in found] == [("nothing", False, 1.0)] * 2
    assert chosen_options(found) == NOTHING.options(NAMES)


def test_of_equal_ways_the_mildest_is_taken():
    pairs = [(mask([[1, 1, 1, 0, 0, 1]]), mask([[1, 1, 1, 0, 0, 0]]))] * 2
    given = (NOTHING, Way({"liver": 2.0}), LARGEST)
    [liver, _] = gains(tried(pairs, given), given, NAMES, patients(pairs))
    assert (liver.smallest, liver.largest, liver.taken) == (2.0, False, True)
    assert liver.said == "pieces below 2 removed"


@given(seed=st.integers(0, 10_000), count=st.integers(1, 4), labels=st.sampled_from([LABELS, REGIONS]))
@settings(max_examples=30, deadline=None)
def test_what_is_taken_in_the_end_raises_the_mean_and_lowers_no_structure(seed, count, labels):
    pairs = [noisy(seed + i, labels) for i in range(count)]
    given = ways({"liver": [16.0], "spleen": [12.0]})
    dice = tried(pairs, given)
    for proposal in proposals(dice, given, NAMES, patients(pairs)):
        asked = chosen_options(proposal)
        after = {f"c{i}": dice_of(cleaned(made, asked), true) for i, (made, true) in enumerate(pairs)}
        if improves(dice[0], after, NAMES):
            break
    else:
        raise AssertionError("nothing was accepted, not even to do nothing")
    values = counted({"before": dice[0], "after": after})
    for label in NAMES:
        before, now = (of_label(values[which], label).values() for which in ("before", "after"))
        assert sum(now) >= sum(before) - 1e-9


def test_what_helps_each_alone_but_hurts_together_is_given_up():
    worse = {"c0": {"liver": 0.9, "spleen": 0.4}}
    before = {"c0": {"liver": 0.5, "spleen": 0.5}}
    assert not improves(before, worse, NAMES)
    assert improves(before, before, NAMES)
    assert improves(before, {"c0": {"liver": 0.6, "spleen": 0.5}}, NAMES)
    scores = [before, {"c0": {"liver": 0.9, "spleen": 0.9}}]
    steps = list(proposals(scores, (NOTHING, FILLED), NAMES, {"c0": "c0"}))
    assert [[gain.taken for gain in step] for step in steps] == [[True, True], [False, False], [False, False]]


def test_a_structure_that_is_removed_where_it_is_not_counts_as_right():
    values = counted({"0": {"c": {"liver": 0.0}}, "1": {"c": {"liver": None}}})
    assert (values["0"]["c"]["liver"], values["1"]["c"]["liver"]) == (0.0, 1.0)


def test_sizes_to_try_follow_the_median_of_the_truth():
    found = ways({"liver": [900.0, 1000.0, 5000.0], "spleen": []})
    assert found[0] == NOTHING
    assert [way.smallest.get("liver") for way in found if way.smallest and not way.fill] == [1000 * s for s in SIZES]
    assert all("spleen" not in way.smallest for way in found)
    assert found[2].options(NAMES).smallest == ("liver=10",)
