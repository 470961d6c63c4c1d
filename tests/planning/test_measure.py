"""Measurements are what a hand count gives, in one orientation, and are kept until a file changes."""

import os
from dataclasses import replace

import nibabel
import numpy as np
import pytest

from mambino.core.fingerprint import Fingerprint
from mambino.core.records import read, write
from mambino.errors import DataError
from mambino.imageio.folders import open_dataset
from mambino.planning.measure import SAMPLES, digest, examine, measure, measured
from tests.planning.measured import write_pictures, write_volumes

LPS = np.diag([-1.0, -1.0, 2.0, 1.0])


def test_shapes_spacings_and_centres_are_those_of_the_turned_volume(tmp_path):
    plain = open_dataset(write_volumes(tmp_path / "ras", count=1))
    turned = open_dataset(write_volumes(tmp_path / "lps", count=1, affine=LPS))
    ras, _, unit = examine(plain.training[0], plain)
    lps, _, _ = examine(turned.training[0], turned)
    assert unit == "mm"
    assert (ras.orientation, lps.orientation) == ("RAS", "LPS")
    assert ras.shape == lps.shape == (10, 14, 12)
    assert (ras.spacing, lps.spacing) == ((1, 1, 1), (2, 1, 1))
    assert ras.counts == {"0": 12 * 14 * 10 - 120, "1": 120}
    assert ras.centres["1"] == pytest.approx((4.5 / 10, 6 / 14, 4 / 12), abs=1e-5)
    assert lps.centres["1"] == pytest.approx((4.5 / 10, 1 - 6 / 14, 1 - 4 / 12), abs=1e-5)


def test_cropping_counts_voxels_that_are_not_zero_in_some_channel(tmp_path):
    folder = write_volumes(tmp_path, count=1)
    image = np.zeros((12, 14, 10), np.float32)
    image[3:8, 5, 2:4] = 7
    nibabel.save(nibabel.Nifti1Image(image, np.eye(4)), folder / "imagesTr" / "case0_0000.nii.gz")
    dataset = open_dataset(folder)
    assert examine(dataset.training[0], dataset)[0].cropped == (2, 1, 5)
    nibabel.save(nibabel.Nifti1Image(0 * image, np.eye(4)), folder / "imagesTr" / "case0_0000.nii.gz")
    assert examine(dataset.training[0], dataset)[0].cropped == (10, 14, 12)


def test_intensities_are_sampled_from_the_foreground_alike_each_time(tmp_path):
    dataset = open_dataset(write_volumes(tmp_path, count=1))
    _, first, _ = examine(dataset.training[0], dataset)
    _, second, _ = examine(dataset.training[0], dataset)
    assert first.shape == (1, SAMPLES)
    assert first.mean() == pytest.approx(150, abs=3)
    np.testing.assert_array_equal(first, second)


def test_pictures_are_measured_in_pixels_as_they_are_stored(tmp_path):
    dataset = open_dataset(write_pictures(tmp_path))
    found = measure(dataset, "", workers=1)
    assert (found.unit, found.orientation) == ("pixel", None)
    assert found.cases[0].shape == (40, 48)
    assert found.cases[0].spacing == (1, 1)
    assert len(found.intensities) == 1


def test_processes_measure_the_same_as_one(tmp_path, monkeypatch):
    dataset = open_dataset(write_volumes(tmp_path, count=3))
    alone = measure(dataset, "", workers=1)
    monkeypatch.setattr("mambino.planning.measure.WORKER_BYTES", 1.0)
    seen = []
    assert measure(dataset, "", workers=2, progress=lambda *step: seen.append(step)) == alone
    assert [done for done, _, _ in seen] == [1, 2, 3]


def test_measurements_are_kept_until_a_file_changes(tmp_path):
    folder = write_volumes(tmp_path / "data", count=2)
    cache = tmp_path / "work" / "fingerprint.json"
    dataset = open_dataset(folder)
    first = measured(dataset, cache, workers=1)
    marked = write(replace(first, cases=first.cases[:1]), cache)
    assert len(measured(dataset, cache, workers=1).cases) == 1  # read, not measured

    image = folder / "imagesTr" / "case0_0000.nii.gz"
    os.utime(image, ns=(1, 1))
    assert len(measured(dataset, cache, workers=1).cases) == 2
    assert read(Fingerprint, marked).source == digest(dataset) != first.source


def test_a_damaged_cache_is_measured_again(tmp_path):
    dataset = open_dataset(write_volumes(tmp_path / "data", count=1))
    cache = tmp_path / "fingerprint.json"
    cache.write_text("{")
    assert measured(dataset, cache, workers=1) == read(Fingerprint, cache)


def test_a_mask_of_another_shape_is_refused(tmp_path):
    folder = write_volumes(tmp_path, count=1)
    nibabel.save(nibabel.Nifti1Image(np.ones((12, 14, 9), np.uint8), np.eye(4)), folder / "labelsTr" / "case0.nii.gz")
    dataset = open_dataset(folder)
    with pytest.raises(DataError, match=r"case case0: the image has \(10, 14, 12\) voxels, its labels \(9, 14, 12\)"):
        examine(dataset.training[0], dataset)


def test_a_mask_that_lies_elsewhere_is_refused_in_the_words_of_preprocess(tmp_path):
    folder = write_volumes(tmp_path, count=2)
    moved = np.eye(4)
    moved[0, 3] = 5
    nibabel.save(nibabel.Nifti1Image(np.ones((12, 14, 10), np.uint8), moved), folder / "labelsTr" / "case1.nii.gz")
    words = (
        r"case case1: the labels lie elsewhere than their image: "
        r"affine \[\[0.0, 0.0, 1.0, 5.0\], .*\] and \[\[0.0, 0.0, 1.0, 0.0\], .*\]$"
    )
    with pytest.raises(DataError, match=words) as caught:
        measure(open_dataset(folder), "", workers=1)
    assert "mambino check" in caught.value.hint


def test_voxels_that_are_not_finite_are_refused(tmp_path):
    folder = write_volumes(tmp_path, count=1)
    image = np.full((12, 14, 10), 3.0, np.float32)
    image[0, 0, :2] = np.nan, np.inf
    nibabel.save(nibabel.Nifti1Image(image, np.eye(4)), folder / "imagesTr" / "case0_0000.nii.gz")
    dataset = open_dataset(folder)
    with pytest.raises(DataError, match="case case0: 2 of 1680 voxels are not finite numbers"):
        measure(dataset, "", workers=1)


def test_masks_without_foreground_are_refused(tmp_path):
    folder = write_volumes(tmp_path, count=2)
    for number in range(2):
        empty = nibabel.Nifti1Image(np.zeros((12, 14, 10), np.uint8), np.eye(4))
        nibabel.save(empty, folder / "labelsTr" / f"case{number}.nii.gz")
    with pytest.raises(DataError, match=r"none of the 2 masks of .* has a labelled voxel: all are background"):
        measure(open_dataset(folder), "", workers=1)


def test_a_data_set_without_training_cases_is_refused(tmp_path):
    dataset = replace(open_dataset(write_volumes(tmp_path, count=1)), training=())
    with pytest.raises(DataError, match="has no training case with a mask, so there is nothing to plan for"):
        measure(dataset, "", workers=1)


def test_pictures_and_volumes_do_not_mix(tmp_path):
    folder = write_volumes(tmp_path, count=2)
    for part, name in (("imagesTr", "case1_0000"), ("labelsTr", "case1")):
        nibabel.save(nibabel.Nifti1Image(np.ones((12, 14), np.uint8), np.eye(4)), folder / part / f"{name}.nii.gz")
    with pytest.raises(DataError, match="case case1 has 2 axes in mm, case case0 has 3 in mm"):
        measure(open_dataset(folder), "", workers=1)
