"""Every voxel of a SEG lies where the image voxel lies, read back by hand; and it says what it is, of what, by whom."""

import numpy as np
import pydicom
import pytest
from scipy.spatial import KDTree

from mambino.core.image import Segmentation
from mambino.core.labels import Labels
from mambino.core.provenance import NOT_FOR_CLINICAL_USE, Maker
from mambino.errors import DataError, FileFormatError
from mambino.imageio import dicom
from mambino.imageio.dicom.concepts import TISSUE, Concept, by_name, read_codes
from mambino.imageio.dicom.seg import write_seg
from tests.imageio.dicom.series import AXES, values, world, write_enhanced, write_series
from tests.places import DATA, needs_shared

SHAPE = (5, 7, 6)
LABELS = Labels(names={"liver": (1,), "left_kidney": (2,), "lesion": (3,)})
REGIONS = Labels(names={"whole": (1, 2, 3), "core": (2, 3), "rim": (3,)}, paint=(1, 2, 3))
MAKER = Maker(version="1.2.3", bundles=(("fold0", "ab" * 32), ("fold1", "cd" * 32)), networks=("unet", "lightm_unet"))
CONCEPTS = {name: by_name(name) for name in (*LABELS.names, *REGIONS.names)}


def masks(seed=3, shape=SHAPE):
    """Return label numbers with an empty slice."""
    array = np.random.default_rng(seed).integers(0, 4, shape)
    array[2:3] = 0
    return array.astype(np.uint8)


def written(path, array, volume, kind="BINARY", labels=LABELS):
    write_seg(path, Segmentation(array, volume.image.grid, labels), volume, CONCEPTS, MAKER, kind)
    return pydicom.dcmread(path)


def marked(made) -> dict[str, np.ndarray]:
    """Return by label where the voxels of a SEG lie, RAS (mm), from its attributes and bits alone."""
    rows, columns, count = made.Rows, made.Columns, int(made.NumberOfFrames)
    names = {item.SegmentNumber: item.SegmentLabel for item in made.SegmentSequence}
    shared = made.SharedFunctionalGroupsSequence[0]
    axes = np.array(shared.PlaneOrientationSequence[0].ImageOrientationPatient, float).reshape(2, 3)
    down, along = map(float, shared.PixelMeasuresSequence[0].PixelSpacing)
    if made.SegmentationType == "BINARY":
        bits = np.unpackbits(np.frombuffer(made.PixelData, np.uint8), bitorder="little")
        planes = bits[: count * rows * columns].reshape(count, rows, columns)
    else:
        planes = made.pixel_array.reshape(count, rows, columns)
    found: dict[str, list] = {}
    for plane, frame in zip(planes, made.PerFrameFunctionalGroupsSequence, strict=True):
        place = np.array(frame.PlanePositionSequence[0].ImagePositionPatient, float)
        for value in set(np.unique(plane).tolist()) - {0}:
            only = made.SegmentationType == "BINARY"
            number = frame.SegmentIdentificationSequence[0].ReferencedSegmentNumber if only else value
            for y, x in np.argwhere(plane == value):
                found.setdefault(names[number], []).append(place + axes[0] * x * along + axes[1] * y * down)
    return {name: np.array(places) * (-1, -1, 1) for name, places in found.items()}


def check_places(made, truth, place):
    """Check that a SEG marks exactly the voxels that are true, by label."""
    found = marked(made)
    assert set(found) == {name for name, mask in truth.items() if mask.any()}
    for name, places in found.items():
        wanted = np.array([place(voxel) for voxel in np.argwhere(truth[name])])
        assert len(places) == len(wanted)
        distance, partner = KDTree(places).query(wanted)
        assert distance.max() < 1e-4
        assert len(set(partner)) == len(wanted)


def truth_of(array, labels):
    return {name: np.isin(array, group) for name, group in labels.names.items()}


@pytest.mark.parametrize("kind", ["BINARY", "LABELMAP"])
@pytest.mark.parametrize("name", AXES)
def test_every_voxel_lies_where_the_image_voxel_lies(tmp_path, name, kind):
    write_series(tmp_path / "scan", values(SHAPE), name)
    made = written(tmp_path / "a.seg.dcm", masks(), dicom.read(tmp_path / "scan", headers=True), kind)
    assert made.SegmentationType == kind
    check_places(made, truth_of(masks(), LABELS), lambda voxel: world(name, voxel))


@pytest.mark.parametrize("kind", ["BINARY", "LABELMAP"])
@pytest.mark.parametrize("order", [[3, 0, 4, 1, 2], [4, 3, 2, 1, 0]])
def test_frames_of_one_file_keep_their_places_whatever_their_order(tmp_path, order, kind):
    path = write_enhanced(tmp_path / "one.dcm", values(SHAPE), "oblique", order)
    made = written(tmp_path / "a.seg.dcm", masks(), dicom.read(path, headers=True), kind)
    check_places(made, truth_of(masks(), LABELS), lambda voxel: world("oblique", voxel))


def test_structures_may_overlap(tmp_path):
    write_series(tmp_path / "scan", values(SHAPE), "coronal")
    volume = dicom.read(tmp_path / "scan", headers=True)
    made = written(tmp_path / "a.seg.dcm", masks(), volume, labels=REGIONS)
    check_places(made, truth_of(masks(), REGIONS), lambda voxel: world("coronal", voxel))
    with pytest.raises(DataError, match="the labels whole, core, rim overlap, and a label map holds one a voxel"):
        written(tmp_path / "a.seg.dcm", masks(), volume, "LABELMAP", REGIONS)


@pytest.mark.parametrize("kind", ["BINARY", "LABELMAP"])
def test_nothing_found_is_written_as_nothing(tmp_path, kind):
    write_series(tmp_path / "scan", values(SHAPE))
    made = written(tmp_path / "a.dcm", np.zeros(SHAPE, np.uint8), dicom.read(tmp_path / "scan", headers=True), kind)
    assert marked(made) == {}
    assert [item.SegmentLabel for item in made.SegmentSequence if item.SegmentNumber] == list(LABELS.names)


def test_it_says_what_it_is_of_what_and_by_whom(tmp_path):
    write_series(tmp_path / "scan", values(SHAPE))
    made = written(tmp_path / "a.seg.dcm", masks(), dicom.read(tmp_path / "scan", headers=True))
    assert made.SOPClassUID == "1.2.840.10008.5.1.4.1.1.66.4"
    assert NOT_FOR_CLINICAL_USE in made.SeriesDescription
    assert NOT_FOR_CLINICAL_USE in made.ContentDescription
    assert (made.StudyInstanceUID, made.FrameOfReferenceUID) == ("1.2.3.1", "1.2.3.2")
    assert made.SeriesNumber == 1001
    (referenced,) = made.ReferencedSeriesSequence
    assert referenced.SeriesInstanceUID == "1.2.3.9"
    uids = {item.ReferencedSOPInstanceUID for item in referenced.ReferencedInstanceSequence}
    assert uids == {f"1.2.3.9.{n + 1}" for n in range(5)}
    for frame in made.PerFrameFunctionalGroupsSequence:
        source = frame.DerivationImageSequence[0].SourceImageSequence[0].ReferencedSOPInstanceUID
        slice_number = int(source.rpartition(".")[2]) - 1
        place = np.array(frame.PlanePositionSequence[0].ImagePositionPatient, float) * (-1, -1, 1)
        np.testing.assert_allclose(place, world("axial", (slice_number, 0, 0)), atol=1e-6)
    liver, kidney, lesion = made.SegmentSequence
    assert liver.SegmentedPropertyTypeCodeSequence[0].CodeValue == "10200004"
    assert liver.SegmentedPropertyCategoryCodeSequence[0].CodeMeaning == "Anatomical Structure"
    kind = kidney.SegmentedPropertyTypeCodeSequence[0]
    assert (kind.CodeMeaning, kind.SegmentedPropertyTypeModifierCodeSequence[0].CodeMeaning) == ("Kidney", "Left")
    assert lesion.SegmentedPropertyCategoryCodeSequence[0].CodeValue == "49755003"
    algorithm = liver.SegmentationAlgorithmIdentificationSequence[0]
    assert (algorithm.AlgorithmName, algorithm.AlgorithmVersion, liver.SegmentAlgorithmType) == (
        "mambino",
        "1.2.3",
        "AUTOMATIC",
    )
    for word in ("fold0", "ab" * 32, "fold1", "cd" * 32, "lightm_unet"):
        assert word in str(algorithm.AlgorithmParameters)


def test_a_source_may_lack_what_may_be_empty(tmp_path):
    write_series(tmp_path / "scan", values(SHAPE), change=lambda made, _: made.__delattr__("PatientID"))
    made = written(tmp_path / "a.seg.dcm", masks(), dicom.read(tmp_path / "scan", headers=True))
    assert made.PatientID == ""


def test_a_source_that_nothing_can_refer_to_is_refused(tmp_path):
    write_series(tmp_path / "scan", values(SHAPE), change=lambda made, _: made.__delattr__("StudyInstanceUID"))
    volume = dicom.read(tmp_path / "scan", headers=True)
    words = r"series 1\.2\.3\.9 \(CT\) is not as DICOM demands of what an object refers to \(AttributeError"
    with pytest.raises(DataError, match=words):
        written(tmp_path / "a.seg.dcm", masks(), volume)
    assert [path.name for path in tmp_path.iterdir()] == ["scan"]


def test_slices_of_several_studies_are_refused(tmp_path):
    write_series(tmp_path / "scan", values(SHAPE), change=lambda made, n: setattr(made, "StudyInstanceUID", f"1.2.{n}"))
    with pytest.raises(DataError, match="has slices of 5 studies, a DICOM object is of one"):
        written(tmp_path / "a.seg.dcm", masks(), dicom.read(tmp_path / "scan", headers=True))


def test_headers_that_are_only_nearly_alike_place_all_slices(tmp_path):
    def change(made, n):
        made.ImageOrientationPatient = [1, 1e-5 * n, 0, 0, 1, 0]
        made.SpacingBetweenSlices = 99
        del made.SliceThickness
        del made.FrameOfReferenceUID

    write_series(tmp_path / "scan", values(SHAPE), change=change)
    made = written(tmp_path / "a.seg.dcm", masks(), dicom.read(tmp_path / "scan", headers=True))
    check_places(made, truth_of(masks(), LABELS), lambda voxel: world("axial", voxel))
    assert made.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].SpacingBetweenSlices == 2.5
    assert made.FrameOfReferenceUID


def test_several_multi_frame_files_are_refused(tmp_path):
    write_enhanced(tmp_path / "scan/a.dcm", values(SHAPE))
    more = pydicom.dcmread(write_enhanced(tmp_path / "scan/b.dcm", values(SHAPE)))
    more.SOPInstanceUID = more.file_meta.MediaStorageSOPInstanceUID = "1.2.3.77.2"
    for frame in more.PerFrameFunctionalGroupsSequence:
        frame.PlanePositionSequence[0].ImagePositionPatient[2] += 5 * 2.5
    more.save_as(tmp_path / "scan/b.dcm")
    volume = dicom.read(tmp_path / "scan", headers=True)
    with pytest.raises(DataError, match="is made of 2 multi-frame files, a DICOM object can refer to one"):
        written(tmp_path / "a.seg.dcm", masks(shape=(10, 7, 6)), volume)


def test_labels_are_coded_by_their_names():
    assert by_name("Liver").type == ("10200004", "SCT", "Liver")
    assert by_name("spinal_cord").type == ("2748008", "SCT", "Spinal cord")
    assert by_name("right lung").modifier == ("24028007", "SCT", "Right")
    assert by_name("anterior") == Concept(type=TISSUE, category=TISSUE)
    assert by_name("left") == Concept(type=TISSUE, category=TISSUE)


@pytest.mark.parametrize("ending", ["toml", "json"])
def test_codes_are_read_from_a_file(tmp_path, ending):
    path = tmp_path / f"codes.{ending}"
    path.write_text(
        '[labels.core]\ntype = ["4147007", "SCT", "Mass"]\ncategory = ["49755003", "SCT", "Abnormal"]\n'
        if ending == "toml"
        else '{"labels": {"core": {"type": ["4147007", "SCT", "Mass"], "category": ["49755003", "SCT", "Abnormal"]}}}'
    )
    found = read_codes(path, ["core", "liver"])
    assert found["core"].type == ("4147007", "SCT", "Mass")
    assert found["liver"] == by_name("liver")


@pytest.mark.parametrize(
    ("text", "words", "error"),
    [
        ('[labels.lung]\ntype = ["1", "SCT", "x"]', "gives a code to the label lung, the labels are liver", DataError),
        (f'[labels.liver]\ntype = ["{"1" * 17}", "SCT", "x"]', "whose parts have 1 to 16, 16 and 64 char", DataError),
        ("[labels.liver]\nkind = 1", "is not a valid codes", FileFormatError),
        ("[labels", "is not valid TOML", FileFormatError),
    ],
)
def test_wrong_codes_are_refused(tmp_path, text, words, error):
    (tmp_path / "codes.toml").write_text(text)
    with pytest.raises(error, match=words):
        read_codes(tmp_path / "codes.toml", ["liver"])
    with pytest.raises(FileFormatError, match=r"none\.toml cannot be read"):
        read_codes(tmp_path / "none.toml", ["liver"])


@needs_shared
@pytest.mark.parametrize("kind", ["BINARY", "LABELMAP"])
@pytest.mark.parametrize(
    "name", ["brain_mr_study/T1post", "ct_24x38x3/image", "ct_24x38x3/multiframe", "enhanced_mr", "seg_variants"]
)
def test_real_series_get_their_voxels_back(tmp_path, name, kind):
    volume = dicom.read(DATA / "dicom" / name, headers=True)
    grid = volume.image.grid
    array = (masks(shape=grid.shape) * (np.random.default_rng(0).random(grid.shape) > 0.99)).astype(np.uint8)
    made = written(tmp_path / "a.seg.dcm", array, volume, kind)
    check_places(made, truth_of(array, LABELS), lambda voxel: (grid.affine @ [*voxel, 1])[:3])
