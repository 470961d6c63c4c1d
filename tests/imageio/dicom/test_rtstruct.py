"""Contours enclose the centres of exactly the voxels of each label, in the planes of their slices."""

import numpy as np
import pydicom
import pytest

from mambino.core.image import Segmentation
from mambino.core.provenance import NOT_FOR_CLINICAL_USE
from mambino.errors import DataError
from mambino.imageio import dicom
from mambino.imageio.dicom.rtstruct import write_rtstruct
from tests.imageio.dicom.inside import inside
from tests.imageio.dicom.series import AXES, cosines, values, world, write_enhanced, write_series
from tests.imageio.dicom.test_seg import CONCEPTS, LABELS, MAKER, REGIONS, SHAPE, masks, truth_of
from tests.places import DATA, needs_shared


def written(path, array, volume, labels=LABELS):
    write_rtstruct(path, Segmentation(array, volume.image.grid, labels), volume, CONCEPTS, MAKER)
    return pydicom.dcmread(path)


def enclosed(made, name, shape, place, axes):
    """Return which voxels of a volume lie in the contours of a region: in their plane, and inside them.

    Args:
        made: the structure set.
        name: of the region.
        shape: of the volume.
        place: tells where a voxel lies, RAS (mm).
        axes: [2, 3] cosines of the slices, LPS.
    """
    number = next(item.ROINumber for item in made.StructureSetROISequence if item.ROIName == name)
    region = next(item for item in made.ROIContourSequence if item.ReferencedROINumber == number)
    voxels = np.argwhere(np.ones(shape, bool))
    places = np.array([place(voxel) for voxel in voxels]) * (-1, -1, 1)
    normal = np.cross(*axes)
    found = np.zeros(len(voxels), int)
    for contour in region.get("ContourSequence", []):
        assert contour.ContourGeometricType == "CLOSED_PLANAR"
        points = np.array(contour.ContourData, float).reshape(-1, 3)
        assert len(points) == contour.NumberOfContourPoints
        heights = points @ normal
        assert np.ptp(heights) < 1e-4
        level = np.abs(places @ normal - heights[0]) < 1e-3
        flat = [tuple(pair) for pair in points @ axes.T]
        found[level] += inside(flat, places[level] @ axes.T)
    assert found.max(initial=0) <= 1
    return found.reshape(shape).astype(bool)


@pytest.mark.parametrize("name", AXES)
def test_voxels_inside_are_the_voxels_of_the_label(tmp_path, name):
    write_series(tmp_path / "scan", values(SHAPE), name)
    made = written(tmp_path / "a.dcm", masks(), dicom.read(tmp_path / "scan", headers=True))
    for label, truth in truth_of(masks(), LABELS).items():
        found = enclosed(made, label, SHAPE, lambda voxel: world(name, voxel), cosines(name))
        np.testing.assert_array_equal(found, truth)


def test_regions_overlap_and_frames_are_named(tmp_path):
    path = write_enhanced(tmp_path / "one.dcm", values(SHAPE), "coronal", [3, 0, 4, 1, 2])
    made = written(tmp_path / "a.dcm", masks(), dicom.read(path, headers=True), REGIONS)
    for label, truth in truth_of(masks(), REGIONS).items():
        found = enclosed(made, label, SHAPE, lambda voxel: world("coronal", voxel), cosines("coronal"))
        np.testing.assert_array_equal(found, truth)
    contour = made.ROIContourSequence[0].ContourSequence[0]
    assert contour.ContourImageSequence[0].ReferencedFrameNumber == 2  # slice 0 is the second frame


def test_it_says_what_it_is_of_what_and_by_whom(tmp_path):
    write_series(tmp_path / "scan", values(SHAPE))
    made = written(tmp_path / "a.dcm", masks(), dicom.read(tmp_path / "scan", headers=True))
    assert made.SOPClassUID == made.file_meta.MediaStorageSOPClassUID == "1.2.840.10008.5.1.4.1.1.481.3"
    assert NOT_FOR_CLINICAL_USE in made.SeriesDescription
    for word in (NOT_FOR_CLINICAL_USE, "1.2.3", "fold0", "ab" * 32, "cd" * 32):
        assert word in made.StructureSetDescription
    reference = made.ReferencedFrameOfReferenceSequence[0]
    series = reference.RTReferencedStudySequence[0].RTReferencedSeriesSequence[0]
    assert (reference.FrameOfReferenceUID, series.SeriesInstanceUID) == ("1.2.3.2", "1.2.3.9")
    uids = {item.ReferencedSOPInstanceUID for item in series.ContourImageSequence}
    assert uids == {f"1.2.3.9.{n + 1}" for n in range(5)}
    codes = [item.RTROIIdentificationCodeSequence[0].CodeMeaning for item in made.RTROIObservationsSequence]
    assert codes == ["Liver", "Kidney", "Lesion"]
    assert made.ApprovalStatus == "UNAPPROVED"
    contour = made.ROIContourSequence[0].ContourSequence[0]
    source = int(contour.ContourImageSequence[0].ReferencedSOPInstanceUID.rpartition(".")[2]) - 1
    assert contour.ContourData[2] == pytest.approx(world("axial", (source, 0, 0))[2])


def test_a_label_without_a_voxel_has_no_contour(tmp_path):
    write_series(tmp_path / "scan", values(SHAPE))
    made = written(tmp_path / "a.dcm", np.zeros(SHAPE, np.uint8), dicom.read(tmp_path / "scan", headers=True))
    assert [item.ROIName for item in made.StructureSetROISequence] == list(LABELS.names)
    assert all("ContourSequence" not in item for item in made.ROIContourSequence)


def test_a_source_that_nothing_can_refer_to_is_refused(tmp_path):
    write_series(tmp_path / "scan", values(SHAPE), change=lambda made, _: made.__delattr__("StudyInstanceUID"))
    with pytest.raises(DataError, match=r"is not as DICOM demands of what an object refers to \(AttributeError"):
        written(tmp_path / "a.dcm", masks(), dicom.read(tmp_path / "scan", headers=True))


def test_long_contours_are_written_whole(tmp_path):
    shape = (1, 90, 90)
    write_series(tmp_path / "scan", values(shape))
    comb = np.zeros(shape, np.uint8)
    comb[0, ::2], comb[0, :, 0] = 1, 1
    comb[0, :, 1:] *= np.arange(89) % 2 == 0  # many outlines and, along the first column, a long one
    comb[0, ::2, :40] = 1
    made = written(tmp_path / "a.dcm", comb, dicom.read(tmp_path / "scan", headers=True))
    found = enclosed(made, "liver", shape, lambda voxel: world("axial", voxel), cosines("axial"))
    np.testing.assert_array_equal(found, comb == 1)


@needs_shared
def test_a_real_oblique_series_gets_its_voxels_back(tmp_path):
    volume = dicom.read(DATA / "dicom/brain_mr_study/T1post", headers=True)
    grid, axes = volume.image.grid, volume.frames[0].axes
    array = np.zeros(grid.shape, np.uint8)
    array[7:9, 100:130, 80:120] = masks(shape=(2, 30, 40))
    made = written(tmp_path / "a.dcm", array, volume)
    part = grid.crop((7, 95, 75), (2, 40, 50))
    found = enclosed(made, "liver", part.shape, lambda voxel: (part.affine @ [*voxel, 1])[:3], axes)
    np.testing.assert_array_equal(found, array[7:9, 95:135, 75:125] == 1)
