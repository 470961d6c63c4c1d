"""Patches are turned, scaled and mirrored as told, labels with their images, and every draw is repeatable."""

from dataclasses import replace
from math import pi

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from mambino.core.labels import Labels
from mambino.errors import OptionError
from mambino.training.augmentation import (
    Augmentation,
    Turn,
    augmentation,
    margins,
    mirror,
    quarter_turn,
    spatial_matrix,
    swapped_numbers,
    warp,
)
from mambino.training.sampling import patches
from tests.close import assert_close
from tests.training.toys import TWO, case, config


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def only_mirror(axes, swap_axis=None, swap=()):
    return Augmentation(None, (1.0, 1.0), axes, swap_axis, swap, ())


def rotation(angle):
    angle = torch.tensor(angle, dtype=torch.float64)
    return torch.stack([torch.stack([angle.cos(), -angle.sin()]), torch.stack([angle.sin(), angle.cos()])])


@pytest.mark.parametrize("size", [(7, 5), (6, 8), (4, 5, 6)])
def test_turning_by_nothing_reads_the_patch(size):
    image, labels = torch.randn(2, *size), torch.randint(0, 3, size)
    matrix = torch.eye(len(size), dtype=torch.float64)
    assert margins(matrix, size) == (0,) * len(size)
    turned, numbers = warp(image, labels, matrix, size)
    assert_close(turned, image)
    assert torch.equal(numbers, labels)


def test_a_quarter_turn_is_a_quarter_turn():
    image, labels = torch.randn(1, 6, 6), torch.randint(0, 3, (6, 6))
    turned, numbers = warp(image, labels, rotation(pi / 2), (6, 6))
    assert_close(turned, torch.rot90(image, -1, (1, 2)))
    assert torch.equal(numbers, torch.rot90(labels, -1))


@given(angle=st.floats(-pi, pi), zoom=st.floats(0.5, 2), sides=st.tuples(st.integers(1, 30), st.integers(1, 30)))
@settings(max_examples=50, deadline=None)
def test_the_box_that_is_read_holds_all_that_is_sampled(angle, zoom, sides):
    matrix = rotation(angle) / zoom
    box = [s + 2 * m for s, m in zip(sides, margins(matrix, sides), strict=True)]
    half_box = (torch.tensor(box, dtype=torch.float64) - 1) / 2
    corners = torch.cartesian_prod(*[torch.tensor([-(s - 1) / 2, (s - 1) / 2], dtype=torch.float64) for s in sides])
    assert min(box) >= 1
    assert ((corners @ matrix.T).abs() <= half_box + 1e-6).all()


def test_a_ramp_stays_a_ramp_when_turned():
    matrix, size = rotation(0.4) / 1.2, (9, 12)
    box = [s + 2 * m for s, m in zip(size, margins(matrix, size), strict=True)]
    ramp = torch.stack(torch.meshgrid(*[torch.arange(b) - (b - 1) / 2 for b in box], indexing="ij"))
    turned, _ = warp(ramp, torch.zeros(box, dtype=torch.int16), matrix, size)
    offsets = torch.stack(torch.meshgrid(*[torch.arange(s) - (s - 1) / 2 for s in size], indexing="ij"))
    assert_close(turned, torch.einsum("ij,jyx->iyx", matrix.float(), offsets))


def test_rotations_are_rotations_in_millimetres():
    turn = Turn(1.0, pi / 6, 0.0, 1.0, 1.0, (0, 1, 2))
    spacing = torch.tensor([3.0, 1.0, 0.5], dtype=torch.float64)
    matrix = spatial_matrix(turn, spacing.tolist(), generator())
    world = matrix * spacing[:, None] / spacing[None, :]
    assert_close(world @ world.T, torch.eye(3, dtype=torch.float64))


@pytest.mark.parametrize(
    ("patch", "spacing", "plane"),
    [
        ((16, 64, 64), (5.0, 1.0, 1.0), (1, 2)),
        ((64, 64, 16), (1.0, 1.0, 1.0), (0, 1)),
        ((32,) * 3, (1.0,) * 3, (0, 1, 2)),
    ],
)
def test_coarse_or_thin_axes_are_not_turned_into_others(patch, spacing, plane):
    how = augmentation(config(3, patch, spacing=spacing, recipe={"augmentation": "full"}), TWO)
    assert how.turn.plane == plane
    if len(plane) == 2:
        matrix = spatial_matrix(Turn(1.0, pi, 1.0, 0.7, 1.4, plane), spacing, generator())
        (other,) = set(range(3)) - set(plane)
        assert matrix[other].tolist() == [float(i == other) for i in range(3)]
        assert margins(matrix, patch)[other] == 0


@pytest.mark.parametrize(
    ("kind", "axes", "limit"), [("full", (0, 1), pi), ("full", (), pi / 6), ("light", (0, 1), pi / 6)]
)
def test_pictures_that_stand_upright_are_not_turned_upside_down(kind, axes, limit):
    how = augmentation(config(2, (64, 64), mirror=axes, recipe={"augmentation": kind}), TWO)
    assert how.turn.angle == pytest.approx(limit)


def test_mirroring_takes_image_and_labels_together():
    image = torch.arange(12.0).reshape(1, 3, 4)
    for seed in range(8):
        flipped, numbers = mirror(image, image[0].short(), only_mirror((0, 1)), generator(seed))
        assert torch.equal(flipped[0].short(), numbers)


def test_paired_organs_change_their_numbers_exactly_when_left_and_right_do():
    labels = torch.tensor([[1, 2, -1, 0]], dtype=torch.int16)
    how = only_mirror((0, 1), 1, swapped_numbers(TWO, [(1, 2)]))
    seen = set()
    for seed in range(30):
        _, numbers = mirror(torch.zeros(1, 1, 4), labels, how, generator(seed))
        seen.add(tuple(numbers[0].tolist()))
    assert seen == {(1, 2, -1, 0), (0, -1, 1, 2)}


def test_regions_swap_number_by_number():
    labels = Labels(names={"left": (1, 2), "left core": (2,), "right": (3, 4)}, paint=(1, 2, 3))
    assert swapped_numbers(labels, [(0, 2)]) == (0, 3, 4, 1, 2)


def test_regions_of_different_make_are_refused():
    labels = Labels(names={"left": (1, 2), "right": (3,)}, paint=(1, 3))
    with pytest.raises(OptionError, match=r"left and right cannot change places: .* \(1, 2\) and \(3,\)"):
        swapped_numbers(labels, [(0, 1)])


def test_no_augmentation_does_nothing():
    how = augmentation(config(mirror=(0, 1)), TWO)
    assert (how.turn, how.mirror, how.intensity) == (None, (), ())


def test_equal_generators_draw_equal_matrices():
    turn = Turn(0.5, pi, 0.5, 0.7, 1.4, (0, 1))
    for seed in range(10):
        one, two = (spatial_matrix(turn, (1.0, 1.0), generator(seed)) for _ in range(2))
        assert (one is None and two is None) or torch.equal(one, two)


def test_nnunet_s_own_list_mirrors_along_all_axes_and_turns_all_the_way():
    paired = {"swap": ((1, 2),), "swap_axis": 1, "mirror": (0,)}
    how = augmentation(config(recipe={"augmentation": "nnunet"}, **paired), TWO)
    assert how.mirror == (0, 1)
    assert how.swap_axis is None
    assert how.turn.angle == pytest.approx(pi)
    ours = augmentation(config(recipe={"augmentation": "full"}, **paired), TWO)
    assert (ours.mirror, ours.swap_axis) == ((0,), 1)
    assert augmentation(config(recipe={"augmentation": "nnunet"}), TWO).turn.angle == pytest.approx(pi)
    assert how.intensity == ours.intensity


@pytest.mark.parametrize(
    ("patch", "plane", "angle"),
    [
        ((64, 64), (0, 1), pi),
        ((64, 97), (0, 1), pi / 12),
        ((22, 64, 64), (0, 1, 2), pi / 6),
        ((21, 64, 32), (1, 2), pi),  # nnU-Net turns these all the way, however long they are
        ((64, 64, 16), (0, 1, 2), pi / 6),  # and looks at the first axis alone
    ],
)
def test_nnunet_s_rotations_follow_from_the_patch_alone(patch, plane, angle):
    dim = len(patch)
    how = augmentation(config(dim, patch, spacing=(5.0, *(1.0,) * (dim - 1)), recipe={"augmentation": "nnunet"}), TWO)
    assert how.turn.plane == plane
    assert how.turn.angle == pytest.approx(angle)
    assert how.spacing == (1.0,) * dim
    assert (how.turn.rotate, how.turn.scale) == (0.2, 0.2)


@pytest.mark.parametrize(("inverse", "low", "high"), [(False, 0.7, 1.4), (True, 1 / 1.4, 1 / 0.7)])
def test_nnunet_scales_where_it_reads(inverse, low, high):
    turn = Turn(0.0, 0.0, 1.0, 0.7, 1.4, (0, 1), inverse=inverse)
    larger = [1 / spatial_matrix(turn, (1.0, 1.0), generator(seed))[0, 0].item() for seed in range(400)]
    assert low <= min(larger) < low * 1.02
    assert high / 1.02 < max(larger) <= high
    nnunet = augmentation(config(recipe={"augmentation": "nnunet"}), TWO).turn
    assert (nnunet.inverse, nnunet.smallest, nnunet.largest) == (True, 0.7, 1.4)


def test_slices_are_turned_by_whole_degrees_as_scipy_turns_them():
    how = augmentation(config(recipe={"augmentation": "synapse"}, spacing=(3.0, 1.0)), TWO)
    turn, spacing = how.turn, how.spacing
    matrices = [spatial_matrix(turn, spacing, generator(seed)) for seed in range(1200)]
    angles = [torch.rad2deg(torch.atan2(m[0, 1], m[0, 0])).item() for m in matrices if m is not None]
    assert sorted({round(angle, 6) for angle in angles}) == list(range(-20, 20))
    assert 500 < len(angles) < 700
    image = torch.randn(1, 17, 17)
    box = torch.nn.functional.pad(image, (6,) * 4)
    for seed in range(6):
        matrix = spatial_matrix(replace(turn, rotate=1.0), spacing, generator(seed))
        angle = torch.rad2deg(torch.atan2(matrix[0, 1], matrix[0, 0])).item()
        theirs = ndimage.rotate(image[0].numpy(), round(angle), order=0, reshape=False)
        found = warp(box, torch.zeros(box.shape[1:], dtype=torch.int16), matrix, (17, 17), nearest=True)[0][0]
        inside = theirs != 0  # scipy ends at the centres of the outermost voxels, we at their edges
        assert inside.mean() > 0.75
        assert (found.numpy() == theirs)[inside].mean() > 0.99  # ties between neighbours may be broken otherwise


def test_the_nearest_voxel_may_be_asked_of_images_too():
    image, labels = torch.randn(1, 9, 9), torch.zeros(9, 9, dtype=torch.int16)
    known = set(image.flatten().tolist())
    assert set(warp(image, labels, rotation(0.4), (5, 5), nearest=True)[0].flatten().tolist()) <= known
    assert not set(warp(image, labels, rotation(0.4), (5, 5))[0].flatten().tolist()) <= known


def test_vm_unet_turns_skin_lesions_by_one_angle_a_run():
    asked = config(recipe={"augmentation": "isic"})
    one, same, other = (augmentation(asked, TWO, seed).turn for seed in (0, 0, 1))
    assert one.fixed == same.fixed != other.fixed
    assert one.nearest
    assert augmentation(asked, TWO).mirror == (0, 1)
    assert all(0 <= augmentation(asked, TWO, seed).turn.fixed < 2 * pi for seed in range(20))
    assert max(augmentation(asked, TWO, seed).turn.fixed for seed in range(20)) > 1.5 * pi
    matrices = [spatial_matrix(one, (1.0, 1.0), generator(seed)) for seed in range(40)]
    turned = [matrix for matrix in matrices if matrix is not None]
    assert 10 < len(turned) < 30
    assert all(torch.equal(matrix, turned[0]) for matrix in turned)


def test_quarter_turns_take_image_and_labels_together_and_square_patches_only_by_one_quarter():
    for shape, count in (((4, 4), 4), ((4, 6), 2), ((3, 4, 4), 4)):
        labels = torch.arange(torch.tensor(shape).prod().item(), dtype=torch.int16).reshape(shape)
        seen = set()
        for seed in range(80):
            image, turned = quarter_turn(labels[None].float(), labels, generator(seed))
            assert torch.equal(image[0].to(torch.int16), turned)
            assert sorted(turned.flatten().tolist()) == labels.flatten().tolist()
            seen.add(tuple(turned.flatten().tolist()))
        assert len(seen) == count  # every reflection, as a turn and one flip make one


def test_slices_are_turned_by_quarters_or_a_little_and_never_both():
    how = augmentation(config(recipe={"augmentation": "synapse"}), TWO)
    assert how.quarters == 0.5
    assert how.turn.angle == pytest.approx(pi / 9)
    assert how.mirror == ()
    assert how.intensity == ()
    patches_of = patches([case(shape=(16, 16))], config(patch=(16, 16)), TWO, replace(how, turn=None), 0)
    labels = case(shape=(16, 16)).labels
    ways = [torch.rot90(torch.from_numpy(labels), k).flip(axis).long() for k in range(4) for axis in (0, 1)]
    seen = [patches_of(number).target[0] for number in range(30)]
    still = [torch.equal(patch, torch.from_numpy(labels).long()) for patch in seen]
    assert all(s or any(torch.equal(patch, way) for way in ways) for s, patch in zip(still, seen, strict=True))
    assert 5 < sum(still) < 25
