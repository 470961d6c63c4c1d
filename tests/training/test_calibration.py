"""Probabilities that are too sure are cooled down, masks stay, and a tenth of the held-out cases is flagged at most."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mambino.cli.app import dispatch
from mambino.core.labels import Labels
from mambino.errors import DataError, WeightsError
from mambino.training import train
from mambino.training.calibration import FEWEST, calibrate, fit_temperature, limits, nll
from mambino.weights.bundle import info, load
from tests.training.test_training import SHORT
from tests.training.test_training import work as work  # noqa: PLC0414 - a fixture
from tests.training.toys import TWO

REGIONS = Labels(names={"whole": (1, 2), "core": (2,)}, paint=(1, 2))


def drawn(labels, count=20000, seed=0):
    """Return logits, and numbers drawn from the probabilities that these are."""
    random = np.random.default_rng(seed)
    logits = random.normal(0, 2, (count, labels.out_channels)).astype(np.float32)
    if labels.has_regions:  # a core lies in a whole
        yes = random.uniform(size=logits.shape) < 1 / (1 + np.exp(-logits))
        keep = yes[:, 0] | ~yes[:, 1]
        return logits[keep], (yes[:, 0].astype(np.int16) + yes[:, 1])[keep]
    shares = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    numbers = (shares.cumsum(1) < random.uniform(size=(count, 1))).sum(1)
    return logits, numbers.astype(np.int16)


@pytest.mark.parametrize("sharper", [0.3, 1.0, 4.0])
def test_logits_that_are_too_sharp_by_a_factor_are_found_to_be(sharper):
    logits, numbers = drawn(TWO)
    assert fit_temperature(sharper * logits, numbers, TWO) == pytest.approx(sharper, rel=0.05)


def test_regions_have_a_likelihood_of_their_own():
    random = np.random.default_rng(0)
    logits = random.normal(0, 2, (20000, 1)).astype(np.float32)
    whole = Labels(names={"whole": (1, 2)}, paint=(1,))
    numbers = (random.uniform(size=20000) < 1 / (1 + np.exp(-logits[:, 0]))).astype(np.int16)
    assert fit_temperature(3 * logits, numbers, whole) == pytest.approx(3, rel=0.05)


@pytest.mark.parametrize("labels", [TWO, REGIONS])
def test_the_likelihood_is_torch_s(labels):
    logits, numbers = drawn(labels, 200)
    cold = torch.from_numpy(logits).double() / 1.7
    if labels.has_regions:
        truth = np.stack([np.isin(numbers, group) for group in labels.names.values()], 1)
        loss = torch.nn.functional.binary_cross_entropy_with_logits(
            cold, torch.from_numpy(truth).double(), reduction="none"
        )
        expected = loss.sum(1).mean().item()
    else:
        expected = torch.nn.functional.cross_entropy(cold, torch.from_numpy(numbers).long()).item()
    assert nll(logits, numbers, labels, 1.7) == pytest.approx(expected)


def test_a_network_that_is_always_right_is_cooled_to_the_end_of_the_range_and_stays_finite():
    logits, _ = drawn(TWO, 100)
    temperature = fit_temperature(logits, logits.argmax(1).astype(np.int16), TWO)
    assert temperature == pytest.approx(0.05, rel=0.01)


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=FEWEST, max_size=60))
@settings(max_examples=100, deadline=None)
def test_a_tenth_of_the_held_out_cases_is_below_the_threshold_or_short_by_more_than_the_margin_at_most(pairs):
    expected, true = zip(*pairs, strict=True)
    threshold, margin = limits(expected, true)
    n = len(pairs)
    assert sum(e < threshold - 1e-6 for e in expected) < 0.1 * (n + 1)
    assert sum(e - d > margin + 1e-6 for e, d in pairs) < 0.1 * (n + 1)


def test_threshold_and_margin_of_a_future_case_hold_as_often_as_promised():
    """Of 19 held-out cases and one more like them, over many draws."""
    random = np.random.default_rng(1)
    flagged = short = 0
    for _ in range(4000):
        true = random.beta(5, 2, 20)
        expected = np.clip(true + random.normal(0.05, 0.1, 20), 0, 1)
        threshold, margin = limits(tuple(expected[:-1]), tuple(true[:-1]))
        flagged += expected[-1] < threshold
        short += true[-1] < expected[-1] - margin
    assert flagged / 4000 < 0.115
    assert short / 4000 < 0.115
    assert min(flagged, short) / 4000 > 0.06


def test_of_too_few_cases_nothing_is_promised():
    assert limits((0.9,) * (FEWEST - 1), (0.8,) * (FEWEST - 1)) == (None, None)


def test_a_run_gets_a_temperature_and_its_masks_stay(work):
    model = train(work, replace(SHORT, epochs=6))
    before = load(model)
    seen = []
    found = calibrate(model.parent, progress=lambda done, total, case: seen.append((done, total, case)))
    after = load(model)
    assert found == after.calibration == info(model).calibration
    assert found.cases == 2
    assert found.nll_after <= found.nll_before
    assert after.temperature != 1
    assert found.threshold is None
    assert [done for done, _, _ in seen] == [0, 1, 2, 3, 4]
    state = before.network.state_dict()
    assert all(torch.equal(x, state[name]) for name, x in after.network.state_dict().items())
    assert calibrate(model.parent) == found  # again, from the bundle that has it


def test_the_command_says_what_was_learnt(work, capsys):
    model = train(work, SHORT)
    assert dispatch(["info", str(model)]) in {None, 0}
    assert "1, not calibrated" in capsys.readouterr().out
    dispatch(["calibrate", str(model.parent)])
    assert "too few cases to learn when not to trust a prediction" in capsys.readouterr().out
    dispatch(["info", str(model)])
    assert "from 2 cases held out" in capsys.readouterr().out


def test_what_cannot_be_calibrated_is_refused(work):
    model = train(work, replace(SHORT, fold="all"))
    with pytest.raises(DataError, match="held out no case to calibrate on"):
        calibrate(model.parent)
    model = train(work, SHORT)
    next((work / "prepared" / "2d").glob(f"{info(model).provenance.held_out[0]}*.json")).unlink()
    with pytest.raises(DataError, match="1 of 2 held-out cases are not prepared, the first is toy_"):
        calibrate(model.parent)
    model.unlink()
    with pytest.raises(WeightsError):
        calibrate(model.parent)
