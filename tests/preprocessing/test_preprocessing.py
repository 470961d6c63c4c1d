"""`preprocess` prepares each training case once, goes on where it stopped, and names what it cannot prepare."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from mambino import preprocessing
from mambino.core.options import PreprocessOptions
from mambino.core.plan import Config, NetworkSpec, Normalise, Plan
from mambino.core.recipe import Recipe
from mambino.core.records import write
from mambino.errors import DataError, FileFormatError, OptionError
from mambino.imageio.folders import open_dataset, read_case
from mambino.preprocessing import preprocess
from mambino.preprocessing.case import prepare
from mambino.preprocessing.store import Store

HERE = PreprocessOptions(workers=1)
IDS = tuple(f"case_{i}" for i in range(4))


def config(dim=3, **changes):
    return Config(
        dim=dim,
        spacing=(1.5,) * dim,
        orientation="RAS",
        slice_axis=None if dim == 3 else 0,
        normalise=(Normalise(scheme="zscore"),),
        shape=(8,) * dim,
        patch=(8,) * dim,
        batch=1,
        network=NetworkSpec(name="unet", dim=dim, in_channels=1, out_channels=2, options={}),
        recipe=Recipe(),
        **changes,
    )


def save(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(array, np.diag([1, 1.2, 2, 1])), path)


@pytest.fixture
def data(tmp_path):
    """Four small volumes in the nnU-Net raw layout, and one test case."""
    folder = tmp_path / "data"
    for number, name in enumerate((*IDS, "other")):
        rng = np.random.default_rng(number)
        part = "Ts" if name == "other" else "Tr"
        save(folder / f"images{part}" / f"{name}_0000.nii.gz", rng.normal(100, 20, (11, 10, 9)).astype(np.float32))
        save(folder / f"labels{part}" / f"{name}.nii.gz", rng.integers(0, 2, (11, 10, 9), np.uint8))
    described = {"name": "data", "channel_names": {"0": "MRI"}, "labels": {"background": 0, "organ": 1},
                 "numTraining": 4, "file_ending": ".nii.gz"}  # fmt: skip
    (folder / "dataset.json").write_text(json.dumps(described))
    return folder


@pytest.fixture
def work(data, tmp_path):
    planned(tmp_path / "work", data, {"3d-unet": config(), "2d-unet": config(2)})
    return tmp_path / "work"


def planned(work, data, configs, **changes):
    dataset = open_dataset(data)
    plan = Plan(
        dataset=dataset.name,
        folder=str(data),
        channels=dataset.channels,
        labels=dataset.labels,
        device="cpu",
        default=next(iter(configs)),
        configs=configs,
    )
    write(replace(plan, **changes), work / "plan.json")


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def recorded(monkeypatch):
    """Record the names of the cases that are prepared."""
    names = []
    original = preprocessing._prepare_one
    monkeypatch.setattr(preprocessing, "_prepare_one", lambda job: (names.append(job.case.id), original(job)))
    return names


def test_every_training_case_is_prepared_and_no_other(work, data):
    steps = []
    assert preprocess(work, HERE, progress=lambda *step: steps.append(step)) == work / "prepared"
    store = Store(work / "prepared" / "3d")
    assert store.ids() == IDS
    assert steps == [(0, 4, "kept"), *((i + 1, 4, name) for i, name in enumerate(IDS))]
    dataset = open_dataset(data)
    expected = prepare(read_case(dataset.training[0], dataset), config())
    case = store.open("case_0")
    np.testing.assert_array_equal(case.image_patch((0, 0, 0), case.shape), expected.array)
    assert case.facts.origin.prepared_spacing == pytest.approx(expected.grid.spacing)
    assert not (work / "prepared" / "2d").exists()


def test_both_dimensions_can_be_asked_for(work):
    preprocess(work, PreprocessOptions(dims=(2, 3), workers=1))
    store = Store(work / "prepared" / "2d")
    assert store.ids() == IDS
    assert store.open("case_0").shape == (9, 8, 7)


def test_processes_give_the_bytes_of_one_process(work):
    preprocess(work, HERE)
    alone = contents(work / "prepared" / "3d")
    shutil.rmtree(work / "prepared")
    preprocess(work, PreprocessOptions(workers=2))
    assert contents(work / "prepared" / "3d") == alone


def test_what_is_there_is_not_made_again(work, monkeypatch):
    preprocess(work, HERE)
    names, steps = recorded(monkeypatch), []
    preprocess(work, HERE, progress=lambda *step: steps.append(step))
    assert (names, steps) == ([], [(4, 4, "kept")])


def test_missing_and_damaged_cases_are_made_again_with_the_same_bytes(work, monkeypatch):
    preprocess(work, HERE)
    folder = work / "prepared" / "3d"
    before = contents(folder)
    frame = bytearray(before["case_1.image.b2nd"])
    frame[-9] ^= 1
    (folder / "case_1.image.b2nd").write_bytes(frame)
    (folder / "case_2.labels.b2nd").unlink()
    (folder / "case_3.json").unlink()
    (folder / ".part-abc-case_3.json").write_text("{")
    names = recorded(monkeypatch)
    preprocess(work, HERE)
    assert names == ["case_1", "case_2", "case_3"]
    assert contents(folder) == before


def test_a_changed_file_is_prepared_again(work, data, monkeypatch):
    preprocess(work, HERE)
    file = data / "labelsTr" / "case_2.nii.gz"
    stat = file.stat()
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns + 10**9))
    names = recorded(monkeypatch)
    preprocess(work, HERE)
    assert names == ["case_2"]


def test_another_plan_prepares_everything_again_but_only_for_the_data_side(work, data, monkeypatch):
    preprocess(work, HERE)
    names = recorded(monkeypatch)
    planned(work, data, {"3d-unet": replace(config(), batch=5)})
    preprocess(work, HERE)
    assert names == []
    planned(work, data, {"3d-unet": config(crop=False)})
    preprocess(work, HERE)
    assert names == list(IDS)


def test_cases_that_left_the_data_set_leave_the_folder(work, data):
    preprocess(work, HERE)
    (data / "imagesTr" / "case_3_0000.nii.gz").unlink()
    (data / "labelsTr" / "case_3.nii.gz").unlink()
    described = json.loads((data / "dataset.json").read_text())
    (data / "dataset.json").write_text(json.dumps(described | {"numTraining": 3}))
    preprocess(work, HERE)
    assert Store(work / "prepared" / "3d").ids() == IDS[:3]
    assert not list((work / "prepared" / "3d").glob("case_3*"))


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGKILL")
def test_killed_and_started_again_it_gives_the_same_bytes(work):
    preprocess(work, HERE)
    folder = work / "prepared" / "3d"
    before = contents(folder)
    shutil.rmtree(folder)
    code = (
        "import os, signal, sys, pathlib\n"
        "from mambino import preprocessing\n"
        "from mambino.core.options import PreprocessOptions\n"
        "stop = lambda done, total, what: done == 2 and os.kill(os.getpid(), signal.SIGKILL)\n"
        "preprocessing.preprocess(pathlib.Path(sys.argv[1]), PreprocessOptions(workers=1), progress=stop)\n"
    )
    ended = subprocess.run([sys.executable, "-c", code, str(work)], check=False)
    assert ended.returncode == -signal.SIGKILL
    assert Store(folder).ids() == IDS[:2]
    preprocess(work, HERE)
    assert contents(folder) == before


@pytest.mark.parametrize("workers", [1, 2])
def test_a_bad_case_is_named_after_the_others_are_done(work, data, workers):
    bad = np.random.default_rng(0).normal(size=(11, 10, 9)).astype(np.float32)
    bad[3, 2, 1] = np.nan
    save(data / "imagesTr" / "case_1_0000.nii.gz", bad)
    with pytest.raises(DataError, match=r"^case case_1: the image is not finite in 1 of 990 voxels") as caught:
        preprocess(work, PreprocessOptions(workers=workers))
    assert caught.value.hint == "mend a copy: mambino check DATA --repair -o COPY"
    assert Store(work / "prepared" / "3d").ids() == ("case_0", "case_2", "case_3")


def test_several_bad_cases_are_all_named(work, data):
    for name in IDS[1:]:
        save(data / "imagesTr" / f"{name}_0000.nii.gz", np.full((11, 10, 9), np.inf, np.float32))
    with pytest.raises(DataError, match=r"case case_1: .*; 3 of 4 cases failed, also case_2, case_3$"):
        preprocess(work, HERE)


def test_a_case_that_went_bad_does_not_stay_in_its_old_form(work, data):
    preprocess(work, HERE)
    file = data / "imagesTr" / "case_0_0000.nii.gz"
    file.write_bytes(file.read_bytes()[:500])
    with pytest.raises(FileFormatError, match="case_0"):
        preprocess(work, HERE)
    assert Store(work / "prepared" / "3d").ids() == IDS[1:]


def test_a_bug_keeps_its_kind_and_names_the_case(work, monkeypatch):
    def broken(*_):
        raise ZeroDivisionError("oops")

    monkeypatch.setattr(preprocessing, "prepare", broken)
    with pytest.raises(ZeroDivisionError) as caught:
        preprocess(work, HERE)
    assert caught.value.__notes__ == ["while preparing case case_0"]


def test_a_full_disk_leaves_no_case_in_part(work, monkeypatch):
    write_bytes = Path.write_bytes

    def full(self, content):
        if self.name.endswith("case_1.labels.b2nd"):
            raise OSError(errno.ENOSPC, "No space left on device")
        return write_bytes(self, content)

    monkeypatch.setattr(Path, "write_bytes", full)
    words = r"case_1\.labels\.b2nd cannot be written: No space left on device"
    with pytest.raises(FileFormatError, match=words) as caught:
        preprocess(work, HERE)
    assert "free some space" in caught.value.hint
    assert {file.name.partition(".")[0] for file in (work / "prepared" / "3d").iterdir()} == {
        "case_0",
        "case_2",
        "case_3",
    }


def test_a_folder_that_cannot_be_written_to_is_named(work, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "unlink", refuse)
    with pytest.raises(
        FileFormatError, match=r"prepared.3d cannot be written: Permission denied; 4 of 4 cases"
    ) as caught:
        preprocess(work, HERE)
    assert "choose another output folder" in caught.value.hint


def test_a_killed_process_is_one_clear_error(work, monkeypatch):
    monkeypatch.setattr(preprocessing, "_attempt", _die)
    with pytest.raises(DataError, match=r"a process that prepared cases was killed.*, at one of case_0, ") as caught:
        preprocess(work, PreprocessOptions(workers=2))
    assert "--workers 1" in caught.value.hint


def _die(_):
    time.sleep(0.1)
    os._exit(9)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"dataset": "heart"}, "its name heart, but .* has data"),
        ({"channels": ("CT",)}, r"its channels \['CT'\], but .* has \['MRI'\]"),
    ],
)
def test_a_plan_for_another_data_set_is_refused(work, data, changes, words):
    planned(work, data, {"3d-unet": config()}, **changes)
    with pytest.raises(DataError, match=f"the plan is for another data set: {words}") as caught:
        preprocess(work, HERE)
    assert "mambino plan" in caught.value.hint


def test_a_plan_for_other_labels_is_refused(work, data):
    described = json.loads((data / "dataset.json").read_text())
    (data / "dataset.json").write_text(json.dumps(described | {"labels": {"background": 0, "tumour": 1}}))
    with pytest.raises(DataError, match=r"its labels \{'organ': \(1,\)\}, but .* has \{'tumour': \(1,\)\}"):
        preprocess(work, HERE)


def test_configurations_that_disagree_about_the_data_are_refused(work, data):
    planned(work, data, {"3d-unet": config(), "3d-lightm_unet": config(crop=False)})
    words = "3d-unet and 3d-lightm_unet share their prepared cases, but differ in crop: True and False"
    with pytest.raises(OptionError, match=words):
        preprocess(work, HERE)


def test_a_dimension_without_a_configuration_is_refused(work, data):
    planned(work, data, {"3d-unet": config()})
    with pytest.raises(OptionError, match="the plan has no configuration with 2 axes, only 3d-unet"):
        preprocess(work, PreprocessOptions(dims=(2,)))


def test_a_folder_without_a_plan_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"holds no plan\.json") as caught:
        preprocess(tmp_path)
    assert "mambino plan" in caught.value.hint


def test_workers_out_of_range_are_refused(work):
    with pytest.raises(OptionError, match="--workers -1"):
        preprocess(work, PreprocessOptions(workers=-1))


def test_memory_limits_the_number_of_processes(monkeypatch):
    monkeypatch.setattr(preprocessing.machine, "cores", lambda: 8)
    monkeypatch.setattr(preprocessing.machine, "memory", lambda: 10.0)
    assert preprocessing._workers(config()) == 8
    assert preprocessing._workers(replace(config(), shape=(400, 512, 512))) == 2
    assert preprocessing._workers(replace(config(), shape=(4000, 512, 512))) == 1


def test_preparing_loads_no_torch():
    code = "import sys, mambino.preprocessing; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, cwd=Path(__file__).parent).returncode == 0
