"""Validation scores whole cases, costs about a tenth of a run, and falls on the same epochs in equal runs."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from mambino.core.labels import Labels
from mambino.training.precision import Precision
from mambino.training.sampling import HeldCase
from mambino.training.validation import SHARE, rhythm, spread, validate, windows
from tests.training.toys import TWO, case, config

CPU = Precision(torch.device("cpu"))


class Knowing(nn.Module):
    """Reads the label off the image: 0, 1 or 2."""

    def forward(self, x):
        return torch.cat([-(x - number).abs() for number in range(3)], 1)


class Regions(nn.Module):
    """Reads two overlapping regions off the image: from 1 on, and from 2 on."""

    def forward(self, x):
        return torch.cat([x - 0.5, x - 1.5], 1)


def telling(shape=(30, 20), labels=None):
    """Return a case whose image is its labels."""
    found = case(shape).labels if labels is None else labels
    return HeldCase("telling", shape, {}, np.maximum(found, 0)[None].astype(np.float32), found)


@pytest.mark.parametrize(
    ("shape", "changes"),
    [((30, 20), {}), ((10, 9), {}), ((20, 20, 30), {"dim": 3}), ((12, 30, 20), {"slice_axis": 0})],
)
def test_a_network_that_knows_the_labels_scores_one(shape, changes):
    score = validate(Knowing(), [telling(shape)], config(**changes), TWO, CPU)
    assert score.dice == 1
    assert score.per_label == {"dark": 1, "bright": 1}


def test_regions_overlap_in_the_score_too():
    labels = Labels(names={"whole": (1, 2), "core": (2,)}, paint=(1, 2))
    assert validate(Regions(), [telling()], config(), labels, CPU).dice == 1


def test_voxels_that_nobody_annotated_are_not_scored():
    found = case((30, 20)).labels.copy()
    found[:5] = -1
    wrong = telling(labels=found)
    wrong.image[0, :5] = 2
    assert validate(Knowing(), [wrong], config(), TWO, CPU).dice == 1


def test_a_structure_that_no_case_has_does_not_count():
    found = np.minimum(case((30, 20)).labels, 1)
    assert validate(Knowing(), [telling(labels=found)], config(), TWO, CPU).per_label == {"dark": 1, "bright": None}
    assert validate(Knowing(), [telling(labels=0 * found)], config(), TWO, CPU).dice is None


def test_a_network_is_left_in_the_mode_it_had():
    network = Knowing().train()
    validate(network, [telling()], config(), TWO, CPU)
    assert network.training


@given(count=st.integers(1, 60), side=st.integers(10, 90), epochs=st.integers(8, 400), batch=st.integers(1, 8))
@settings(max_examples=60, deadline=None)
def test_validation_costs_about_a_tenth_at_most(count, side, epochs, batch):
    chosen = config(batch=batch, recipe={"steps": 50})
    cases = [telling((side, side), np.zeros((side, side), np.int16))] * count
    plan = rhythm(cases, chosen, epochs)
    cost = sum(len(windows(c.shape, chosen)) for c in spread(cases, plan.cases)) * (epochs // plan.every)
    assert 1 <= plan.cases <= count
    assert epochs // plan.every >= 4
    assert plan.cases == 1 or cost <= 1.3 * SHARE * 3 * batch * 50 * epochs


def test_the_user_may_say_how_often():
    assert rhythm([telling()], config(), 100, 7).every == 7


@given(length=st.integers(1, 50), count=st.integers(1, 50))
def test_spread_values_are_different_ones(length, count):
    count = min(length, count)
    chosen = spread(range(length), count)
    assert len(set(chosen)) == count
