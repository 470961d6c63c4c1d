"""A folder becomes a data set, or one sentence says why not."""

import json
import shutil

import numpy as np
import pytest

from mambino.core.dataset import Case
from mambino.errors import DataError, FileFormatError
from mambino.imageio import folders as module
from mambino.imageio import read_image
from mambino.imageio.folders import (
    open_dataset,
    read_case,
    read_case_images,
    read_case_labels,
    scan_dataset,
)
from mambino.imageio.inputs import find_images
from tests.imageio.files import grey, nifti, png, raw_folder
from tests.places import DATA, needs_shared

SETS = sorted(file.parent.name for file in DATA.glob("*/dataset.json")) if DATA.is_dir() else []


@needs_shared
def test_all_ten_shared_sets_are_there():
    assert len(SETS) == 10


@pytest.mark.parametrize("name", SETS)
def test_a_shared_set_opens_as_it_is(name, monkeypatch):
    facts = json.loads((DATA / name / "dataset.json").read_text())
    with monkeypatch.context() as context:
        context.setattr(module, "read_image", None)  # a described set opens without reading an image
        dataset, problems = scan_dataset(DATA / name)

    assert problems == ()
    assert dataset.name == name
    assert dataset.channels == tuple(facts["channel_names"].values())
    assert {"background": (0,), **dataset.labels.names} == {key: (n,) for key, n in facts["labels"].items()}
    assert len(dataset.training) == facts["numTraining"]
    assert len(dataset.test) == len(list((DATA / name / "labelsTs").glob("*" + facts["file_ending"])))
    assert all(case.label for case in dataset.test)
    for case in (dataset.training[0], dataset.test[-1]):
        image, labels = read_case(case, dataset), read_case_labels(case, dataset)
        assert image.channels == len(dataset.channels)
        assert image.grid.close_to(labels.grid)
        assert labels.array.dtype == np.uint8
    found, problems = find_images([DATA / name / "imagesTs"], len(dataset.channels))
    assert [case.id for case in found] == [case.id for case in dataset.test]
    assert problems == ()


@needs_shared
def test_patients_of_a_table_are_kept_and_stay_together():
    dataset = open_dataset(DATA / "cardiac_acdc")
    assert {case.patient for case in dataset.training} >= {"patient001", "patient007"}
    for fold in dataset.folds(3, seed=0):
        assert len({dataset.training[0].id, dataset.training[1].id} & set(fold)) in {0, 2}


def test_patients_may_stand_in_the_description(tmp_path):
    raw_folder(tmp_path, patients={"a": "p1", "b": "p1"})
    (tmp_path / "cases.csv").write_text("case,patient\na,other\n")
    assert [case.patient for case in open_dataset(tmp_path).training] == ["p1", "p1", None]


@pytest.mark.parametrize(
    ("table", "patients"),
    [
        ("case,patient\na,1\nb,1\nc,2\n", ["1", "1", "2"]),
        ("\ufeffname;x,patient_id,id\nq,1,a\nq,1,b\nq,,c\n", ["1", "1", None]),
        ("image,patient\na,1\n", ["1", None, None]),
        ("case,diagnosis\na,1\n", [None, None, None]),
        ("", [None, None, None]),
    ],
)
def test_patients_are_found_by_the_name_of_the_column(tmp_path, table, patients):
    raw_folder(tmp_path)
    (tmp_path / "cases.csv").write_text(table, encoding="utf-8")
    assert [case.patient for case in open_dataset(tmp_path).training] == patients


def test_listed_files_are_taken_as_listed(tmp_path):
    image, mask = png(tmp_path / "any/where.png", grey(9)), png(tmp_path / "m.png", grey(1))
    (tmp_path / "dataset.json").write_text(
        json.dumps({
            "channel_names": {"0": "x"},
            "labels": {"background": 0, "a": 1},
            "file_ending": ".png",
            "dataset": {"one": {"images": ["any/where.png"], "label": "m.png"}},
        })
    )
    assert open_dataset(tmp_path).training == (Case(id="one", images=(image,), label=mask),)


@pytest.mark.parametrize(
    ("entry", "kind", "words"),
    [
        ({"images": ["gone.png"], "label": "m.png"}, "missing image", r"case one: .*gone.png does not exist"),
        ({"images": ["m.png"], "label": "gone.png"}, "missing label", r"case one: .*gone.png does not exist"),
        ({"images": ["m.png"]}, "missing label", "case one: no mask is listed"),
        ({"images": ["m.png"] * 2, "label": "m.png"}, "channels", "case one: 2 channel files are listed, 1 are needed"),
    ],
)
def test_listed_files_that_do_not_fit_are_told(tmp_path, entry, kind, words):
    raw_folder(tmp_path, dataset={"one": entry})
    png(tmp_path / "m.png", grey(1))
    assert [problem.kind for problem in scan_dataset(tmp_path)[1]] == [kind]
    with pytest.raises(DataError, match=words):
        open_dataset(tmp_path)


@pytest.mark.parametrize("masks", ["labels", "masks", "labelsTr"])
@pytest.mark.parametrize("ending", ["", "_mask", "-label"])
def test_a_plain_folder_is_a_data_set(tmp_path, masks, ending):
    for case in "ab":
        png(tmp_path / f"images/{case}.jpg", np.stack([grey(99)] * 3, -1))
        png(tmp_path / masks / f"{case}{ending}.png", grey(255))
    png(tmp_path / "test/c.jpg", np.stack([grey(99)] * 3, -1))

    dataset = open_dataset(tmp_path)

    assert dataset.name == tmp_path.name
    assert dataset.channels == ("R", "G", "B")
    assert dataset.labels.names == {"foreground": (1,)}
    assert [case.id for case in dataset.training] == ["a", "b"]
    assert [(case.id, case.label) for case in dataset.test] == [("c", None)]
    assert read_case_labels(dataset.training[0], dataset).array.sum() == 1
    assert read_case(dataset.test[0], dataset).channels == 3
    with pytest.raises(DataError, match="case c has no mask"):
        read_case_labels(dataset.test[0], dataset)


@pytest.mark.parametrize("folders", [("imagesTs", "labelsTs"), ("test/images", "test/masks")])
def test_a_plain_folder_may_hold_a_test_part(tmp_path, folders):
    for images, masks, case in (("images", "masks", "a"), (*folders, "b")):
        png(tmp_path / images / f"{case}.png", grey(9))
        png(tmp_path / masks / f"{case}_seg.png", grey(2))
    dataset = open_dataset(tmp_path)
    assert dataset.channels == ("image",)
    assert dataset.test[0].label == tmp_path / folders[1] / "b_seg.png"


def test_a_plain_folder_of_channel_files(tmp_path):
    for channel in range(2):
        nifti(tmp_path / f"imagesTr/a_{channel:04d}.nii.gz", np.full((3, 4, 5), channel, np.int16))
    nifti(tmp_path / "labelsTr/a.nii.gz", np.ones((3, 4, 5), np.float32))
    dataset = open_dataset(tmp_path)
    assert dataset.channels == ("channel_0", "channel_1")
    assert read_case(dataset.training[0], dataset).array[:, 0, 0, 0].tolist() == [0, 1]


def test_a_described_folder_may_be_named_plainly(tmp_path):
    raw_folder(tmp_path)
    (tmp_path / "imagesTr").rename(tmp_path / "images")
    (tmp_path / "labelsTr").rename(tmp_path / "masks")
    assert len(open_dataset(tmp_path).training) == 3


def test_hidden_and_other_files_are_passed_over(tmp_path):
    raw_folder(tmp_path)
    for name in ("._a_0000.png", "Thumbs.db", "notes.txt"):
        (tmp_path / "imagesTr" / name).write_text("x")
    assert len(open_dataset(tmp_path).training) == 3


@pytest.mark.parametrize("described", [True, False])
def test_scanning_goes_on_and_tells_everything(tmp_path, described):
    raw_folder(tmp_path, cases="abcd", test="xy")
    (tmp_path / "labelsTr/a.png").unlink()
    (tmp_path / "imagesTr/b_0000.png").unlink()
    shutil.copy(tmp_path / "imagesTr/c_0000.png", tmp_path / "imagesTr/c_0001.png")
    shutil.copy(tmp_path / "imagesTr/d_0000.png", tmp_path / "imagesTs/d_0000.png")
    (tmp_path / "labelsTs/x.png").unlink()
    if not described:
        (tmp_path / "dataset.json").unlink()

    dataset, problems = scan_dataset(tmp_path)

    assert [case.id for case in dataset.training] == ["d"]
    assert [(case.id, case.label is None) for case in dataset.test] == [("x", True), ("y", False)]
    assert sorted((problem.kind, problem.case, problem.severity) for problem in problems) == [
        ("channels", "c", "error"),
        ("duplicate", "d", "error"),
        ("missing image", "b", "error"),
        ("missing label", "a", "error"),
        ("missing label", "d", "warning"),
        ("missing label", "x", "warning"),
    ]
    assert all(problem.message and problem.remedy for problem in problems)


@pytest.mark.parametrize(
    ("gone", "words"),
    [
        ("labelsTr/b.png", "case b has an image and no mask in .*labelsTr"),
        ("imagesTr/b_0000.png", "the mask .*b.png has no image"),
    ],
)
def test_a_missing_partner_keeps_a_data_set_from_opening(tmp_path, gone, words):
    raw_folder(tmp_path)
    (tmp_path / gone).unlink()
    with pytest.raises(DataError, match=words) as refusal:
        open_dataset(tmp_path)
    assert refusal.value.hint


def test_a_missing_test_mask_does_not(tmp_path):
    raw_folder(tmp_path, test="xy")
    (tmp_path / "labelsTs/x.png").unlink()
    assert [case.label is None for case in open_dataset(tmp_path).test] == [True, False]


def test_a_name_in_training_and_test_is_told(tmp_path):
    raw_folder(tmp_path, test="a")
    with pytest.raises(DataError, match="case a is among the training images and among the test images"):
        open_dataset(tmp_path)


def test_an_undeclared_label_is_refused_by_file_and_known_labels(tmp_path):
    raw_folder(tmp_path)
    png(tmp_path / "labelsTr/b.png", grey(7))
    dataset = open_dataset(tmp_path)
    with pytest.raises(
        DataError, match=r"b.png holds label numbers \[7\] that are not declared; known are 0 background, 1 tumour"
    ):
        read_case_labels(dataset.training[1], dataset)


def test_labels_with_gaps_are_scanned_and_not_opened(tmp_path):
    raw_folder(tmp_path, labels={"background": 0, "tumour": 1, "oedema": 5})
    png(tmp_path / "labelsTr/b.png", grey(5))
    dataset, problems = scan_dataset(tmp_path)
    assert read_case_labels(dataset.training[1], dataset).array.max() == 2
    assert [problem.kind for problem in problems] == ["labels"]
    with pytest.raises(DataError, match=r"label numbers must follow one another without gaps, got \[1, 5\]") as refusal:
        open_dataset(tmp_path)
    assert "mambino check DATA --repair -o COPY" in refusal.value.hint


def test_a_folder_without_a_data_set_is_refused(tmp_path):
    with pytest.raises(FileFormatError, match="gone does not exist"):
        open_dataset(tmp_path / "gone")
    with pytest.raises(DataError, match="is empty"):
        open_dataset(tmp_path)
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(FileFormatError, match=r"notes.txt is a file, not a folder"):
        open_dataset(tmp_path / "notes.txt")
    (tmp_path / "more.txt").write_text("x")
    (tmp_path / "stuff").mkdir()
    with pytest.raises(DataError, match=r"holds no images, only 2 \.txt, 1 folders") as refusal:
        open_dataset(tmp_path)
    assert "images/" in refusal.value.hint
    assert ".nii.gz" in refusal.value.hint
    png(tmp_path / "a.png", grey())
    with pytest.raises(DataError, match=r"holds 1 images such as a.png, but no folder images/"):
        open_dataset(tmp_path)


def test_a_described_folder_without_its_files_is_refused(tmp_path):
    raw_folder(tmp_path, file_ending=".nii.gz")
    with pytest.raises(DataError, match=r"imagesTr holds no file that ends in .nii.gz, only .png"):
        open_dataset(tmp_path)
    shutil.rmtree(tmp_path / "labelsTr")
    raw = json.loads((tmp_path / "dataset.json").read_text())
    (tmp_path / "dataset.json").write_text(json.dumps({**raw, "file_ending": ".png"}))
    with pytest.raises(
        DataError, match="the images have no masks: none of the folders labelsTr, labels, masks is there"
    ):
        open_dataset(tmp_path)
    shutil.rmtree(tmp_path / "imagesTr")
    with pytest.raises(DataError, match=r"has a dataset.json, but none of the folders imagesTr, images"):
        open_dataset(tmp_path)


def test_images_without_labels_are_refused(tmp_path):
    png(tmp_path / "images/a.png", grey())
    with pytest.raises(DataError, match="has 1 images and no masks: none of the folders"):
        open_dataset(tmp_path)
    png(tmp_path / "masks/b.png", grey())
    words = r"no image in .*images has a mask of the same name in .*masks: there are images such as a.png, and "
    with pytest.raises(DataError, match=words + r"masks such as b.png$") as refusal:
        open_dataset(tmp_path)
    assert "name masks as their images" in refusal.value.hint
    (tmp_path / "masks/b.png").unlink()
    with pytest.raises(DataError, match=words + "no masks$"):
        open_dataset(tmp_path)


def test_images_that_cannot_be_read_are_named(tmp_path):
    png(tmp_path / "labels/a.png", grey(1))
    (tmp_path / "images").mkdir()
    (tmp_path / "images/a.png").write_bytes(b"nothing")
    with pytest.raises(FileFormatError, match=r"images.a.png is no picture"):
        open_dataset(tmp_path)
    png(tmp_path / "labels/b.png", grey(1))
    png(tmp_path / "images/b.png", grey(1))
    assert open_dataset(tmp_path).channels == ("image",)


def test_a_data_set_of_dicom_is_refused_saying_what_to_do_now(tmp_path):
    (tmp_path / "0001").write_bytes(b"\0" * 128 + b"DICM" + b"\0" * 40)
    with pytest.raises(FileFormatError, match="is DICOM, which data sets are not read from") as refusal:
        open_dataset(tmp_path)
    assert "convert the series to NIfTI first, for example with dcm2niix" in refusal.value.hint
    assert [case.images for case in find_images([tmp_path], 1)[0]] == [(tmp_path,)]
    with pytest.raises(DataError, match="holds no DICOM image"):
        read_image(tmp_path)


@pytest.mark.parametrize("series", ["0001", "a.dcm"])
def test_dicom_in_subfolders_is_named(tmp_path, series):
    (tmp_path / "study/series").mkdir(parents=True)
    (tmp_path / "study/series" / series).write_bytes(b"\0" * 128 + b"DICM" + b"\0" * 40)
    words = rf"holds no images, only 1 folders, and further in DICOM files such as study.series.{series}, which data"
    with pytest.raises(FileFormatError, match=words) as refusal:
        open_dataset(tmp_path)
    assert "dcm2niix" in refusal.value.hint
    assert [case.id for case in find_images([tmp_path], 1)[0]] == [tmp_path.name]


def test_images_in_subfolders_are_named(tmp_path):
    png(tmp_path / "ward/scans/a.png", grey())
    words = r"holds no images, only 1 folders, and further in images such as ward.scans.a\.png$"
    with pytest.raises(DataError, match=words) as refusal:
        find_images([tmp_path], 1)
    assert refusal.value.hint == f"name the folder that holds them: {tmp_path / 'ward/scans'}"
    with pytest.raises(DataError, match=words) as refusal:
        open_dataset(tmp_path)
    assert "images/" in refusal.value.hint


def test_channels_on_different_grids_are_refused(tmp_path):
    shifted = np.diag([1.0, 1, 1, 1])
    shifted[0, 3] = 3
    one = nifti(tmp_path / "a_0000.nii.gz", np.zeros((3, 4, 5), np.int16), np.eye(4))
    two = nifti(tmp_path / "a_0001.nii.gz", np.zeros((3, 4, 5), np.int16), shifted)
    case = Case(id="a", images=(one, two))
    with pytest.raises(DataError, match=r"case a: the channels a_0000.nii.gz and a_0001.nii.gz lie on different grids"):
        read_case_images(case, ("x", "y"), "the bundle takes")
    words = r"case a has 2 channel files, 3 are needed, the number that the bundle takes \(x, y, z\)"
    with pytest.raises(DataError, match=words) as refusal:
        read_case_images(case, ("x", "y", "z"), "the bundle takes")
    assert "give one file a channel" in refusal.value.hint


@pytest.mark.parametrize("files", [1, 2])
def test_a_wrong_number_of_channels_says_whose_number_the_right_one_is(tmp_path, files):
    raw_folder(tmp_path, cases="a", channel_names={"0": "T1", "1": "T2"})
    for channel in range(files):
        png(tmp_path / f"imagesTr/a_{channel:04d}.png", np.zeros((6, 7, 3), np.uint8))
    words = rf"the data set {tmp_path.name} has \(T1, T2\)" if files == 1 else "each of 2 channel files must have"
    with pytest.raises(DataError, match=f"has 3 channels instead of {3 - files}, the number that {words}$") as refusal:
        read_case((dataset := open_dataset(tmp_path)).training[0], dataset)
    assert "channels of the training data" in refusal.value.hint


@needs_shared
def test_unregistered_scans_are_not_stacked():
    folder = DATA / "awkward" / "nifti"
    case = Case(id="x", images=(folder / "unregistered_t1.nii.gz", folder / "unregistered_flair.nii.gz"))
    with pytest.raises(DataError, match=r"different grids, \(26, 224, 256\) voxels .* and \(26, 256, 208\) voxels"):
        read_case_images(case, ("T1", "FLAIR"), "the bundle takes")


@needs_shared
def test_rounding_does_not_part_an_image_and_its_mask():
    folder = DATA / "awkward" / "nifti"
    image, mask = (read_image(folder / f"affine_differs_2e-4_{name}.nii.gz") for name in ("image", "mask"))
    assert image.grid.close_to(mask.grid)


def test_images_are_found_in_files_and_folders(tmp_path):
    one = png(tmp_path / "one.png", grey())
    for channel in range(2):
        png(tmp_path / f"more/b_{channel:04d}.png", grey())
    (tmp_path / "more/predict.json").write_text("{}")
    assert find_images([one, one], 1) == ((Case(id="one", images=(one,)),), ())
    found, problems = find_images([one, tmp_path / "more"], 2)
    assert [(case.id, len(case.images)) for case in found] == [("b", 2), ("one", 1)]
    assert problems == ()
    assert [case.id for case in find_images([tmp_path / "more/b_0000.png"], 1)[0]] == ["b"]
    assert [case.id for case in find_images([tmp_path / "more/b_0001.png"], 1)[0]] == ["b_0001"]


def test_what_cannot_be_predicted_is_told_beside_what_can(tmp_path):
    for name in ("images/a_0000", "images/a_0001", "images/b_0000", "c_0000", "x/d_0000", "y/d_0000"):
        png(tmp_path / f"{name}.png", grey())
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.txt").write_text("x")
    names = ("images", "c_0000.png", "c_0001.png", "gone", "empty", "notes.txt", "x/d_0000.png", "y/d_0000.png")
    cases, problems = find_images([tmp_path / name for name in names], 2)
    assert [case.id for case in cases] == ["a"]
    told = {problem.case: problem.message for problem in problems}
    assert sorted(told) == ["b", "c", "d", "empty", "gone", "notes"]
    assert "b has 1 channel files (b_0000.png), 2 are needed, one for each channel of the bundle" in told["b"]
    assert "c_0001.png cannot be read: No such file" in told["c"]
    assert f"two images: {tmp_path / 'x/d_0000.png'} and {tmp_path / 'y/d_0000.png'}" in told["d"]
    assert "is empty" in told["empty"]
    assert "gone cannot be read: No such file" in told["gone"]
    assert "has the format .txt, which is not read" in told["notes"]
    assert all(problem.remedy for problem in problems)


def test_what_is_no_image_to_predict_is_refused(tmp_path):
    with pytest.raises(DataError, match="is empty"):
        find_images([tmp_path], 1)
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(DataError, match=r"holds no images, only 1 \.txt") as refusal:
        find_images([tmp_path], 1)
    assert ".png" in refusal.value.hint
    with pytest.raises(FileFormatError, match=r"a.txt has the format .txt, which is not read"):
        find_images([tmp_path / "a.txt"], 1)
    with pytest.raises(FileFormatError, match=r"gone.png cannot be read: No such file"):
        find_images([tmp_path / "gone.png"], 1)
    one, other = png(tmp_path / "x/a.png", grey()), png(tmp_path / "y/a.png", grey())
    with pytest.raises(DataError, match=r"case a has two images: .*x.a.png and .*y.a.png"):
        find_images([one, other], 1)


def test_a_wrong_number_of_channel_files_is_refused_with_both(tmp_path):
    for channel in range(2):
        png(tmp_path / f"b_{channel:04d}.png", grey())
    with pytest.raises(DataError, match=r"case b has 2 channel files .*, 1 are needed"):
        find_images([tmp_path], 1)
    with pytest.raises(DataError, match=r"case b has 2 channel files .*, 4 are needed") as refusal:
        find_images([tmp_path], 4)
    assert "_0000 to _0003" in refusal.value.hint
