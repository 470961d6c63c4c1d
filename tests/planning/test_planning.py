"""`plan` writes what it returns, measures once, and keeps away from the plans of other data sets."""

import errno
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from mambino.core.fingerprint import Fingerprint
from mambino.core.options import PlanOptions
from mambino.core.plan import Plan
from mambino.core.records import read
from mambino.errors import DataError, FileFormatError, OptionError
from mambino.planning import plan
from tests.planning.measured import price, write_pictures, write_volumes


@pytest.fixture(autouse=True)
def _quick_clock(monkeypatch, request):
    if "timed" not in request.node.name:
        monkeypatch.setattr("mambino.planning.choice.clock", lambda _: price())


OPTIONS = PlanOptions(device="cpu", minutes=1.0, params=400_000, workers=1)


def test_what_is_timed_and_written_is_what_is_returned(tmp_path):
    made = plan(write_volumes(tmp_path / "data"), tmp_path / "work", OPTIONS)
    assert read(Plan, tmp_path / "work" / "plan.json") == made
    assert len(read(Fingerprint, tmp_path / "work" / "fingerprint.json").cases) == 3
    config = made.config(made.default)
    assert config.orientation == "RAS"
    assert config.step > 0
    assert config.memory > 0


def test_planning_again_measures_nothing(tmp_path):
    data = write_pictures(tmp_path / "data")
    plan(data, tmp_path / "work", OPTIONS)
    seen = []
    plan(data, tmp_path / "work", replace(OPTIONS, minutes=2.0), progress=lambda *step: seen.append(step))
    assert not [step for step in seen if step[2].startswith("case")]


def test_the_plan_of_another_data_set_is_not_replaced(tmp_path):
    plan(write_pictures(tmp_path / "first"), tmp_path / "work", OPTIONS)
    write_pictures(tmp_path / "second")
    with pytest.raises(OptionError, match=r"plan.json is the plan of first in .*first, not of second in .*second"):
        plan(tmp_path / "second", tmp_path / "work", OPTIONS)


def test_a_data_set_that_has_moved_is_the_same(tmp_path):
    plan(write_pictures(tmp_path / "here" / "set"), tmp_path / "work", OPTIONS)
    shutil.move(tmp_path / "here" / "set", tmp_path / "set")
    assert plan(tmp_path / "set", tmp_path / "work", OPTIONS).folder == str(tmp_path / "set")


def test_a_typo_in_plan_json_is_named(tmp_path):
    data = write_pictures(tmp_path / "data")
    plan(data, tmp_path / "work", OPTIONS)
    path = tmp_path / "work" / "plan.json"
    path.write_text(path.read_text().replace('"batch"', '"bacth"'))
    with pytest.raises(FileFormatError, match=r"plan.json is not a valid plan: .*bacth") as caught:
        plan(data, tmp_path / "work", OPTIONS)
    assert caught.value.hint == f"correct it, or remove {path} to plan anew, or choose another output folder with -o"


@pytest.mark.parametrize(("file", "left"), [("fingerprint.json", []), ("plan.json", ["fingerprint.json"])])
def test_a_full_disk_leaves_nothing_half_written(tmp_path, monkeypatch, file, left):
    data = write_pictures(tmp_path / "data")
    write_text = Path.write_text

    def full(self, *text, **how):
        if self.name.endswith(file):
            write_text(self, "half", **how)
            raise OSError(errno.ENOSPC, "No space left on device")
        return write_text(self, *text, **how)

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(FileFormatError, match=f"{file} cannot be written: No space left on device") as caught:
        plan(data, tmp_path / "work", OPTIONS)
    assert "free some space" in caught.value.hint
    assert [path.name for path in (tmp_path / "work").iterdir()] == left


def test_images_without_labels_are_refused(tmp_path):
    data = write_pictures(tmp_path / "data")
    shutil.rmtree(data / "labelsTr")
    with pytest.raises(DataError):
        plan(data, tmp_path / "work", OPTIONS)
    assert not (tmp_path / "work" / "plan.json").exists()


def test_options_out_of_range_are_refused(tmp_path):
    with pytest.raises(OptionError, match="--minutes"):
        plan(tmp_path, tmp_path / "work", PlanOptions(minutes=-1.0))
