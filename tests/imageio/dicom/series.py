"""Synthetic DICOM series, written with pydicom alone, for tests of reading and of what is written for them."""

import warnings
from pathlib import Path

import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import UID, ExplicitVRLittleEndian, generate_uid

CT, ENHANCED_MR = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.4.1"
PLANTED = {
    "PatientName": "Planted^Nomen",
    "PatientID": "PLANTED-4711",
    "PatientBirthDate": "19010203",
    "PatientAddress": "Planted Lane 9",
    "OtherPatientNames": "Alias^Planted",
    "InstitutionName": "Planted General Hospital",
    "ReferringPhysicianName": "Planted^Physician",
    "OperatorsName": "Planted^Operator",
    "StudyDescription": "planted study words",
    "SeriesDescription": "planted series words",
    "ProtocolName": "planted protocol words",
    "ImageComments": "planted comment words",
    "PatientComments": "planted patient words",
    "AccessionNumber": "PLANTEDACC",
    "StationName": "PLANTEDSTATION",
}
"""What no output may repeat, but for the modules that a DICOM object shares with its source."""

CENTRE = np.array([-31.0, 12.5, 40.0])
T = np.deg2rad
AXES = {
    "axial": ((1, 0, 0), (0, 1, 0)),
    "sagittal": ((0, 1, 0), (0, 0, -1)),
    "coronal": ((1, 0, 0), (0, 0, -1)),
    "oblique": ((np.cos(T(20)), np.sin(T(20)) * np.cos(T(10)), np.sin(T(20)) * np.sin(T(10))), None),
    "reversed": ((0, -1, 0), (-1, 0, 0)),
    "negated": ((-1, 0, 0), (0, -1, 0)),
    "mirrored": ((-1, 0, 0), (0, 1, 0)),
}


def cosines(name: str) -> np.ndarray:
    """Return [2, 3] direction cosines: along a row, down a column."""
    row, column = AXES[name]
    if column is None:  # any vector that is square to the row
        column = np.cross((0.1, -0.2, 1.0), row)
    return np.array([np.divide(row, np.linalg.norm(row)), np.divide(column, np.linalg.norm(column))])


def values(shape, seed=0, bits=12):
    """Return stored values whose every slice, row and column differ."""
    return np.random.default_rng(seed).integers(0, 2**bits, shape).astype(np.uint16)


def header(uid: str, modality="CT", sop=CT, planted=True) -> FileDataset:
    """Return a file with the attributes that every image has."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = UID(sop), UID(uid)
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    made = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    made.SOPClassUID, made.SOPInstanceUID, made.Modality = UID(sop), UID(uid), modality
    made.StudyInstanceUID, made.FrameOfReferenceUID = "1.2.3.1", "1.2.3.2"
    made.StudyDate, made.StudyTime, made.StudyID, made.SeriesNumber = "20200102", "101112", "1", 1
    made.PatientSex, made.Manufacturer, made.ContentDate, made.ContentTime = "O", "none", "20200102", "101112"
    for name, value in PLANTED.items() if planted else ():
        setattr(made, name, value)
    return made


def pixels(made: Dataset, array: np.ndarray, signed=False) -> None:
    """Give a file its pixels, uncompressed."""
    made.SamplesPerPixel, made.PhotometricInterpretation = 1, "MONOCHROME2"
    made.Rows, made.Columns = array.shape[-2:]
    made.BitsAllocated, made.BitsStored, made.HighBit, made.PixelRepresentation = 16, 16, 15, int(signed)
    made.PixelData = array.astype("<i2" if signed else "<u2").tobytes()


def write_series(
    folder: Path,
    array: np.ndarray,
    axes: np.ndarray | str = "axial",
    *,
    spacing=(2.5, 0.75, 0.5),
    uid="1.2.3.9",
    modality="CT",
    change=lambda *_: None,
    names=lambda n: f"{(n * 7919) % 10007:05d}.dcm",
    shift=(0.0, 0.0, 0.0),
    signed=False,
) -> list[Path]:
    """Write one file a slice, names and instance numbers in another order than the slices.

    Args:
        folder: for the files.
        array: [z, y, x] stored values; z runs along the normal.
        axes: cosines, or the name of an orientation.
        spacing: between slices, rows and columns (mm).
        uid: of the series.
        modality: of the series.
        change: is given each file and the number of its slice before it is written.
        names: of the files, by the number of the slice.
        shift: of each slice against the one before it (mm), besides the spacing.
        signed: whether stored values have a sign.
    """
    axes = cosines(axes) if isinstance(axes, str) else axes
    normal = np.cross(*axes)
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for n, plane in enumerate(array):
        made = header(f"{uid}.{n + 1}", modality)
        made.SeriesInstanceUID, made.InstanceNumber = uid, (n * 5) % len(array) + 1
        made.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
        made.ImageOrientationPatient = [float(f"{c:.12f}") for c in axes.ravel()]
        position = CENTRE + n * (normal * spacing[0] + np.array(shift))
        made.ImagePositionPatient = [float(f"{c:.10f}") for c in position]
        made.PixelSpacing, made.SliceThickness = list(spacing[1:]), spacing[0]
        made.RescaleSlope, made.RescaleIntercept, made.RescaleType = 1, -1024, "HU"
        pixels(made, plane, signed)
        change(made, n)
        files.append(folder / names(n))
        made.save_as(files[-1], enforce_file_format=True)
    return files


def world(axes: np.ndarray | str, voxel, spacing=(2.5, 0.75, 0.5), shift=(0.0, 0.0, 0.0)) -> np.ndarray:
    """Return where voxel (z, y, x) of a series lies, RAS (mm), from its cosines alone."""
    axes = cosines(axes) if isinstance(axes, str) else axes
    z, y, x = voxel
    place = CENTRE + z * (np.cross(*axes) * spacing[0] + np.array(shift))
    place = place + axes[0] * x * spacing[2] + axes[1] * y * spacing[1]
    return place * (-1, -1, 1)


def write_enhanced(path: Path, array: np.ndarray, axes="axial", order=None, spacing=(2.5, 0.75, 0.5)) -> Path:
    """Write one multi-frame file; `order` lists which slice each frame is."""
    axes, order = cosines(axes), list(range(len(array))) if order is None else order
    made = header("1.2.3.77.1", "MR", ENHANCED_MR)
    made.SeriesInstanceUID, made.InstanceNumber, made.NumberOfFrames = "1.2.3.77", 1, len(array)
    made.ImageType = ["ORIGINAL", "PRIMARY", "VOLUME", "NONE"]
    shared, measures, orientation = Dataset(), Dataset(), Dataset()
    measures.PixelSpacing, measures.SliceThickness = list(spacing[1:]), spacing[0]
    orientation.ImageOrientationPatient = [float(f"{c:.12f}") for c in axes.ravel()]
    shared.PixelMeasuresSequence, shared.PlaneOrientationSequence = Sequence([measures]), Sequence([orientation])
    made.SharedFunctionalGroupsSequence = Sequence([shared])
    frames = []
    for n in order:
        frame, place, real, content = Dataset(), Dataset(), Dataset(), Dataset()
        place.ImagePositionPatient = [float(f"{c:.10f}") for c in CENTRE + n * np.cross(*axes) * spacing[0]]
        real.RescaleSlope, real.RescaleIntercept, real.RescaleType = 1 + 0.5 * (n % 2), 10, "US"
        content.StackID, content.InStackPositionNumber, content.DimensionIndexValues = "1", n + 1, [1, n + 1]
        frame.PlanePositionSequence = Sequence([place])
        frame.PixelValueTransformationSequence = Sequence([real])
        frame.FrameContentSequence = Sequence([content])
        frames.append(frame)
    made.PerFrameFunctionalGroupsSequence = Sequence(frames)
    pixels(made, array[order])
    path.parent.mkdir(parents=True, exist_ok=True)
    made.save_as(path, enforce_file_format=True)
    return path


def write_dicomdir(folder: Path, files: list[list[str]]) -> Path:
    """Write a DICOMDIR that lists files by the parts of their paths."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = UID("1.2.840.10008.1.3.10")
    meta.MediaStorageSOPInstanceUID, meta.TransferSyntaxUID = generate_uid(), ExplicitVRLittleEndian
    made = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    records = []
    for parts in files:
        record = Dataset()
        record.DirectoryRecordType = "IMAGE"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # some of these names are not allowed, which is the point
            record.ReferencedFileID = parts
        records.append(record)
    made.DirectoryRecordSequence = Sequence(records)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made.save_as(folder / "DICOMDIR", enforce_file_format=True)
    return folder / "DICOMDIR"


def reread(path: Path) -> pydicom.Dataset:
    """Read a file with pydicom."""
    return pydicom.dcmread(path)
