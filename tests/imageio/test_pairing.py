"""Names alone decide which files belong together."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mambino.imageio.pairing import formed, grouped, partners

names = st.lists(st.text("abc_", min_size=1, max_size=6), min_size=1, max_size=6, unique=True)


@given(names, st.integers(1, 4), st.sampled_from([".nii.gz", ".png"]))
def test_channel_files_are_grouped_in_order(cases, channels, suffix):
    files = [Path(f"{case}_{channel:04d}{suffix}") for channel in reversed(range(channels)) for case in cases]
    found, problems = formed(grouped(files)[0], channels)
    assert problems == []
    assert list(found) == sorted(cases)
    for case in cases:
        assert found[case].images == tuple(Path(f"{case}_{channel:04d}{suffix}") for channel in range(channels))


@given(names, st.sampled_from(["", "_mask", "_seg", "_label", "-label", "_segmentation", "_gt", "_Segmentation"]))
def test_every_mask_finds_its_image(cases, ending):
    masks = [Path(f"{case}{ending}.png") for case in cases]
    found, problems = partners(cases, masks)
    assert found == dict(zip(cases, masks, strict=True))
    assert problems == []


def test_numbers_are_part_of_the_name_where_no_channels_are_numbered():
    files = [Path("ISIC_0034.png"), Path("ISIC_0035.png")]
    found, _ = formed(grouped(files)[0], 3)
    assert list(found) == ["ISIC_0034", "ISIC_0035"]


@pytest.mark.parametrize(
    ("files", "channels", "words"),
    [
        (["a_0000.png", "a_0001.png"], 1, r"case a has 2 channel files \(a_0000.png, a_0001.png\), 1 are needed"),
        (["a_0000.png", "a_0001.png"], 3, "case a has 2 channel files .*, 3 are needed"),
        (["a_0000.nii.gz"], 2, "case a has 1 channel files .*, 2 are needed"),
        (["a_0000.png", "b_0000.png", "b_0001.png"], 2, "case a has 1 channel files .*, 2 are needed"),
        (["a_0000.png", "a_0002.png"], 2, "case a has 2 channel files .*, 2 are needed"),
        (["a_0000.png", "b_0001.png"], 1, "case b has 1 channel files .*, 1 are needed"),
    ],
)
def test_wrong_channel_files_are_named_with_both_numbers(files, channels, words):
    found, problems = formed(grouped(map(Path, files))[0], channels)
    assert len(problems) == 1
    assert problems[0].kind == "channels"
    assert problems[0].case not in found
    with pytest.raises(AssertionError, match=words):
        raise AssertionError(problems[0].message)


def test_one_picture_may_hold_all_channels():
    assert formed(grouped([Path("a_0000.png")])[0], 3)[0]["a"].images == (Path("a_0000.png"),)
    assert formed(grouped([Path("a.nii.gz")])[0], 3)[0]["a"].images == (Path("a.nii.gz"),)


def test_two_files_of_one_name_are_told():
    _, problems = grouped([Path("x/a.png"), Path("x/a.jpg")])
    assert [problem.message for problem in problems] == ["case a has two images: a.png and a.jpg in x"]
    found, problems = partners(["a"], [Path("x/a_mask.png"), Path("x/a.png")])
    assert found == {"a": Path("x/a.png")}
    assert [problem.message for problem in problems] == ["case a has two masks: a.png and a_mask.png in x"]


def test_a_mask_without_an_image_is_told():
    _, problems = partners(["a"], [Path("a.png"), Path("b_mask.png")])
    assert [(problem.kind, problem.case) for problem in problems] == [("missing image", "b")]
    assert "the mask b_mask.png has no image" in problems[0].message
