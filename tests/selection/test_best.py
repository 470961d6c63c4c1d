"""best() segments each held-out case by the bundle that has not learnt from it, and predict takes what it chose."""

import json
import re
from dataclasses import replace

import numpy as np
import pytest

from mambino import BestOptions, PredictOptions, best, evaluate, predict, read_labels
from mambino.cli.app import dispatch
from mambino.core.best import Best
from mambino.core.records import read, write
from mambino.errors import DataError, FileFormatError, OptionError, WeightsError
from mambino.imageio.folders import open_dataset
from mambino.inference import joint
from mambino.selection import scores
from mambino.training.runs import Run
from tests.selection.places import GOOD, LABELS, NOISY, config, planned, trained
from tests.tiny import know


@pytest.fixture(autouse=True)
def _tiny(monkeypatch):
    know(monkeypatch)


@pytest.fixture
def work(tmp_path):
    """Return a work folder: all folds of a good network for slices, and of one for volumes that calls noise bright."""
    work = planned(tmp_path)
    for fold in (0, 1):
        trained(work, 2, fold, above=GOOD)
        trained(work, 3, fold, above=NOISY)
    return work


@pytest.fixture
def noisy(tmp_path):
    work = planned(tmp_path)
    for fold in (0, 1):
        trained(work, 3, fold, above=NOISY)
    return work


def without_times(found: Best) -> Best:
    return replace(found, contenders=tuple(replace(one, seconds=0.0) for one in found.contenders), reason="")


def test_the_better_configuration_is_chosen_on_every_training_case(work):
    found = best(work)
    assert read(Best, work / "best.json") == found
    assert found.chosen.name == "2d-tiny"
    assert {one.name for one in found.contenders} == {"2d-tiny", "3d-tiny", "2d-tiny+3d-tiny"}
    assert found.cases == 6 == found.chosen.dice.cases
    assert found.chosen.dice.low <= found.chosen.dice.mean <= found.chosen.dice.high
    assert [(m.config, m.fold) for m in found.members] == [("2d-tiny", 0), ("2d-tiny", 1)]
    assert not any(member.bundle.is_absolute() for member in found.members)


def test_masks_are_those_of_predict_and_scores_those_of_evaluate(work, tmp_path):
    found, data = best(work), open_dataset(work.parent / "blobs")
    for name, dim in (("2d-tiny", 2), ("3d-tiny", 3)):
        for fold, cases in enumerate(data.folds(2, 0)):
            images = [data.folder / "imagesTr" / f"{case}_0000.nii.gz" for case in cases]
            predict(work / "runs" / f"{dim}d-tiny-{fold}" / "model.safetensors", images, tmp_path / name)
        for case in data.training:
            ours, theirs = (
                read_labels(p / f"{case.id}.nii.gz", LABELS) for p in (work / "best" / name, tmp_path / name)
            )
            np.testing.assert_array_equal(ours.array, theirs.array)
        [one] = [one for one in found.contenders if one.name == name]
        report = evaluate(tmp_path / name, data.folder / "labelsTr", tmp_path / f"report-{name}")
        assert one.dice.mean == pytest.approx(report.dice)
        assert [s.mean for s in one.labels.values()] == pytest.approx([s.dice for s in report.summary[:2]])


def test_test_cases_are_never_opened(work):
    for kind in ("imagesTs", "labelsTs"):
        for path in (work.parent / "blobs" / kind).iterdir():
            path.write_bytes(b"no image")
    best(work)


def test_cleaning_is_taken_where_noise_is_found(noisy):
    found = best(noisy)
    by_label = {gain.label: gain for gain in found.gains}
    assert by_label["bright"].taken
    assert not by_label["dark"].taken
    assert found.cleaned.mean > found.chosen.dice.mean
    options = found.applied(PredictOptions())
    assert options.largest or options.smallest
    assert found.applied(PredictOptions(fill=("all",))) == PredictOptions(fill=("all",))


def test_predict_takes_the_record_or_its_folder_and_cleans(noisy, tmp_path):
    best(noisy)
    image = noisy.parent / "blobs" / "imagesTs"
    made = predict(noisy / "best.json", image, tmp_path / "a")
    assert [entry.status for entry in made.entries] == ["made"]
    assert made.options.largest or made.options.smallest
    again = predict(noisy, image, tmp_path / "a")
    assert [entry.status for entry in again.entries] == ["kept"]
    bundles = sorted((noisy / "runs").glob("*/model.safetensors"))
    predict(bundles, image, tmp_path / "b")
    predict(
        bundles, image, tmp_path / "c", PredictOptions(largest=made.options.largest, smallest=made.options.smallest)
    )
    first, plain, same = (read_labels(tmp_path / x / "case_06.nii.gz", LABELS).array for x in "abc")
    np.testing.assert_array_equal(first, same)
    assert (first == 1).sum() < (plain == 1).sum()


def test_a_comparison_that_was_stopped_goes_on_and_ends_the_same(work, monkeypatch):
    ran, real = [], scores.probabilities

    def stopping(*args):
        if len(ran) == 5:
            raise KeyboardInterrupt
        ran.append(args)
        return real(*args)

    monkeypatch.setattr(scores, "probabilities", stopping)
    with pytest.raises(KeyboardInterrupt):
        best(work)
    assert not (work / "best.json").exists()
    monkeypatch.setattr(scores, "probabilities", lambda *args: ran.append(args) or real(*args))
    ran.clear()
    found = best(work)
    assert len(ran) == 12 - 4  # of two networks on six cases; the case that was begun is begun again
    ran.clear()
    assert without_times(best(work)) == without_times(found)
    assert ran == []
    (work / "best.json").unlink()
    for path in (work / "best" / "cases").iterdir():
        path.unlink()
    assert without_times(best(work)) == without_times(found)


def test_only_what_has_changed_is_made_again(work, monkeypatch):
    ran, real = [], scores.probabilities
    best(work)
    monkeypatch.setattr(scores, "probabilities", lambda *args: ran.append(args) or real(*args))
    trained(work, 3, 0, above=GOOD)
    found = best(work)
    assert len(ran) == 6  # three cases of the fold, and both networks for the pair
    assert found.contenders[0].dice.mean > 0.9
    ran.clear()
    (work / "best" / "2d-tiny" / "case_00.nii.gz").unlink()
    best(work)
    assert len(ran) == 1


def test_folds_that_are_missing_are_named_and_shared_cases_compared(tmp_path):
    work = planned(tmp_path)
    trained(work, 2, 0)
    trained(work, 3, 0)
    trained(work, 3, 1)
    found = best(work)
    assert found.cases == 3
    assert "2d-tiny: of 2 folds, 1 is missing" in found.notes
    assert "compared on the 3 of 6 training cases that all have held out" in found.notes


def test_runs_that_cannot_be_compared_are_named(work):
    (work / "runs" / "3d-tiny-1" / "model.safetensors").unlink()
    run = work / "runs" / "2d-tiny-1" / "options.json"
    write(replace(read(Run, run), held_out=()), run)
    found = best(work)
    assert "3d-tiny-1 is not complete and is left out" in found.notes
    assert "2d-tiny-1 has learnt from every case, so nothing tells how good it is; left out" in found.notes


def test_without_runs_it_says_how_to_make_some(tmp_path):
    work = planned(tmp_path)
    with pytest.raises(DataError, match="runs holds no complete run with held-out cases") as caught:
        best(work)
    assert caught.value.hint == f"train: mambino train {work} --fold all-folds"


def test_configurations_without_a_shared_case_are_refused(tmp_path):
    work = planned(tmp_path)
    trained(work, 2, 0)
    trained(work, 3, 1)
    with pytest.raises(DataError, match="no case was held out by all of 2d-tiny, 3d-tiny, so nothing compares them"):
        best(work)


def test_runs_on_other_data_are_refused(work):
    trained(work, 3, 1, channels=("CT",))
    words = r"3d-tiny-1 has learnt from other data than the plan's: its channels \('CT',\), the plan's \('MRI',\)"
    with pytest.raises(DataError, match=words):
        best(work)


def test_held_out_cases_that_are_gone_are_named(work):
    for kind, name in (("imagesTr", "case_03_0000.nii.gz"), ("labelsTr", "case_03.nii.gz")):
        (work.parent / "blobs" / kind / name).unlink()
    with pytest.raises(DataError, match="held out case_03, which is no training case of"):
        best(work)


def test_runs_of_one_configuration_that_split_differently_are_refused(work):
    trained(work, 3, 1, folds=3)
    words = "runs of 3d-tiny split the cases differently: --folds 2 --seed 0 and --folds 3 --seed 0"
    with pytest.raises(OptionError, match=words):
        best(work)


def test_a_bundle_that_has_changed_or_gone_is_not_used(work, tmp_path):
    best(work)
    image = work.parent / "blobs" / "imagesTs"
    trained(work, 2, 1, above=GOOD + 1)
    with pytest.raises(WeightsError, match=r"best.json names, has changed since it was chosen"):
        predict(work / "best.json", image, tmp_path / "out")
    (work / "runs" / "2d-tiny-1" / "model.safetensors").unlink()
    with pytest.raises(WeightsError, match=r"best.json names, is no longer there") as caught:
        predict(work / "best.json", image, tmp_path / "out")
    assert caught.value.hint == "choose again: mambino best WORK"


def test_the_record_is_given_alone(work):
    with pytest.raises(OptionError, match="names its bundles itself, but was given with 1 more"):
        joint.expanded([work / "best.json", work / "other.safetensors"], PredictOptions())


def test_a_record_that_names_files_elsewhere_is_refused(noisy):
    path = noisy / "best.json"
    best(noisy)
    path.write_text(path.read_text().replace("runs/3d-tiny-0", "../3d-tiny-0"))
    with pytest.raises(FileFormatError, match="lies outside the folder of the record that names it"):
        predict(path, noisy.parent / "blobs" / "imagesTs", noisy / "out")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"chosen": False}, "one of 1 contenders is chosen, no more and no less"),
        ({"name": "2d-tiny", "configs": ["2d-tiny"]}, "the bundles are of 3d-tiny, but 2d-tiny is chosen"),
    ],
)
def test_a_record_that_contradicts_itself_is_refused(noisy, change, words):
    path = noisy / "best.json"
    best(noisy)
    facts = json.loads(path.read_text())
    facts["contenders"][0] |= change
    path.write_text(json.dumps(facts))
    with pytest.raises(FileFormatError, match=words):
        predict(path, noisy.parent / "blobs" / "imagesTs", noisy / "out")


def test_the_command_prints_contenders_reason_and_what_to_type(work, capsys):
    assert dispatch(["best", str(work)]) in (None, 0)
    said = capsys.readouterr().out
    rows = [line.split() for line in said.splitlines() if re.match(r"[23]d-tiny", line)]
    assert rows[0][0] == "2d-tiny"
    assert [row[-1] for row in rows if row[-1] == "chosen"] == ["chosen"]
    assert f"mambino predict {work / 'best.json'} IMAGES -o MASKS" in said
    assert "2d-tiny has the highest Dice" in said
    words = ["predict", str(work), str(work.parent / "blobs" / "imagesTs"), "-o", str(work / "masks")]
    assert dispatch(words) == 0
    assert (work / "masks" / "case_06.nii.gz").is_file()
    capsys.readouterr()
    assert dispatch(["best", str(work), "--json"]) in (None, 0)
    assert json.loads(capsys.readouterr().out) == json.loads((work / "best.json").read_text())


def test_mirroring_is_part_of_what_was_chosen(noisy):
    found = best(noisy, BestOptions(mirror=True))
    assert found.applied(PredictOptions()).mirror
    assert config(3).mirror == ()


def test_a_limit_of_memory_is_checked_first(noisy):
    with pytest.raises(OptionError, match="is no size"):
        best(noisy, BestOptions(memory="much"))
