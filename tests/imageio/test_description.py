"""dataset.json of nnU-Net is understood as nnU-Net understands it, and faults are named by file and key."""

import json

import pytest

from mambino.errors import DataError, FileFormatError
from mambino.imageio.description import describe

PLAIN = {"channel_names": {"0": "CT"}, "labels": {"background": 0, "a": 1}, "file_ending": ".nii.gz"}


def described(tmp_path, **facts):
    (tmp_path / "dataset.json").write_text(json.dumps({**PLAIN, **facts}))
    return describe(tmp_path / "dataset.json")


def test_labels_are_ordered_by_number_and_channels_by_place(tmp_path):
    labels = {"b": 2, "background": 0, "c": 3, "a": 1}
    found = described(tmp_path, labels=labels, channel_names={"1": "FLAIR", "0": "T1"}, name="brains", more="ignored")
    assert found.labels.names == {"a": (1,), "b": (2,), "c": (3,)}
    assert list(found.labels.names) == ["a", "b", "c"]
    assert found.channels == ("T1", "FLAIR")
    assert (found.name, found.ending, found.files, found.codes) == ("brains", ".nii.gz", None, None)


def test_ten_channels_and_more_keep_their_order(tmp_path):
    found = described(tmp_path, channel_names={str(n): f"c{n}" for n in range(12)})
    assert found.channels[2:] == tuple(f"c{n}" for n in range(2, 12))


def test_regions_and_the_ignore_label_are_kept(tmp_path):
    labels = {"background": 0, "whole": [1, 2, 3], "core": [2, 3], "enhancing": 3, "ignore": 4}
    found = described(tmp_path, labels=labels, regions_class_order=[1, 2, 3]).labels
    assert found.names == {"whole": (1, 2, 3), "core": (2, 3), "enhancing": (3,)}
    assert list(found.names) == ["whole", "core", "enhancing"]
    assert (found.ignore, found.paint) == (4, (1, 2, 3))


def test_the_older_form_is_understood(tmp_path):
    facts = {"modality": {"0": "MRI"}, "labels": {"0": "background", "1": "anterior", "2": "posterior"}}
    (tmp_path / "dataset.json").write_text(json.dumps(facts))
    found = describe(tmp_path / "dataset.json")
    assert found.labels.names == {"anterior": (1,), "posterior": (2,)}
    assert found.channels == ("MRI",)
    assert found.ending is None


def test_gaps_are_told_and_translated(tmp_path):
    found = described(tmp_path, labels={"background": 0, "a": 2, "b": 5, "ignore": 9})
    assert found.labels.names == {"a": (1,), "b": (2,)}
    assert found.labels.ignore == 3
    assert found.codes == {"2": 1, "5": 2, "9": 3}
    assert "without gaps, got [2, 5, 9]" in found.problems[0].message


def test_listed_files_and_patients_are_read(tmp_path):
    files = {"x": {"images": ["i/x.png"], "label": "l/x.png"}, "y": {"images": ["i/y.png"]}}
    found = described(tmp_path, dataset=files, patients={"x": 7})
    assert found.files == {
        "x": ((tmp_path / "i/x.png",), tmp_path / "l/x.png"),
        "y": ((tmp_path / "i/y.png",), None),
    }
    assert found.patients == {"x": "7"}


@pytest.mark.parametrize(
    ("facts", "words"),
    [
        ({"channel_names": {}}, "names no channels"),
        ({"channel_names": ["CT"]}, r"channel_names must be a mapping, got \['CT'\]"),
        ({"channel_names": {"1": "CT"}}, "channel_names must be numbered from 0, got 1"),
        ({"labels": {}}, "names no labels"),
        ({"labels": {"a": "one"}}, "label a must be a number or a list of numbers, got 'one'"),
        ({"labels": {"a": True}}, "label a must be a number or a list of numbers, got True"),
        ({"labels": {"a": []}}, r"label a must be a number or a list of numbers, got \[\]"),
        ({"labels": {"a": [0, 1]}}, "a region cannot hold 0, which is background"),
        ({"labels": {"a": 1, "ignore": [2, 3]}}, r"the ignore label must be one number, got \[2, 3\]"),
        ({"labels": {"background": 0}}, "labels need at least one structure"),
        ({"labels": {"a": -1}}, "label numbers start at 1"),
        ({"labels": {"a": [1, 2], "b": 2}}, "2 regions need as many entries in regions_class_order, got 0"),
        ({"regions_class_order": "1"}, "regions_class_order must be a list of numbers, got '1'"),
        ({"regions_class_order": [4]}, r"regions_class_order \[4\] holds numbers that no label has; known are \[1\]"),
        ({"file_ending": 3}, "file_ending must be text, got 3"),
        ({"dataset": {"x": {"images": "x.png"}}}, 'dataset.x needs "images": a list of paths'),
        ({"dataset": {"x": {"images": ["x.png"], "label": 3}}}, "dataset.x.label must be a path, got 3"),
    ],
)
def test_faults_are_named_by_file_and_key(tmp_path, facts, words):
    with pytest.raises(DataError, match=words) as refusal:
        described(tmp_path, **facts)
    assert "dataset.json" in str(refusal.value)


def test_what_is_no_description_is_refused(tmp_path):
    file = tmp_path / "dataset.json"
    with pytest.raises(FileFormatError, match=r"dataset.json cannot be read"):
        describe(file)
    file.write_text("{")
    with pytest.raises(FileFormatError, match=r"dataset.json is not JSON"):
        describe(file)
    file.write_text("[]")
    with pytest.raises(FileFormatError, match=r"is not a description of a data set: it holds a list"):
        describe(file)
