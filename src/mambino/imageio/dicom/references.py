"""What DICOM objects share: the series they refer to, its patient and study, their own names.

Patient and study of an object are those of its source, as DICOM demands of objects of one study.
"""

from typing import Any

from mambino.core.provenance import NOT_FOR_CLINICAL_USE
from mambino.errors import DataError, Error
from mambino.imageio.dicom import Volume

DESCRIPTION = f"mambino segmentation. {NOT_FOR_CLINICAL_USE}"
MOST_LABEL = 64
"""Characters that DICOM gives the name of a segment."""

# What every object of a study must state, if only as empty (type 2). Of the source's other attributes of identification
# and patient (groups 0008 and 0010) an object gets only those that tell of no person and no place.
_REQUIRED = (
    *("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "StudyID"),
    *("AccessionNumber", "ReferringPhysicianName", "PositionReferenceIndicator", "Manufacturer"),
)
_HARMLESS = ("SpecificCharacterSet", "ImageType", "SOPClassUID", "SOPInstanceUID", "Modality", "ManufacturerModelName")


def source_images(volume: Volume) -> list[Any]:
    """Return the headers of the files of a volume in the order of its slices, each complete enough to refer to."""
    headers = [volume.headers[uid] for uid in dict.fromkeys(frame.uid for frame in volume.frames)]
    if len(headers) > 1 and len(headers) < len(volume.frames):
        raise DataError(
            f"{_name(volume)} is made of {len(headers)} multi-frame files, a DICOM object can refer to one",
            _WITHOUT,
        )
    studies = {str(header.get("StudyInstanceUID")) for header in headers}
    if len(studies) > 1:
        raise DataError(f"{_name(volume)} has slices of {len(studies)} studies, a DICOM object is of one", _WITHOUT)
    reference = volume.frames[0].reference or new_uid()
    return [_referable(header, reference, volume) for header in headers]


def series_number(volume: Volume) -> int:
    """Return a number for a series that was made of another: 1000 more."""
    header = next(iter(volume.headers.values()))
    return 1000 + int(header.get("SeriesNumber") or 0) % 1_000_000


def not_referable(volume: Volume, error: Exception) -> Error:
    """Return the error of a series that DICOM objects cannot refer to; values of the patient stay out of it."""
    missing = f" {error.name}" if isinstance(error, AttributeError) and error.name else ""
    return DataError(
        f"{_name(volume)} is not as DICOM demands of what an object refers to ({type(error).__name__}{missing})",
        _WITHOUT,
    )


def new_uid() -> str:
    """Return a UID that nothing else has."""
    from pydicom.uid import generate_uid

    return str(generate_uid(prefix=None))


def item(**attributes: Any) -> Any:
    """Return a Dataset with these attributes."""
    from pydicom import Dataset

    made = Dataset()
    for keyword, value in attributes.items():
        setattr(made, keyword, value)
    return made


def _referable(header: Any, reference: str, volume: Volume) -> Any:
    """Return a header with what objects refer to, and no more of the patient than they must state."""
    from pydicom import Dataset

    made = Dataset()
    made.file_meta = header.file_meta
    cut = {0x0008, 0x0010}
    made.update({e.tag: e for e in header if e.tag.group not in cut or e.keyword in (*_REQUIRED, *_HARMLESS)})
    for keyword in _REQUIRED:
        if keyword not in made:
            setattr(made, keyword, "")
    made.update(item(FrameOfReferenceUID=reference))
    # Orientation and spacing as the header pass has found them, where highdicom looks for them.
    first, between = volume.frames[0], volume.image.grid.spacing[0]
    measures = item(
        PixelSpacing=[_decimal(n) for n in first.spacing],
        SpacingBetweenSlices=_decimal(between),
        SliceThickness=_decimal(first.thickness or between),
    )
    plane = item(ImageOrientationPatient=[_decimal(n) for n in first.axes.ravel()])
    if "PerFrameFunctionalGroupsSequence" not in header:
        made.update(measures)
        made.update(plane)
        return made
    shared = Dataset()
    shared.update(header.SharedFunctionalGroupsSequence[0] if header.get("SharedFunctionalGroupsSequence") else {})
    shared.update(item(PixelMeasuresSequence=[measures], PlaneOrientationSequence=[plane]))
    made.update(item(SharedFunctionalGroupsSequence=[shared]))
    return made


def _decimal(number: float) -> Any:
    """Return a number in the 16 characters that a decimal string has."""
    from pydicom.valuerep import DSfloat

    return DSfloat(number, auto_format=True)


def _name(volume: Volume) -> str:
    return volume.sentence.partition(":")[0]


_WITHOUT = "leave out --format, which writes NIfTI"
