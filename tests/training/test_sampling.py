"""Patches come from where they should, batch k depends on the seed and k alone, and a failing reader is heard."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mambino.errors import DataError
from mambino.training import sampling
from mambino.training.augmentation import augmentation
from mambino.training.loss import IGNORED
from mambino.training.sampling import HeldCase, held, mixed, patches, place, read
from mambino.training.waiting import stream
from tests.training.toys import TWO, case, config


def source(cases, seed=0, **changes):
    chosen = config(**changes)
    return patches(cases, chosen, TWO, augmentation(chosen, TWO), seed)


def broken(name="heart_7"):
    def fail(*_):
        raise RuntimeError("bad block")

    return SimpleNamespace(id=name, shape=(20, 20), locations={}, image_patch=fail, labels_patch=fail)


@given(
    start=st.tuples(st.integers(-30, 30), st.integers(-30, 30)), size=st.tuples(st.integers(1, 40), st.integers(1, 40))
)
@settings(max_examples=60, deadline=None)
def test_a_part_is_the_case_where_it_is_and_nothing_elsewhere(start, size):
    whole = case()
    image, labels = read(whole, start, size)
    wide = np.pad(whole.image[0], 80)
    wide_labels = np.pad(whole.labels, 80, constant_values=IGNORED)
    where = tuple(slice(a + 80, a + 80 + n) for a, n in zip(start, size, strict=True))
    assert np.array_equal(image[0].numpy(), wide[where])
    assert np.array_equal(labels.numpy(), wide_labels[where])


@given(seed=st.integers(0, 500), foreground=st.sampled_from([0.0, 1.0]), side=st.integers(3, 40))
@settings(max_examples=60, deadline=None)
def test_patches_leave_the_case_only_where_it_is_smaller(seed, foreground, side):
    whole = case()
    start = place(whole, (side, side), foreground, torch.Generator().manual_seed(seed))
    for first, size in zip(start, whole.shape, strict=True):
        if side <= size:
            assert 0 <= first <= size - side
        else:
            assert first == -((side - size) // 2)


def test_patches_on_structures_hold_a_voxel_of_one():
    whole = case()
    for seed in range(40):
        start = place(whole, (3, 3), 1.0, torch.Generator().manual_seed(seed))
        assert read(whole, start, (3, 3))[1].max() > 0


def test_the_share_of_patches_on_structures_is_the_one_asked_for():
    shape = (400, 400)
    labels = np.zeros(shape, np.int16)
    labels[200, 200] = 1
    rare = HeldCase("rare", shape, {1: np.array([[200, 200]])}, np.zeros((1, *shape), np.float32), labels)
    starts = [place(rare, (3, 3), 0.33, torch.Generator().manual_seed(mixed(0, i))) for i in range(600)]
    share = sum(start == (199, 199) for start in starts) / len(starts)
    assert share == pytest.approx(0.33, abs=0.06)


def test_batches_depend_on_the_seed_and_their_number_alone():
    make = source([case(seed=i) for i in range(3)], recipe={"augmentation": "full"}, mirror=(0, 1))
    first = [make(k) for k in range(4)]
    again = [make(k) for k in (3, 2, 1, 0)][::-1]
    other = source([case(seed=i) for i in range(3)], seed=1)(0)
    for one, two in zip(first, again, strict=True):
        assert torch.equal(one.images, two.images)
        assert torch.equal(one.target, two.target)
    assert not torch.equal(first[0].images, first[1].images)
    assert not torch.equal(first[0].images, other.images)


@pytest.mark.parametrize("kind", ["full", "light", "none"])
@pytest.mark.parametrize(("dim", "patch"), [(2, (16, 12)), (2, (40, 40)), (3, (8, 16, 12))])
def test_batches_have_the_size_and_numbers_they_should(kind, dim, patch):
    shape = (20, 18) if dim == 2 else (14, 20, 18)
    make = source([case(shape)], dim=dim, patch=patch, recipe={"augmentation": kind}, mirror=(0,))
    for number in range(6):
        batch = make(number)
        assert batch.images.shape == (2, 1, *patch)
        assert batch.target.shape == (2, *patch)
        assert batch.target.dtype == torch.int64
        assert set(batch.target.unique().tolist()) <= {IGNORED, 0, 1, 2}
        assert torch.isfinite(batch.images).all()


@pytest.mark.parametrize("kind", ["full", "none"])
def test_slices_of_volumes_are_patches_of_two_axes(kind):
    volume = case((5, 20, 18))
    make = source([volume], patch=(16, 12), slice_axis=0, recipe={"augmentation": kind})
    assert make(0).images.shape == (2, 1, 16, 12)


def test_small_cases_are_kept_in_memory_and_equal(monkeypatch):
    whole = case()
    kept = held([whole], 1)[0]
    assert np.array_equal(kept.image_patch((2, 3), (5, 9)), whole.image_patch((2, 3), (5, 9)))
    monkeypatch.setattr(sampling.machine, "memory", lambda: 0.0)
    assert held([whole], 1)[0] is whole


@pytest.mark.parametrize("workers", [0, 2])
def test_a_case_that_cannot_be_read_is_named_whoever_reads_it(workers):
    with pytest.raises(DataError, match="case heart_7: its prepared voxels cannot be read: bad block"):
        next(stream(source([broken()]), 0, workers))


def test_a_case_that_cannot_be_kept_is_named():
    with pytest.raises(DataError, match="case heart_7: its prepared voxels cannot be read: bad block"):
        held([broken()], 1)
