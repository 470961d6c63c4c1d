"""Records are read strictly and written whole or not at all."""

import errno
from pathlib import Path

import pytest

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
    with pytest.raises(FileFormatError, match="folds: Input should be a valid integer"):
        read(TrainOptions, path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileFormatError, match=r"nowhere\.json cannot be read: No such file"):
        read(TrainOptions, tmp_path / "nowhere.json")


def test_options_out_of_range_are_named():
    with pytest.raises(OptionError, match="--minutes -1: input should be greater than 0"):
        checked(TrainOptions(minutes=-1))
    assert checked(TrainOptions()) == TrainOptions()


def test_parse_names_its_source():
    with pytest.raises(FileFormatError, match="the header of x is not a valid trainoptions"):
        parse(TrainOptions, "[]", "the header of x")


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
