"""Records are read strictly and written whole or not at all."""

import errno
import json
from pathlib import Path

import pytest

from mambino.core.fingerprint import Fingerprint
from mambino.core.labels import Labels
from mambino.core.options import TrainOptions
from mambino.core.records import checked, dump, parse, read, replacing, write
from mambino.errors import FileFormatError, OptionError


def test_what_is_written_is_read_back(tmp_path):
    options = TrainOptions(fold="all", minutes=3.5, patience=2)
    assert read(TrainOptions, write(options, tmp_path / "options.json")) == options


def test_an_unknown_key_is_named(tmp_path):
    path = tmp_path / "options.json"
    path.write_text('{"epoch": 3}')
    with pytest.raises(FileFormatError, match=r"options\.json is not a valid trainoptions: epoch: Unexpected keyword"):
        read(TrainOptions, path)


def test_a_wrong_type_is_named_by_place(tmp_path):
    path = tmp_path / "options.json"
    path.write_text(dump(TrainOptions()).replace('"folds": 5', '"folds": "five"'))
    with pytest.raises(FileFormatError, match=r'folds: Input should be a valid integer, got "five"$') as caught:
        read(TrainOptions, path)
    assert caught.value.hint == "correct the file, or remove it to have it made again"


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileFormatError, match=r"nowhere\.json cannot be read: No such file") as caught:
        read(TrainOptions, tmp_path / "nowhere.json")
    assert "check the path" in caught.value.hint


def test_options_out_of_range_are_named():
    with pytest.raises(OptionError, match="--minutes -1: input should be greater than 0") as caught:
        checked(TrainOptions(minutes=-1))
    assert "--help" in caught.value.hint
    assert checked(TrainOptions()) == TrainOptions()


def test_parse_names_its_source():
    with pytest.raises(FileFormatError, match="the header of x is not a valid trainoptions") as caught:
        parse(TrainOptions, "[]", "the header of x", hint="ask x")
    assert caught.value.hint == "ask x"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "x is not a valid trainoptions: Invalid JSON: EOF while parsing a value at line 1 column 0"),
        ("[1]", r"x is not a valid trainoptions: Input should be an object, got \[1\]"),
        ('{"fold": "none"}', 'trainoptions: fold: Input should be of another type, got "none"'),
        ('{"device": "tpu"}', "device: Input should be 'auto', 'cpu', 'cuda' or 'mps', got \"tpu\""),
        ('{"seed": -1, "folds": 1, "threads": -1, "patience": -1, "x": 0}', ", got -1; and 2 more"),
        (json.dumps({"model": list(range(99))}), r"model: Input should be a valid string, got \[0, 1, .*…"),
    ],
)
def test_what_is_wrong_is_said_without_noise(text, words):
    with pytest.raises(FileFormatError, match=f"{words}$") as caught:
        parse(TrainOptions, text, "x")
    assert ": : " not in str(caught.value)


def test_what_a_record_refuses_itself_is_said_in_its_own_words():
    with pytest.raises(FileFormatError, match=r"x is not a valid labels: label numbers start at 1") as caught:
        parse(Labels, '{"names": {"a": [0]}}', "x")
    assert "Value error" not in str(caught.value)


def test_another_format_is_refused_by_both_numbers_whatever_else_is_new():
    text = '{"format": 9, "something": "new"}'
    with pytest.raises(FileFormatError, match="x has format 9, but this version of mambino reads format 1") as caught:
        parse(Fingerprint, text, "x", hint="measure again")
    assert caught.value.hint == "use the version of mambino that wrote it, or measure again"
    with pytest.raises(FileFormatError, match="format: Input should be a valid integer"):
        parse(Fingerprint, '{"format": "one"}', "x")


def test_a_block_that_fails_leaves_the_old_file_and_nothing_else(tmp_path):
    target = tmp_path / "mask.nii.gz"
    target.write_text("old")

    def fill() -> None:
        with replacing(target) as part:
            assert part.name.endswith("mask.nii.gz")
            part.write_text("half")
            raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(FileFormatError, match=r"mask\.nii\.gz cannot be written: No space left on device"):
        fill()
    assert target.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["mask.nii.gz"]


def test_a_folder_that_cannot_be_made_is_an_error(tmp_path):
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(FileFormatError, match="cannot be written"),
        replacing(tmp_path / "file" / "below" / "mask.png"),
    ):
        pass


def test_replacing_makes_folders(tmp_path):
    with replacing(tmp_path / "a" / "b" / "c.txt") as part:
        part.write_text("x")
    assert Path(tmp_path / "a" / "b" / "c.txt").read_text() == "x"
