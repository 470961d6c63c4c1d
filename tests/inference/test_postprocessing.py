"""Mending a mask: pieces are those that brute force finds, sizes are in mm³, and other structures stay."""

from itertools import product

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mambino.cli.app import main
from mambino.core.grid import Grid
from mambino.core.image import Segmentation
from mambino.core.labels import Labels
from mambino.core.options import PredictOptions
from mambino.errors import OptionError
from mambino.inference import predict
from mambino.inference.postprocessing import holes, mended, pieces, rules
from tests.tiny import bright_bundle, know, saved

ORGANS = Labels(names={"liver": (1,), "tumour": (2,)})
NESTED = Labels(names={"whole": (1, 2), "core": (2,)}, paint=(1, 2))


def masks(most=7):
    shapes = st.tuples(st.integers(1, most), st.integers(1, most), st.integers(1, most)) | st.tuples(
        st.integers(1, most), st.integers(1, most)
    )
    return st.builds(
        lambda shape, share, seed: np.random.default_rng(seed).random(shape) < share,
        shapes,
        st.sampled_from([0.0, 0.1, 0.3, 0.7, 1.0]),
        st.integers(0, 99),
    )


def flooded(mask, steps):
    """Return the pieces of a mask as sets of places, found by walking from place to place."""
    left, found = set(map(tuple, np.argwhere(mask).tolist())), []
    for start in sorted(left):
        if start not in left:
            continue
        piece, border = {start}, [start]
        left.discard(start)
        while border:
            here = border.pop()
            near = {tuple(np.add(here, step).tolist()) for step in steps} & left
            left -= near
            piece |= near
            border += near
        found.append(piece)
    return found


def corners(dim):
    return [step for step in product((-1, 0, 1), repeat=dim) if any(step)]


def faces(dim):
    return [step for step in corners(dim) if sum(map(abs, step)) == 1]


def as_mask(places, shape):
    out = np.zeros(shape, bool)
    for place in places:
        out[place] = True
    return out


@given(mask=masks(), least=st.integers(0, 9), largest=st.booleans())
@settings(max_examples=60, deadline=None)
def test_pieces_that_stay_are_those_of_brute_force(mask, least, largest):
    found = flooded(mask, corners(mask.ndim))
    stay = [piece for piece in found if len(piece) >= least]
    if largest and stay:
        stay = [max(found, key=len)]  # the first of equals, in order of memory
    expected = as_mask(set().union(*stay), mask.shape)
    np.testing.assert_array_equal(pieces(mask, largest=largest, least=least), expected)


@given(mask=masks())
@settings(max_examples=60, deadline=None)
def test_holes_are_the_background_that_does_not_reach_the_border(mask):
    def inner(piece):
        return all(0 < i < n - 1 for place in piece for i, n in zip(place, mask.shape, strict=True))

    expected = as_mask(set().union(*filter(inner, flooded(~mask, faces(mask.ndim)))), mask.shape)
    np.testing.assert_array_equal(holes(mask), expected)


def segmentation(array, labels=ORGANS, spacing=1.0):
    return Segmentation(np.asarray(array, np.uint8), Grid(np.shape(array), np.diag([spacing] * 2 + [1.0])), labels)


def test_a_stray_piece_goes_and_other_structures_stay():
    array = [[1, 1, 0, 1], [1, 0, 0, 0], [0, 0, 2, 0]]
    for names in (("liver",), ("all",)):
        out = mended(segmentation(array), rules(PredictOptions(largest=names), ORGANS))
        np.testing.assert_array_equal(out.array, [[1, 1, 0, 0], [1, 0, 0, 0], [0, 0, 2, 0]])


@pytest.mark.parametrize(("size", "left"), [(3.9, 3), (4, 3), (4.1, 2), (12.1, 0)])
def test_sizes_are_in_millimetres(size, left):
    array = [[1, 0, 1], [0, 0, 1], [2, 0, 0]]  # two millimetres a side: pieces of 4 and 8 mm²
    out = mended(segmentation(array, spacing=2.0), rules(PredictOptions(min_size=(f"liver={size}",)), ORGANS))
    assert (out.array == 1).sum() == left
    assert (out.array == 2).sum() == 1


def test_only_background_is_filled():
    array = np.ones((5, 5), np.uint8)
    array[1, 1], array[3, 3] = 0, 2
    out = mended(segmentation(array), rules(PredictOptions(fill=("liver",)), ORGANS))
    array[1, 1] = 1
    np.testing.assert_array_equal(out.array, array)


def test_a_region_is_one_structure_of_all_its_numbers():
    array = [[1, 1, 1, 0, 2], [1, 0, 2, 0, 0], [1, 1, 1, 0, 0]]
    how = rules(PredictOptions(largest=("whole",), fill=("whole",)), NESTED)
    out = mended(segmentation(array, NESTED), how)
    np.testing.assert_array_equal(out.array, [[1, 1, 1, 0, 0], [1, 1, 2, 0, 0], [1, 1, 1, 0, 0]])


def test_the_mask_that_is_given_stays_as_it_is():
    given = segmentation([[1, 0, 1]])
    mended(given, rules(PredictOptions(largest=("all",)), ORGANS))
    assert given.array.tolist() == [[1, 0, 1]]
    assert mended(given, rules(PredictOptions(), ORGANS)) is given


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"largest": ("lever",)}, "--largest names 'lever', which is no label of the bundle; it has liver, tumour"),
        ({"fill": ("lever",)}, "--fill names 'lever'"),
        ({"min_size": ("lever=3",)}, "--min-size names 'lever'"),
        ({"min_size": ("liver",)}, "--min-size takes LABEL=SIZE with a size above 0, got 'liver'"),
        ({"min_size": ("liver=0",)}, "got 'liver=0'"),
        ({"min_size": ("liver=inf",)}, "got 'liver=inf'"),
        ({"min_size": ("liver=much",)}, "got 'liver=much'"),
    ],
)
def test_what_cannot_be_meant_is_refused(options, words):
    with pytest.raises(OptionError) as caught:
        rules(PredictOptions(**options), ORGANS)
    assert words in str(caught.value)


def test_the_verb_mends_masks_and_makes_them_again_where_that_changes(tmp_path, monkeypatch):
    know(monkeypatch)
    model = saved(tmp_path, bright_bundle())
    array = np.zeros((9, 9, 9), np.float32)
    array[1:6, 1:6, 1:6] = 1
    array[3, 3, 3] = 0
    array[8, 8, 8] = 1
    image = tmp_path / "scan.nii"
    nib.save(nib.Nifti1Image(array, np.eye(4)), image)

    def made(name, **options):
        (entry,) = predict(model, image, tmp_path / name, PredictOptions(**options)).entries
        return entry.status, np.asarray(nib.load(entry.file).dataobj)

    assert (made("out")[1] == array).all()
    assert made("out", largest=("all",))[0] == "untouched"
    status, mask = made("out", largest=("all",), fill=("all",), overwrite=True)
    assert (status, mask[8, 8, 8], mask[3, 3, 3], mask.sum()) == ("made", 0, 1, 125)
    words = ["predict", str(model), str(image), "-o", str(tmp_path / "line"), "--largest", "all", "--fill", "all"]
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert not ended.value.code
    np.testing.assert_array_equal(np.asarray(nib.load(tmp_path / "line" / "scan.nii.gz").dataobj), mask)
