"""An image is recognised however it is stored; what says nothing is not compared."""

from pathlib import Path

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from mambino.core.dataset import Case
from mambino.core.grid import pixel_grid
from mambino.core.image import Image
from mambino.inspection.facts import CaseFacts, FileFacts, digest
from mambino.inspection.leakage import repeats


@given(seed=st.integers(0, 99), axes=st.permutations(range(3)), axis=st.integers(0, 2))
@settings(max_examples=30, deadline=None)
def test_the_digest_depends_on_neither_type_nor_orientation(seed, axes, axis):
    array = np.random.default_rng(seed).integers(0, 99, (2, 3, 4, 5))
    grid = pixel_grid((3, 4, 5), (3.0, 2.0, 1.0))
    turned = np.flip(array.transpose(0, *(a + 1 for a in axes)), axis + 1)
    other = Image(turned.astype(np.float32), grid.transpose(tuple(axes)).flip(axis))
    assert digest(other) == digest(Image(array, grid))
    changed = array.copy()
    changed[0, 0, 0, 0] += 1
    assert digest(Image(changed, grid)) != digest(other)


def case(name: str, seen: str, *, training: bool = True, constant: bool = False) -> CaseFacts:
    image = FileFacts(Path(name), channels=1, ranges=((0.0, 0.0 if constant else 1.0),), digest=seen)
    return CaseFacts(Case(id=name, images=()), (image,), None, training=training)


def test_constant_images_are_no_copies_of_one_another():
    assert list(repeats([case("a", "x", constant=True), case("b", "x", constant=True)])) == []


def test_copies_within_the_test_set_are_named_as_such():
    found = list(repeats([case("a", "x", training=False), case("b", "x", training=False)]))
    assert [(f.severity, f.case) for f in found] == [("warning", "b")]
    assert "the test image holds the same voxels as a" in found[0].message


def test_three_copies_are_two_too_many():
    assert [f.case for f in repeats([case("a", "x"), case("b", "x"), case("c", "x")])] == ["b", "c"]
