"""Labels are found by looking at the masks: black and white, numbers, colours, and noise that is none."""

import numpy as np
import pytest

from mambino.core.labels import Labels
from mambino.errors import DataError
from mambino.imageio import read_labels
from mambino.imageio.masks import find_labels
from tests.imageio.files import grey, png


def masks_of(tmp_path, *arrays, suffix=".png"):
    return [png(tmp_path / f"{n}{suffix}", np.asarray(array, np.uint8)) for n, array in enumerate(arrays)]


def test_black_and_white_is_foreground(tmp_path):
    labels, codes, problems = find_labels(masks_of(tmp_path, grey(255), grey(0)))
    assert labels.names == {"foreground": (1,)}
    assert codes == {"255": 1}
    assert problems == ()


def test_numbers_that_follow_one_another_are_labels(tmp_path):
    labels, codes, _ = find_labels(masks_of(tmp_path, grey(2), grey(1), grey(3)))
    assert labels.names == {"label_1": (1,), "label_2": (2,), "label_3": (3,)}
    assert codes is None


def test_other_numbers_get_codes(tmp_path):
    masks = masks_of(tmp_path, grey(10), grey(2), grey(30))
    labels, codes, _ = find_labels(masks)
    assert labels.names == {"label_2": (1,), "label_10": (2,), "label_30": (3,)}
    assert codes == {"2": 1, "10": 2, "30": 3}
    assert [int(read_labels(mask, labels, codes).array.max()) for mask in masks] == [2, 1, 3]


@pytest.mark.parametrize("black", [True, False])
def test_colours_get_codes_and_the_background_is_black_or_the_most_frequent(tmp_path, black):
    array = np.zeros((6, 7, 3), np.uint8)
    array[:] = (0, 0, 0) if black else (0, 0, 255)
    array[0, :3] = 255, 0, 0
    array[1, :3] = 10, 20, 30
    masks = masks_of(tmp_path, array)
    labels, codes, problems = find_labels(masks)
    assert list(labels.names) == ["colour_10_20_30", "red"]
    assert codes == {"0,0,0" if black else "0,0,255": 0, "10,20,30": 1, "255,0,0": 2}
    assert problems == ()
    found = read_labels(masks[0], labels, codes).array
    assert np.bincount(found.ravel()).tolist() == [36, 3, 3]


def test_colours_and_grey_mix(tmp_path):
    red = np.zeros((6, 7, 3), np.uint8)
    red[0, 0] = 255, 0, 0
    masks = masks_of(tmp_path, red, grey(255))
    labels, codes, _ = find_labels(masks)
    assert labels.names == {"red": (1,), "white": (2,)}
    assert [int(read_labels(mask, labels, codes).array.max()) for mask in masks] == [1, 2]


def blob(colours=None):
    array = np.zeros((64, 64), np.uint8)
    array[20:45, 15:40] = 255
    return array if colours is None else np.asarray(colours, np.uint8)[(array > 0).astype(int)]


def test_the_noise_of_jpeg_is_named_and_no_label(tmp_path):
    labels, codes, problems = find_labels(masks_of(tmp_path, blob(), suffix=".jpg"))
    assert labels.names == {"foreground": (1,)}
    assert codes == {"255": 1}
    assert [problem.kind for problem in problems] == ["noisy masks"]
    assert "noise of a lossy format such as JPEG" in problems[0].message
    assert "mambino check DATA --repair -o COPY" in problems[0].remedy


def test_the_noise_of_jpeg_in_colours_is_named(tmp_path):
    noisy = blob([[0, 0, 0], [250, 40, 20]])
    labels, codes, problems = find_labels(masks_of(tmp_path, noisy, suffix=".jpg"))
    assert [problem.kind for problem in problems] == ["noisy masks"]
    assert codes["0,0,0"] == 0
    assert isinstance(labels, Labels)


def test_a_mask_that_cannot_be_read_is_a_problem_and_the_others_count(tmp_path):
    masks = masks_of(tmp_path, grey(1), grey(2))
    masks[0].write_bytes(b"\x89PNG nothing")
    labels, _, problems = find_labels(masks)
    assert labels.names == {"foreground": (1,)}
    assert [(problem.kind, "0.png" in problem.message) for problem in problems] == [("unreadable", True)]


def test_masks_without_foreground_are_refused(tmp_path):
    with pytest.raises(DataError, match="the masks hold nothing but background"):
        find_labels(masks_of(tmp_path, grey(0)))
    blue = np.zeros((4, 4, 3), np.uint8) + np.array([0, 0, 255], np.uint8)
    with pytest.raises(DataError, match="the masks hold nothing but background"):
        find_labels(masks_of(tmp_path / "blue", blue))


def test_changed_masks_are_looked_at_again(tmp_path):
    masks = masks_of(tmp_path, grey(1))
    assert find_labels(masks)[1] is None
    masks_of(tmp_path, np.pad(grey(255), 9))
    assert find_labels(masks)[1] == {"255": 1}
