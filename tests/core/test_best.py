"""A path names what was chosen where it is a record or a work folder; nothing else does."""

from mambino.core.best import Gain, find_best
from mambino.core.report import Statistic


def test_a_record_and_a_work_folder_are_found(tmp_path):
    assert find_best(tmp_path / "best.json") == tmp_path / "best.json"
    assert find_best(tmp_path / "image.nii.gz") is None
    (tmp_path / "best.json").write_text("{}")
    assert find_best(tmp_path) is None  # a folder of images may hold any file
    (tmp_path / "plan.json").write_text("{}")
    assert find_best(tmp_path) == tmp_path / "best.json"


def test_a_gain_is_said_in_words():
    gain = Gain(label="a", smallest=1.5, fill=True, before=0.5, after=0.6, difference=Statistic(cases=1))
    assert gain.said == "pieces below 1.5 removed, holes filled"
