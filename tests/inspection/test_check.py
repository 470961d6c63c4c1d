"""Each kind of fault, planted in a clean data set, is found, named and told with both values."""

import gzip
import re
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from mambino.core.options import CheckOptions
from mambino.errors import DataError, Error, FileFormatError
from mambino.inspection import check
from tests.inspection.planting import (
    AFFINE,
    change,
    compress,
    crop,
    describe,
    disagree,
    double,
    draw,
    found,
    image,
    kinds,
    mask,
    move,
    pictures,
    poison,
    recolour,
    save,
    stretch,
    tile,
    truncate,
    turn,
    volumes,
)

Plant = Callable[[Path], object]
Fault = tuple[str, Callable[..., Path], Plant, str, str, str, str]


FAULTS: list[Fault] = [
    ("truncated volume", volumes, lambda d: truncate(image(d)), "error", "unreadable file", "Tr_1", "Tr_1_0000.nii.gz"),
    ("truncated picture", pictures, lambda d: truncate(image(d)), "error", "unreadable file", "Tr_1", "truncated"),
    ("empty file", volumes, lambda d: mask(d).write_bytes(b""), "error", "unreadable file", "Tr_1", "is empty"),
    ("no mask", volumes, lambda d: mask(d).unlink(), "error", "missing partner", "Tr_1", "no mask"),
    ("no image", volumes, lambda d: image(d).unlink(), "error", "missing partner", "Tr_1", "has no image"),
    ("mask shape", volumes, lambda d: crop(mask(d)), "error", "mask shape", "Tr_1", r"\(8, 10, 12\).*\(8, 10, 10\)"),
    (
        "mask spacing",
        volumes,
        lambda d: stretch(mask(d), 2),
        "error",
        "mask affine",
        "Tr_1",
        r"\(2, 1, 1\) and \(4, 2, 2\) mm",
    ),
    ("mask turned", volumes, lambda d: turn(mask(d)), "error", "mask affine", "Tr_1", "orientation RAS and LPS"),
    (
        "mask shifted",
        volumes,
        lambda d: move(mask(d), AFFINE + np.eye(4, k=3) * 0.4),
        "error",
        "mask affine",
        "Tr_1",
        r"first voxel at \(0, 0, 0\) and \(0.4, 0, 0\) mm",
    ),
    (
        "mask oblique",
        volumes,
        lambda d: move(mask(d), AFFINE + np.eye(4, k=1) * [[0.02], [0], [0], [0]]),
        "error",
        "mask affine",
        "Tr_1",
        "degrees apart",
    ),
    (
        "undeclared",
        volumes,
        lambda d: change(mask(d), lambda a: a * 3),
        "error",
        "undeclared label",
        "Tr_1",
        r"3, 6 in \d+ voxels.*1 head, 2 tail",
    ),
    (
        "black and white",
        pictures,
        lambda d: change(mask(d), lambda a: a * 255),
        "error",
        "0/255 mask",
        "Tr_1",
        "holds 0, 255.*1 lesion",
    ),
    ("colours", pictures, lambda d: recolour(mask(d)), "error", "colour mask", "Tr_1", r"\(255, 0, 0\) is 1"),
    ("JPEG noise", pictures, lambda d: compress(mask(d)), "error", "noisy mask", "Tr_1", "close to 0 and 255.*JPEG"),
    (
        "fractions",
        volumes,
        lambda d: change(mask(d), lambda a: a * 0.5, np.float32),
        "error",
        "fractional mask",
        "Tr_1",
        r"values that are no whole numbers \(0.5\)",
    ),
    ("floats", volumes, lambda d: change(mask(d), lambda a: a, np.float32), "note", "float mask", "", "masks of Tr_1$"),
    ("not finite", volumes, lambda d: poison(image(d)), "error", "not finite", "Tr_1", "3 voxels of the image"),
    ("mask not finite", volumes, lambda d: poison(mask(d)), "error", "not finite", "Tr_1", "3 voxels of the mask"),
    ("empty", volumes, lambda d: change(mask(d), lambda a: a * 0), "note", "empty mask", "", "masks of Tr_1$"),
    (
        "constant",
        volumes,
        lambda d: change(image(d), lambda a: a * 0 + 7),
        "warning",
        "constant image",
        "Tr_1",
        "channel 0 holds 7 in every voxel",
    ),
    (
        "spacing",
        volumes,
        lambda d: [stretch(path, 10) for path in (image(d), mask(d))],
        "warning",
        "spacing outlier",
        "Tr_1",
        r"\(20, 10, 10\) mm.*median.*\(2, 1, 1\) mm",
    ),
    (
        "size",
        volumes,
        lambda d: [tile(path) for path in (image(d), mask(d))],
        "warning",
        "size outlier",
        "Tr_1",
        "8 x 10 x 48 voxels.*8 x 10 x 12",
    ),
    (
        "orientation",
        volumes,
        lambda d: [turn(path) for path in (image(d), mask(d))],
        "note",
        "mixed orientation",
        "",
        "2 orientations: 6 RAS, 1 LPS",
    ),
    (
        "channels",
        pictures,
        lambda d: draw(image(d), np.random.default_rng(0).integers(0, 256, (24, 32, 3), np.uint8)),
        "error",
        "channel count",
        "Tr_1",
        r"3 channels, declared are 1 \(grey\).*1 \(6 cases\), 3 \(1 cases\)",
    ),
    (
        "dimensions",
        volumes,
        lambda d: [save(p, np.ones((12, 10), np.int16)) for p in (image(d), mask(d))],
        "error",
        "mixed dimensions",
        "Tr_1",
        "2 axes, most others have 3",
    ),
    ("duplicate", volumes, double, "warning", "duplicate image", "Tr_4", "same voxels as Tr_0, with the same mask"),
    (
        "leak",
        volumes,
        lambda d: shutil.copyfile(image(d, "Ts_0"), image(d)),
        "error",
        "train and test",
        "Tr_1",
        "same voxels as the test image Ts_0",
    ),
    (
        "one name twice",
        volumes,
        lambda d: shutil.copyfile(image(d), d / "imagesTs/Tr_1_0000.nii.gz"),
        "error",
        "train and test",
        "Tr_1",
        "among the test images",
    ),
    (
        "patient",
        volumes,
        lambda d: (d / "cases.csv").write_text("case,patient\nTr_1,Ann\nTs_0,Ann\n"),
        "warning",
        "train and test",
        "Tr_1",
        r"patient Ann is in training \(Tr_1\) and in test \(Ts_0\)",
    ),
    (
        "never occurs",
        lambda folder: volumes(folder, labels={"background": 0, "head": 1, "tail": 2, "horn": 3}),
        lambda _: None,
        "warning",
        "label never occurs",
        "",
        r"label horn \(3\) occurs in none of 5 training masks",
    ),
    (
        "gaps",
        lambda folder: volumes(folder, labels={"background": 0, "head": 1, "tail": 2, "horn": 7}),
        lambda _: None,
        "error",
        "label gaps",
        "",
        r"without gaps, got \[1, 2, 7\]",
    ),
    ("two headers", volumes, lambda d: disagree(image(d)), "warning", "qform and sform", "Tr_1", "disagree by up to"),
]


@pytest.mark.parametrize("fault", FAULTS, ids=[fault[0] for fault in FAULTS])
def test_a_planted_fault_is_found_and_named(fault: Fault, tmp_path):
    _, make, plant, severity, kind, case, words = fault
    folder = make(tmp_path / "set")
    plant(folder)
    findings = found(folder)
    match = [f for f in findings.findings if (f.severity, f.kind, f.case) == (severity, kind, case)]
    assert len(match) == 1, findings
    assert re.search(words, match[0].message), match[0].message
    assert match[0].remedy


@pytest.mark.parametrize("make", [volumes, pictures])
def test_a_clean_data_set_gives_no_finding(make, tmp_path):
    findings = found(make(tmp_path / "set"))
    assert findings.findings == ()
    assert (findings.training, findings.test, findings.files) == (5, 2, 14)


def test_channels_on_different_grids_are_found(tmp_path):
    folder = volumes(tmp_path / "set")
    describe(folder, {"0": "T1", "1": "T2"}, {"background": 0, "head": 1, "tail": 2}, ".nii.gz")
    for part in ("Tr", "Ts"):
        for path in (folder / f"images{part}").glob("*_0000.nii.gz"):
            shutil.copyfile(path, path.parent / path.name.replace("_0000", "_0001"))
    assert found(folder).errors == 0
    crop(folder / "imagesTr/Tr_1_0001.nii.gz")
    stretch(folder / "imagesTr/Tr_2_0001.nii.gz", 2)
    (folder / "imagesTr/Tr_3_0001.nii.gz").unlink()
    findings = found(folder)
    assert [(f.kind, f.case) for f in findings.findings if f.kind != "missing partner"] == [
        ("channel grids", "Tr_1"),
        ("channel grids", "Tr_2"),
    ]
    assert re.search(r"\(8, 10, 12\) and \(8, 10, 10\) voxels", findings.findings[1].message)
    assert ("missing partner", "Tr_3") in {(f.kind, f.case) for f in findings.findings}


def test_constant_alpha_is_a_note_said_once(tmp_path):
    folder = pictures(tmp_path / "set")
    describe(folder, {"0": "R", "1": "G", "2": "B"}, {"background": 0, "lesion": 1}, ".png")
    for part in ("Tr", "Ts"):
        for path in (folder / f"images{part}").iterdir():
            draw(path, np.array(PIL.Image.open(path).convert("RGBA")))
    findings = found(folder).findings
    assert [(f.severity, f.kind, f.case) for f in findings] == [("note", "reader's warning", "")]
    assert "6 more files: alpha is 255 everywhere" in findings[0].message


def test_errors_come_first(tmp_path):
    folder = volumes(tmp_path / "set")
    change(mask(folder, "Tr_0"), lambda a: a * 0)
    change(image(folder, "Tr_1"), lambda a: a * 0)
    truncate(image(folder, "Tr_2"))
    assert [f.severity for f in found(folder).findings] == ["error", "warning", "note"]


def test_two_processes_find_what_one_finds(tmp_path, monkeypatch):
    monkeypatch.setattr("mambino.inspection.processes._POOL_PAYS", 0)
    folder = volumes(tmp_path / "set")
    double(folder)
    poison(image(folder))
    seen: list[tuple[int, int]] = []
    findings = check(folder, CheckOptions(workers=2), progress=lambda done, total, _: seen.append((done, total)))
    assert findings == found(folder)
    assert seen == [(done, 14) for done in range(1, 15)]


def test_plain_folders_with_black_and_white_masks_are_clean(tmp_path):
    folder = tmp_path / "plain"
    for number in range(4):
        picture = np.random.default_rng(number).integers(0, 256, (20, 20, 3), np.uint8)
        draw(folder / f"images/{number}.png", picture)
        draw(folder / f"masks/{number}_mask.png", (picture[..., 0] > 128).astype(np.uint8) * 255)
    assert found(folder).findings == ()


def test_plain_folders_with_noisy_masks_are_named_case_by_case(tmp_path):
    folder = tmp_path / "plain"
    for number in range(4):
        picture = np.random.default_rng(number).integers(0, 256, (40, 40), np.uint8)
        truth = np.zeros((40, 40), np.uint8)
        truth[8:30, 10 : 25 + number] = 255
        draw(folder / f"images/{number}.png", picture)
        draw(folder / f"masks/{number}.jpg", truth, quality=50)
    findings = found(folder)
    assert [(f.kind, f.case) for f in findings.findings] == [("noisy mask", str(n)) for n in range(4)]


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda _: None, "no images|empty|holds no"),
        (lambda d: (d / "a.txt").write_text("a"), "no images|holds no"),
        (lambda d: draw(d / "images/a.png", np.zeros((4, 4), np.uint8)), "no masks"),
    ],
    ids=["empty", "text", "no masks"],
)
def test_folders_without_a_data_set_are_refused_in_a_sentence(make, words, tmp_path):
    folder = tmp_path / "set"
    folder.mkdir()
    make(folder)
    with pytest.raises(Error, match=words) as error:
        check(folder)
    assert isinstance(error.value, DataError | FileFormatError)
    assert error.value.hint


def test_a_folder_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(FileFormatError, match="does not exist"):
        check(tmp_path / "nowhere")


def test_a_header_that_lies_about_its_size_is_unreadable(tmp_path):
    folder = volumes(tmp_path / "set")
    path = image(folder)
    data = bytearray(gzip.decompress(path.read_bytes()))
    struct.pack_into("<h", data, 42, 400)
    path.write_bytes(bytes(data))
    findings = found(folder).findings
    assert [(f.kind, f.case) for f in findings] == [("unreadable file", "Tr_1")]
    assert re.search(r"\d+ bytes expected, \d+ found", findings[0].message)


def test_kinds_are_all_planted():
    from typing import get_args

    from mambino.core.findings import Kind

    elsewhere = {"channel grids", "reader's warning", "name clash"}
    assert {fault[4] for fault in FAULTS} | elsewhere == set(get_args(Kind))


def test_two_images_of_one_name_clash(tmp_path):
    folder = tmp_path / "plain"
    for name in ("a.png", "a.bmp", "b.png"):
        draw(folder / "images" / name, np.random.default_rng(len(name)).integers(0, 256, (9, 9), np.uint8))
    for name in ("a", "b"):
        draw(folder / f"masks/{name}.png", np.eye(9, dtype=np.uint8))
    assert "name clash" in kinds(found(folder))
