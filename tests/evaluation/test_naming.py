"""Names come from what is declared, else the numbers name themselves."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Picture

from mambino.core.report import Expected
from mambino.errors import DataError, FileFormatError
from mambino.evaluation.naming import declared, find_model
from mambino.evaluation.pairing import Pair


def pairs(folder: Path, *rows: tuple[list[int], list[int]]) -> list[Pair]:
    """Masks of one row each: (prediction, truth)."""
    found = []
    for i, sides in enumerate(rows):
        paths = []
        for side, row in zip(("made", "true"), sides, strict=True):
            path = folder / side / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Picture.fromarray(np.array([row], np.uint8)).save(path)
            paths.append(path)
        found.append(Pair(str(i), *paths))
    return found


def description(path: Path, labels: dict[str, object]) -> Path:
    path.write_text(json.dumps({"name": "Heart", "channel_names": {"0": "CT"}, "labels": labels}))
    return path


def names(found) -> dict[str, tuple[int, ...]]:
    return found.structures.labels.names


def test_the_description_beside_the_truth_is_found(tmp_path):
    description(tmp_path / "dataset.json", {"background": 0, "atrium": 1})
    found = declared(None, tmp_path / "labelsTs", [])
    assert (names(found), found.dataset) == ({"atrium": (1,)}, "Heart")


def test_a_description_or_its_folder_can_be_given(tmp_path):
    path = description(tmp_path / "dataset.json", {"background": 0, "atrium": 1})
    assert names(declared(path, tmp_path / "far" / "away", [])) == {"atrium": (1,)}
    assert names(declared(tmp_path, tmp_path / "far" / "away", [])) == {"atrium": (1,)}


def test_a_plain_folder_brings_the_codes_of_its_masks(tmp_path):
    for kind, value in (("images", 90), ("masks", 255)):
        (tmp_path / kind).mkdir()
        Picture.fromarray(np.array([[0, value]], np.uint8)).save(tmp_path / kind / "a.png")
    found = declared(tmp_path, tmp_path / "masks", []).structures
    assert (found.truth_codes, found.prediction_codes) == ({"255": 1}, (None, {"255": 1}))


def test_numbers_name_themselves(tmp_path):
    found = declared(None, tmp_path / "true", pairs(tmp_path, ([0, 1, 2], [0, 2, 3])))
    assert list(names(found)) == ["label_1", "label_2", "label_3"]


def test_black_and_white_masks_have_one_structure_whatever_its_number(tmp_path):
    found = declared(None, tmp_path / "true", pairs(tmp_path, ([0, 1], [0, 255]))).structures
    assert found.labels.names == {"foreground": (1,)}
    assert (found.truth_codes, found.prediction_codes) == ({"255": 1}, (None,))


def test_one_empty_side_takes_the_names_of_the_other(tmp_path):
    found = declared(None, tmp_path / "true", pairs(tmp_path, ([0, 0], [0, 255]))).structures
    assert found.prediction_codes == ({"255": 1},)


def test_masks_that_are_all_empty_are_refused(tmp_path):
    with pytest.raises(DataError, match="the masks hold nothing but background"):
        declared(None, tmp_path / "true", pairs(tmp_path, ([0, 0], [0, 0])))


@pytest.mark.parametrize(
    ("text", "message"),
    [(None, "cannot be read"), ("{", "is not JSON"), ("[1]", "holds no JSON object, but a list")],
)
def test_a_bad_description_is_named(tmp_path, text, message):
    path = tmp_path / "labels.json"
    if text:
        path.write_text(text)
    with pytest.raises(FileFormatError, match=message):
        declared(path, tmp_path, [])


def test_a_model_is_known_by_its_record(tmp_path):
    assert find_model(tmp_path, ["a"]) == (None, (), ())
    entries = [{"case": "a", "made_by": "x"}, {"case": "b", "made_by": "x"}, {"case": "z", "made_by": "y"}]
    record = {
        "bundles": ["ab12"],
        "networks": ["unet"],
        "options": {"mirror": True, "overlap": 0.5},
        "entries": entries,
    }
    (tmp_path / "predict.json").write_text(json.dumps(record))
    model, expected, notes = find_model(tmp_path, ["a", "b"])
    assert (model.bundles, model.networks, expected, notes) == (("ab12",), ("unet",), (), ())
    assert model.options == {"mirror": "yes", "overlap": "0.5"}


def test_masks_of_another_origin_are_told(tmp_path):
    entries = [{"case": "a", "made_by": "x"}, {"case": "b", "made_by": "y"}, {"case": "c", "made_by": ""}]
    (tmp_path / "predict.json").write_text(json.dumps({"bundles": ["x"], "options": {}, "entries": entries}))
    _, _, notes = find_model(tmp_path, ["a", "b", "c", "d"])
    assert notes[0] == "2 of 4 predictions were not made by the model named here."
    assert "several models" in notes[1]


def test_how_sure_the_model_was_is_known_of_masks_that_are_still_its_own(tmp_path):
    entries = [
        {"case": case, "status": status, "doubt": {"entropy": 0.1, "expected_dice": 0.75, "dice_at_least": 0.5, **more}}
        for case, status, more in (
            ("a", "made", {"trusted": False}),
            ("b", "kept", {"trusted": True}),
            ("c", "untouched", {"trusted": False}),
            ("d", "failed", {"trusted": False}),
            ("e", "made", {"expected_dice": None, "dice_at_least": None}),
            ("elsewhere", "made", {"trusted": False}),
        )
    ]
    entries.append({"case": "f", "status": "made", "doubt": None})
    (tmp_path / "predict.json").write_text(json.dumps({"bundles": ["x"], "options": {}, "entries": entries}))
    _, expected, _ = find_model(tmp_path, list("abcdefg"))
    assert expected == (
        Expected(case="a", dice=0.75, at_least=0.5, trusted=False),
        Expected(case="b", dice=0.75, at_least=0.5, trusted=True),
        Expected(case="e"),
    )


@pytest.mark.parametrize(
    "content",
    [
        '{"entries": [{"case": "a", "status": "made", "doubt": 1}]}',
        '{"entries": [{"case": "a", "status": "made", "doubt": {"expected_dice": "x"}}]}',
        '{"entries": [{"case": "a", "status": "made", "doubt": {"dice_at_least": 1e999}}]}',
        '{"entries": 1}',
        '{"entries": [1]}',
        '{"entries": [], "options": 3}',
        '{"entries": [], "bundles": 0.5}',
    ],
)
def test_a_record_of_predictions_of_another_shape_is_refused(tmp_path, content):
    (tmp_path / "predict.json").write_text(content)
    with pytest.raises(FileFormatError, match=r"predict\.json is no record of predictions"):
        find_model(tmp_path, ["a"])


def test_json_that_is_nested_without_end_is_refused(tmp_path):
    (tmp_path / "predict.json").write_text("[" * 100_000)
    with pytest.raises(FileFormatError, match=r"predict\.json is not JSON: it is nested too deeply"):
        find_model(tmp_path, ["a"])
