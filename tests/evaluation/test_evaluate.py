"""Two folders of masks become a table, a record and a page, and nothing is passed over in silence."""

import csv
import errno
import json
import re
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image as Picture

from mambino import evaluation
from mambino.core import records
from mambino.core.options import EvaluateOptions, PredictOptions
from mambino.core.report import Report
from mambino.errors import DataError, FileFormatError, OptionError
from mambino.evaluation import evaluate
from mambino.inference.ledger import Doubt, Entry, Predictions
from tests.datasets import write_pictures, write_volumes
from tests.places import DATA, needs_shared


def shifted(truth: Path, output: Path, *, but: tuple[str, ...] = ()) -> Path:
    """Write the masks of a folder again, the k-th moved by k voxels."""
    output.mkdir(parents=True)
    for k, path in enumerate(sorted(truth.iterdir())):
        if path.name.partition(".")[0] in but:
            continue
        if path.suffix == ".png":
            with Picture.open(path) as picture:
                Picture.fromarray(np.roll(np.asarray(picture), k, axis=0)).save(output / path.name)
        else:
            image = nib.load(path)
            array = np.roll(np.asarray(image.dataobj), k, axis=0)
            nib.save(nib.Nifti1Image(array, image.affine), output / path.name)
    return output


@pytest.fixture(scope="module")
def volumes(tmp_path_factory) -> tuple[Path, Path, Report]:
    """A data set, an output folder and the report of its training masks moved by 0, 1, 2, ... voxels."""
    data = write_volumes(tmp_path_factory.mktemp("volumes"), training=4)
    made = shifted(data / "labelsTr", data / "made")
    output = data / "report"
    return data, output, evaluate(made, data / "labelsTr", output, EvaluateOptions(images=data / "imagesTr", workers=1))


def test_masks_that_are_the_truth_score_one(volumes):
    _, _, report = volumes
    first = [score for score in report.scores if score.case == "case_00"]
    assert [score.label for score in first] == ["bright", "dark"]
    assert {(s.dice, s.iou, s.nsd, s.hd95, s.found) for s in first} == {(1.0, 1.0, 1.0, 0.0, "both")}


def test_scores_fall_as_masks_move_away(volumes):
    _, _, report = volumes
    dice = [score.dice for score in report.scores if score.label == "bright"]
    distances = [score.hd95 for score in report.scores if score.label == "bright"]
    assert dice == sorted(dice, reverse=True)
    assert distances == sorted(distances)
    assert (report.unit, report.scores[0].size_unit) == ("mm", "ml")


def test_volumes_are_in_millilitres(volumes):
    data, _, report = volumes
    mask = np.asarray(nib.load(data / "labelsTr" / "case_00.nii.gz").dataobj)
    assert report.scores[0].truth_size == pytest.approx((mask == 1).sum() * 1.5 / 1000)


def test_the_record_reads_back_as_it_was_and_is_plain_json(volumes):
    _, output, report = volumes
    assert records.read(Report, output / "report.json") == report
    json.loads((output / "report.json").read_text(), parse_constant=pytest.fail)


def test_the_table_has_a_row_for_each_case_and_label(volumes):
    _, output, report = volumes
    with (output / "cases.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["case"], row["label"]) for row in rows] == [(s.case, s.label) for s in report.scores]
    assert float(rows[0]["dice"]) == 1


def test_the_page_needs_nothing_else_and_names_no_place(volumes):
    data, output, report = volumes
    text = (output / "report.html").read_text()
    assert not re.search(r"https?://|(src|href)=(?!\"data:)|url\(|@import|<link", text)
    assert str(data) not in text
    assert "Not for clinical use." in text
    assert all(f"{score.dice:.3f}" in text for score in report.scores)
    assert "tolerance 2 mm" in text
    assert text.count("<figure>") == 3


def test_processes_give_the_same_report_as_one(volumes, monkeypatch, tmp_path):
    data, _, report = volumes
    monkeypatch.setattr(evaluation, "_WORTH_A_POOL", 0.0)
    told = []
    again = evaluate(
        data / "made",
        data / "labelsTr",
        tmp_path,
        EvaluateOptions(workers=2),
        progress=lambda done, total, what: told.append((done, total, what)),
    )
    assert again.scores == report.scores
    assert told == [(i + 1, 4, f"case_0{i}") for i in range(4)]


def test_missing_and_extra_predictions_are_named(tmp_path):
    data = write_volumes(tmp_path, training=3)
    made = shifted(data / "labelsTr", tmp_path / "made", but=("case_01",))
    (made / "case_00.nii.gz").rename(made / "case_77.nii.gz")
    report = evaluate(made, data / "labelsTr", tmp_path / "report")
    assert (report.cases, report.missing, report.extra) == (("case_02",), ("case_00", "case_01"), ("case_77",))
    text = (tmp_path / "report" / "report.html").read_text()
    assert "2 of 3 cases have no prediction" in text
    assert "case_00, case_01" in text
    assert "1 prediction has no truth" in text


def test_what_the_model_said_of_its_masks_stands_on_the_page(tmp_path):
    data = write_volumes(tmp_path, training=3)
    made = shifted(data / "labelsTr", tmp_path / "made")
    doubts = (Doubt(entropy=0.5, expected_dice=0.28125, trusted=False), Doubt(entropy=0.1, expected_dice=0.90625), None)
    entries = tuple(Entry(case=f"case_0{i}", status="made", doubt=doubt) for i, doubt in enumerate(doubts))
    options = PredictOptions(uncertainty=True)
    records.write(Predictions(bundles=("ab",), options=options, versions={}, entries=entries), made / "predict.json")
    report = evaluate(made, data / "labelsTr", tmp_path / "report")
    assert report.doubtful == ("case_00",)
    assert [(expected.case, expected.dice) for expected in report.expected] == [
        ("case_00", 0.28125),
        ("case_01", 0.90625),
    ]
    assert records.read(Report, tmp_path / "report" / "report.json") == report
    text = (tmp_path / "report" / "report.html").read_text()
    for words in ("said of 1 of 3 cases not to trust", "0.281", "0.906", "do not trust"):
        assert words in text


def test_pictures_are_measured_in_pixels_and_the_page_says_so(tmp_path):
    data = write_pictures(tmp_path, training=3)
    made = shifted(data / "labelsTr", tmp_path / "made")
    report = evaluate(made, data / "labelsTr", tmp_path / "report", EvaluateOptions(images=data / "imagesTr"))
    assert (report.unit, report.scores[0].size_unit) == ("pixel", "pixels")
    assert report.scores[2].hd95 == pytest.approx(1)
    text = (tmp_path / "report" / "report.html").read_text()
    assert "distances are in pixels" in text
    assert "HD95 (pixels)" in text


def test_empty_masks_are_counted_apart(tmp_path):
    truth, made = tmp_path / "truth", tmp_path / "made"
    full, empty = np.ones((6, 6), np.uint8), np.zeros((6, 6), np.uint8)
    for case, (expected, found) in enumerate([(full, full), (full, empty), (empty, full), (empty, empty)]):
        for folder, array in ((truth, expected), (made, found)):
            folder.mkdir(exist_ok=True)
            Picture.fromarray(array).save(folder / f"{case}.png")
    report = evaluate(made, truth, tmp_path / "report", EvaluateOptions(workers=1))
    assert [score.found for score in report.scores] == ["both", "missed", "invented", "neither"]
    assert [score.dice for score in report.scores] == [1, 0, 0, None]
    assert [score.hd95 for score in report.scores] == [0, None, None, None]
    assert report.scores[1].hd95_diagonal == pytest.approx(6 * 2**0.5)
    [summary] = report.summary
    assert (summary.cases, summary.not_applicable, summary.missed, summary.invented) == (4, 1, 1, 1)
    assert summary.dice == pytest.approx(1 / 3)
    lines = (tmp_path / "report" / "cases.csv").read_text().splitlines()
    assert ",inf," in lines[2]
    assert "inf" not in lines[4]


def test_regions_are_scored_as_regions_without_what_nobody_annotated(tmp_path):
    truth, made = tmp_path / "truth", tmp_path / "made"
    for folder, row in ((truth, [0, 1, 2, 2, 3, 3]), (made, [0, 1, 1, 2, 1, 0])):
        folder.mkdir()
        Picture.fromarray(np.array([row, row], np.uint8)).save(folder / "a.png")
    description = {
        "channel_names": {"0": "T1"},
        "labels": {"background": 0, "whole": [1, 2], "core": [2], "ignore": 3},
        "regions_class_order": [1, 2],
    }
    (tmp_path / "dataset.json").write_text(json.dumps(description))
    report = evaluate(made, truth, tmp_path / "report", EvaluateOptions(workers=1))
    assert {score.label: score.dice for score in report.scores} == {"whole": 1.0, "core": pytest.approx(2 / 3)}
    assert report.dice == pytest.approx(5 / 6)


def test_the_surface_is_named_and_can_be_chosen(volumes, tmp_path):
    data, _, voxels = volumes
    chosen = EvaluateOptions(surface="surfel", tolerance=1, workers=1)
    surfels = evaluate(data / "made", data / "labelsTr", tmp_path, chosen)
    assert (voxels.surface, surfels.surface) == ("voxel", "surfel")
    assert surfels.scores[-1].nsd != voxels.scores[-1].nsd
    assert "DeepMind" in surfels.definitions["Surface"]
    assert "within 1 mm" in surfels.definitions["NSD"]


def test_curves_of_the_training_are_shown(volumes, tmp_path):
    data, _, _ = volumes
    log = tmp_path / "log.jsonl"
    log.write_text('{"number": 1, "loss": 1.5}\n{"number": 2, "loss": 1.0, "dice": 0.5}\n')
    evaluate(data / "made", data / "labelsTr", tmp_path / "report", EvaluateOptions(curves=log, workers=1))
    assert "validation Dice" in (tmp_path / "report" / "report.html").read_text()


def test_wrong_input_is_refused_before_anything_is_written(volumes, tmp_path):
    data, _, _ = volumes
    made, truth, output = data / "made", data / "labelsTr", tmp_path / "report"
    with pytest.raises(DataError, match="nowhere is not a folder"):
        evaluate(made, truth, output, EvaluateOptions(images=tmp_path / "nowhere"))
    with pytest.raises(OptionError, match="--tolerance -1"):
        evaluate(made, truth, output, replace(EvaluateOptions(), tolerance=-1))
    with pytest.raises(FileFormatError, match=r"log\.jsonl cannot be read"):
        evaluate(made, truth, output, EvaluateOptions(curves=tmp_path / "log.jsonl"))
    assert not output.exists()


@pytest.mark.parametrize("last", ["cases.csv", "report.json", "report.html"])
def test_a_full_disk_leaves_the_older_report_whole(volumes, tmp_path, monkeypatch, last):
    data, _, _ = volumes
    evaluate(data / "made", data / "labelsTr", tmp_path, EvaluateOptions(workers=1))
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    write_text = Path.write_text

    def full(path, text, **named):
        if path.name.endswith(last):
            raise OSError(errno.ENOSPC, "No space left on device")
        return write_text(path, text, **named)

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(FileFormatError, match=f"{last} cannot be written: No space left on device"):
        evaluate(data / "made", data / "labelsTr", tmp_path, EvaluateOptions(tolerance=1, workers=1))
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


@needs_shared
@pytest.mark.parametrize("name", ["hippocampus", "cxr_lungs"])
def test_real_masks_against_themselves_are_perfect(name, tmp_path):
    truth = tmp_path / "truth"
    truth.mkdir()
    for path in sorted((DATA / name / "labelsTs").iterdir())[:3]:
        (truth / path.name).symlink_to(path)
    options = EvaluateOptions(labels=DATA / name / "dataset.json", images=DATA / name / "imagesTs", workers=1)
    report = evaluate(truth, truth, tmp_path / "report", options)
    assert (report.dataset, report.dice, report.summary[-1].hd95) == (name, 1, 0)
