"""Patches come from where they should, batch k depends on the seed and k alone, and a failing reader is heard."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mambino.errors import DataError
from mambino.training import sampling
from mambino.training.augmentation import augmentation, warp
from mambino.training.loss import IGNORED
from mambino.training.processes import Processes
from mambino.training.sampling import HeldCase, held, mixed, patches, place, read
from mambino.training.waiting import stream
from tests.training.toys import TWO, case, config


def source(cases, seed=0, **changes):
    chosen = config(**changes)
    return patches(cases, chosen, TWO, augmentation(chosen, TWO), seed)


def rare(foreground=0.33, **changes):
    """Return patches of a large case with a single voxel of a structure, which only centred patches hold."""
    shape = (400, 400)
    labels = np.zeros(shape, np.int16)
    labels[200, 200] = 1
    one = HeldCase("rare", shape, {1: np.array([[200, 200]])}, np.zeros((1, *shape), np.float32), labels)
    recipe = {"foreground": foreground} | changes.pop("recipe", {})
    return source([one], patch=(3, 3), recipe=recipe, **changes)


def centred(make, numbers):
    """Return for each sample of some batches whether it is centred on the structure."""
    return [bool((patch == 1).any()) for number in numbers for patch in make(number).target]


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


# By hand: nnU-Net centres sample j where not j < round(batch * (1 - 0.33)), Python's rounding.
LAST = {1: 0, 2: 1, 3: 1, 4: 1, 5: 2, 6: 2, 9: 3, 12: 4, 49: 16}


@pytest.mark.parametrize(("batch", "count"), LAST.items())
def test_nnunet_centres_the_last_patches_of_each_batch(batch, count):
    make = rare(batch=batch, recipe={"centred": "last"})
    one = [False] * (batch - count) + [True] * count
    assert centred(make, range(3)) == one * 3
    assert centred(make, [7]) == one  # as where a run goes on


def test_the_last_patches_are_those_of_all_processes_together():
    make = rare(batch=7, recipe={"centred": "last"})
    parts = [replace(make, processes=Processes(rank, 3)) for rank in range(3)]
    assert [centred(part, [5]) for part in parts] == [[False, False, True], [False, False], [False, True]]
    assert centred(make, [5]) == [False] * 5 + [True] * 2


def test_the_last_patches_are_those_of_all_batches_of_a_step():
    make = rare(batch=2, recipe={"centred": "last", "accumulate": 3})
    step = [False, False, False, False, True, True]  # a batch of two by itself would centre its second
    assert centred(make, range(6)) == step * 2
    assert centred(make, range(9, 12)) == step


@pytest.mark.parametrize(("share", "count"), [(0.0, 0), (1.0, 4)])
def test_none_or_all_patches_may_be_centred(share, count):
    assert sum(centred(rare(share, batch=4, recipe={"centred": "last"}), [0])) == count


def marked(value, shape):
    """Return a case whose voxels all have one value; those of each slice one more where there are slices."""
    image = np.full((1, *shape), value, np.float32)
    if len(shape) == 3:
        image += np.arange(shape[0], dtype=np.float32)[None, :, None, None]
    return HeldCase(f"case_{value}", shape, {}, image, np.zeros(shape, np.int16))


def seen(make, numbers):
    return [int(patch[0, 0, 0]) for number in numbers for patch in make(number).images]


def test_in_passes_each_case_comes_once_before_any_comes_again():
    cases = [marked(value, (4, 4)) for value in range(7)]
    make = source(cases, patch=(4, 4), batch=3, recipe={"order": "passes", "foreground": 0.0})
    values = seen(make, range(14))  # six passes of seven
    passes = [values[i : i + 7] for i in range(0, 42, 7)]
    assert all(sorted(one) == list(range(7)) for one in passes)
    assert len({tuple(one) for one in passes}) > 1
    assert seen(make, [9]) == values[27:30]
    other = replace(make, seed=1)
    assert seen(other, range(14)) != values
    shared = [seen(replace(make, processes=Processes(rank, 2)), [4]) for rank in range(2)]
    assert [shared[0][0], shared[1][0], shared[0][1]] == values[12:15]


def test_in_passes_each_slice_comes_once():
    cases = [marked(0, (3, 4, 4)), marked(10, (1, 4, 4)), marked(20, (4, 4, 4))]
    recipe = {"order": "passes", "foreground": 0.0}
    make = source(cases, patch=(4, 4), batch=4, slice_axis=0, recipe=recipe)
    assert sorted(seen(make, [0, 1])) == sorted(seen(make, [2, 3])) == [0, 1, 2, 10, 20, 21, 22, 23]


@pytest.mark.parametrize(("outside", "number"), [("ignored", IGNORED), ("background", 0)])
def test_what_lies_outside_is_ignored_or_background(outside, number):
    make = source([case((6, 6))], patch=(8, 8), recipe={"outside": outside})
    batch = make(0)
    assert set(batch.target[:, 0].unique().tolist()) == {number}
    assert not batch.images[:, :, 0].any()
    assert (batch.target[:, 1:7, 1:7] >= 0).all()


def test_pictures_are_flipped_before_they_are_turned_by_the_angle_of_the_run():
    picture = case((16, 16))
    how = augmentation(config(patch=(16, 16), recipe={"augmentation": "isic"}), TWO)
    how = replace(how, turn=replace(how.turn, fixed=0.5))
    make = patches([picture], config(patch=(16, 16), recipe={"outside": "background"}), TWO, how, 0)
    found = {tuple(target.flatten().tolist()) for number in range(40) for target in make(number).target}
    wanted = set()
    for axes in ((), (0,), (1,), (0, 1)):
        flipped = np.flip(picture.labels, axes).copy()
        box = torch.from_numpy(np.pad(flipped, 8))
        matrix = torch.tensor([[np.cos(0.5), -np.sin(0.5)], [np.sin(0.5), np.cos(0.5)]])
        turned = warp(torch.zeros(1, 32, 32), box, matrix, (16, 16))[1]
        wanted |= {tuple(flipped.flatten().tolist()), tuple(turned.flatten().tolist())}
    assert found == wanted


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
