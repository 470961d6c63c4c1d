"""Other programs take what is written: a validator finds no error, a DICOMweb server stores it and gives it back."""

import shutil
import subprocess

import numpy as np
import pydicom
import pytest

from mambino.core.image import Segmentation
from mambino.imageio import dicom
from mambino.imageio.dicom.rtstruct import write_rtstruct
from mambino.imageio.dicom.seg import write_seg
from tests.imageio.dicom import orthanc
from tests.imageio.dicom.series import cosines, values, world, write_series
from tests.imageio.dicom.test_rtstruct import enclosed
from tests.imageio.dicom.test_seg import CONCEPTS, LABELS, MAKER, SHAPE, check_places, masks, truth_of


def objects(folder, name="oblique"):
    """Write a series, a SEG of each kind and a structure set of it; return the files of the series, and the others."""
    files = write_series(folder / "scan", values(SHAPE), name)
    volume = dicom.read(folder / "scan", headers=True)
    segmentation = Segmentation(masks(), volume.image.grid, LABELS)
    made = [folder / f"{kind}.dcm" for kind in ("binary", "labelmap", "rtstruct")]
    write_seg(made[0], segmentation, volume, CONCEPTS, MAKER)
    write_seg(made[1], segmentation, volume, CONCEPTS, MAKER, "LABELMAP")
    write_rtstruct(made[2], segmentation, volume, CONCEPTS, MAKER)
    return files, made


@pytest.mark.skipif(shutil.which("dciodvfy") is None, reason="dciodvfy is not installed (Debian: dicom3tools)")
def test_a_validator_finds_no_error(tmp_path):
    _, (binary, _, rtstruct) = objects(tmp_path)  # label maps are newer than the validator
    for path in (binary, rtstruct):
        said = subprocess.run(["dciodvfy", str(path)], capture_output=True, text=True, check=False)
        assert "Error" not in said.stdout + said.stderr


@pytest.mark.slow
@pytest.mark.skipif(bool(orthanc.missing()), reason=orthanc.missing() or "all is there")
def test_a_server_stores_all_and_gives_it_back(tmp_path):
    files, made = objects(tmp_path)
    study = pydicom.dcmread(files[0]).StudyInstanceUID
    with orthanc.server(tmp_path / "orthanc") as address:
        orthanc.store(address, [*files, *made])
        found = orthanc.query(address, f"studies/{study}/series?includefield=00080060")
        kinds = sorted(item["00080060"]["Value"][0] for item in found)
        assert kinds == ["CT", "RTSTRUCT", "SEG", "SEG"]
        back = {}
        for path in made:
            header = pydicom.dcmread(path, stop_before_pixels=True)
            where = f"studies/{study}/series/{header.SeriesInstanceUID}/instances/{header.SOPInstanceUID}"
            (tmp_path / f"back-{path.name}").write_bytes(*orthanc.fetch(address, where))
            back[path.stem] = pydicom.dcmread(tmp_path / f"back-{path.name}")
        (tmp_path / "back").mkdir()
        for n, content in enumerate(orthanc.fetch(address, f"studies/{study}")):
            (tmp_path / "back" / str(n)).write_bytes(content)
    truth = truth_of(masks(), LABELS)
    for kind in ("binary", "labelmap"):
        check_places(back[kind], truth, lambda voxel: world("oblique", voxel))
    contours = enclosed(back["rtstruct"], "liver", SHAPE, lambda voxel: world("oblique", voxel), cosines("oblique"))
    np.testing.assert_array_equal(contours, truth["liver"])
    # The whole study, as the server gives it: the series is found among its results.
    volume, original = dicom.read(tmp_path / "back"), dicom.read(tmp_path / "scan")
    np.testing.assert_array_equal(volume.image.array, original.image.array)
    assert volume.image.grid.close_to(original.image.grid)
