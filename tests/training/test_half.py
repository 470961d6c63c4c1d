"""Masks in bfloat16 are compared with those in float32 where a device has it and enough was learnt."""

from dataclasses import replace

import pytest
import torch

from mambino.core.labels import Labels
from mambino.core.provenance import Provenance
from mambino.models import build
from mambino.training import half
from mambino.training.half import agreement
from mambino.weights.bundle import Bundle
from tests.training.toys import TWO, case, config

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _has(monkeypatch):
    monkeypatch.setattr(half, "has_bf16", lambda _: True)


def bundle(steps=1000, labels=TWO, **changes):
    torch.manual_seed(0)
    how = config(**changes)
    about = Provenance(versions={"mambino": "0"}, dataset="boxes", steps=steps)
    return Bundle(build(how.network).eval(), how, labels, ("grey",), about)


def shifted(monkeypatch, by):
    """Let bfloat16 give the logits of float32, moved in favour of the first structure."""

    def passes(network, _config, precision, _device):
        def forward(x):
            with torch.no_grad():
                logits = network(x)
            if precision == "bf16":
                logits[:, 1] += by
            return logits

        return forward

    monkeypatch.setattr(half, "in_precision", passes)


@pytest.mark.parametrize(
    ("labels", "shape", "changes"),
    [
        (TWO, (30, 20), {}),
        (TWO, (12, 30, 20), {"slice_axis": 0}),
        (Labels(names={"all": (1, 2), "core": (2,), "rim": (1,)}, paint=(1, 2, 1)), (30, 20), {}),
    ],
)
def test_equal_logits_agree_and_others_do_not(monkeypatch, labels, shape, changes):
    shifted(monkeypatch, 0.0)
    assert agreement(bundle(labels=labels, **changes), [case(shape)], CPU) == 1
    shifted(monkeypatch, 0.3)
    assert agreement(bundle(labels=labels, **changes), [case(shape)], CPU) < 0.99


def test_bfloat16_itself_agrees_nearly():
    assert 0.8 < agreement(bundle(), [case((40, 40), seed) for seed in range(3)], CPU) <= 1


@pytest.mark.parametrize(("steps", "count"), [(1000, half.CASES), (30, 1), (5, 0)])
def test_no_more_is_compared_than_a_share_of_what_was_learnt(monkeypatch, steps, count):
    seen = []
    monkeypatch.setattr(half, "stored", lambda case, *_: seen.append(case.id) or (case.image, case.labels))
    cases = [case((20, 18), seed) for seed in range(8)]  # four windows each; two patches a step
    found = agreement(bundle(steps), cases, CPU)
    assert len(seen) == count
    assert (found is None) == (count == 0)


def test_a_device_without_bfloat16_tells_nothing(monkeypatch):
    monkeypatch.setattr(half, "has_bf16", lambda _: False)
    assert agreement(bundle(), [case()], CPU) is None


def test_nothing_is_told_of_masks_without_a_voxel():
    empty = bundle()
    with torch.no_grad():
        empty.network.decoder.heads[-1].bias[0] = 1e3
    assert agreement(empty, [case()], CPU) is None
    assert agreement(replace(empty, labels=TWO), [], CPU) is None
