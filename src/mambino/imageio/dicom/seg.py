"""DICOM segmentation objects (SEG), written through highdicom for the series that was segmented.

Every frame has the place of its source slice, whatever way that looks: no voxel is turned. The attributes of patient
and study are those of the source, as DICOM demands of objects of one study.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from mambino.core.image import Segmentation
from mambino.core.provenance import NOT_FOR_CLINICAL_USE, Maker
from mambino.core.records import replacing
from mambino.errors import DataError, Error, need
from mambino.imageio.codes import smallest
from mambino.imageio.dicom import Volume
from mambino.imageio.dicom.concepts import Code, Concept
from mambino.imageio.dicom.headers import quietly

DESCRIPTION = f"mambino segmentation. {NOT_FOR_CLINICAL_USE}"
MOST_LABEL = 64
"""Characters that DICOM gives the name of a segment."""

_RLE = "1.2.840.10008.1.2.5"
_PLAIN = "1.2.840.10008.1.2.1"
# What every object of a study must state, if only as empty (type 2). Of the source's other attributes of identification
# and patient (groups 0008 and 0010) an object gets only those that tell of no person and no place.
_REQUIRED = (
    *("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "StudyID"),
    *("AccessionNumber", "ReferringPhysicianName", "PositionReferenceIndicator", "Manufacturer"),
)
_HARMLESS = ("SpecificCharacterSet", "ImageType", "SOPClassUID", "SOPInstanceUID", "Modality", "ManufacturerModelName")


def write_seg(
    path: Path,
    segmentation: Segmentation,
    volume: Volume,
    concepts: Mapping[str, Concept],
    maker: Maker,
    kind: Literal["BINARY", "LABELMAP"] = "BINARY",
) -> None:
    """Write the labels of a series as one SEG file.

    Args:
        path: of the file.
        segmentation: on the grid of `volume`; empty slices are left out of the file.
        volume: the series, read with its headers.
        concepts: what each label shows.
        maker: what made the labels.
        kind: "BINARY" stores a bit a voxel for each label, "LABELMAP" one number a voxel, packed.

    Raises:
        MissingExtraError: highdicom is not installed.
        DataError: the series is of several multi-frame files, lacks what a SEG refers to, or labels overlap in a
            label map.
        FileFormatError: the file cannot be written.
    """
    hd = need("highdicom", extra="dicom", why=f"writing {path}")
    if kind == "LABELMAP" and segmentation.labels.has_regions:
        raise DataError(
            f"{path}: the labels {', '.join(segmentation.labels.names)} overlap, and a label map holds one a voxel",
            "write --format seg, which holds a bit for each",
        )
    sources = source_images(volume)
    with quietly():
        try:
            made = hd.seg.Segmentation(
                source_images=sources,
                pixel_array=_pixels(segmentation, volume, sources),
                segmentation_type=kind,
                segment_descriptions=[
                    _described(number, name, concepts[name], maker)
                    for number, name in enumerate(segmentation.labels.names, 1)
                ],
                series_instance_uid=hd.UID(),
                series_number=series_number(volume),
                sop_instance_uid=hd.UID(),
                instance_number=1,
                manufacturer="mambino",
                manufacturer_model_name="mambino",
                software_versions=maker.version,
                device_serial_number=maker.bundles[0][1][:16],
                content_description=DESCRIPTION,
                content_label="SEGMENTATION",
                content_creator_name="mambino",
                transfer_syntax_uid=_RLE if kind == "LABELMAP" else _PLAIN,
                series_description=DESCRIPTION,
            )
        except Exception as error:  # highdicom raises anything where a source is not as DICOM demands
            raise not_referable(volume, error) from None
        with replacing(path) as part:
            made.save_as(part)


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
    reference = volume.frames[0].reference or _new_uid()
    for header in headers:
        for element in [e for e in header if e.tag.group in {0x0008, 0x0010}]:
            if element.keyword not in (*_REQUIRED, *_HARMLESS):
                del header[element.tag]
        for keyword in _REQUIRED:
            if keyword not in header:
                setattr(header, keyword, "")
        header.FrameOfReferenceUID = reference
        _place(header, volume)
    return headers


def _place(header: Any, volume: Volume) -> None:
    """State orientation and spacing where highdicom looks for them, as the header pass has found them."""
    from pydicom import Dataset

    first, between = volume.frames[0], volume.image.grid.spacing[0]
    measures, plane = Dataset(), Dataset()
    measures.PixelSpacing = [_decimal(n) for n in first.spacing]
    measures.SpacingBetweenSlices = _decimal(between)
    measures.SliceThickness = _decimal(first.thickness or between)
    plane.ImageOrientationPatient = [_decimal(n) for n in first.axes.ravel()]
    if "PerFrameFunctionalGroupsSequence" not in header:
        header.update(measures)
        header.update(plane)
        return
    shared = header.SharedFunctionalGroupsSequence[0] if header.get("SharedFunctionalGroupsSequence") else Dataset()
    shared.PixelMeasuresSequence, shared.PlaneOrientationSequence = [measures], [plane]
    header.SharedFunctionalGroupsSequence = [shared]


def _decimal(number: float) -> Any:
    """Return a number in the 16 characters that a decimal string has."""
    from pydicom.valuerep import DSfloat

    return DSfloat(number, auto_format=True)


def _new_uid() -> str:
    from pydicom.uid import generate_uid

    return str(generate_uid(prefix=None))


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


def coded(code: Code) -> Any:
    """Return a code as highdicom wants it."""
    import highdicom

    return highdicom.sr.CodedConcept(value=code[0], scheme_designator=code[1], meaning=code[2])


def _name(volume: Volume) -> str:
    return volume.sentence.partition(":")[0]


def _pixels(segmentation: Segmentation, volume: Volume, sources: list[Any]) -> NDArray[Any]:
    """Return numbers of segments [frames, y, x], or where labels overlap a mask for each [frames, y, x, k]."""
    labels, array = segmentation.labels, segmentation.array
    if len(sources) == 1 and len(volume.frames) > 1:
        order = np.argsort([frame.number for frame in volume.frames])  # a file's frames are in its own order
        array = array[order]
    groups = list(labels.names.values())
    if labels.has_regions:
        return np.stack([np.isin(array, group) for group in groups], -1)
    table = np.zeros(labels.numbers[-1] + 1, smallest(len(groups)))
    for segment, group in enumerate(groups, 1):
        table[list(group)] = segment
    return np.ascontiguousarray(table[array])


def _described(number: int, name: str, concept: Concept, maker: Maker) -> Any:
    import highdicom as hd
    from pydicom.sr.codedict import codes

    algorithm = hd.AlgorithmIdentificationSequence(
        name="mambino", family=codes.cid7162.ArtificialIntelligence, version=maker.version, parameters=maker.parameters
    )
    description = hd.seg.SegmentDescription(
        segment_number=number,
        segment_label=name[:MOST_LABEL],
        segmented_property_category=coded(concept.category),
        segmented_property_type=coded(concept.type),
        algorithm_type="AUTOMATIC",
        algorithm_identification=algorithm,
        tracking_uid=hd.UID(),
        tracking_id=name[:MOST_LABEL],
    )
    if concept.modifier:
        kind = description.SegmentedPropertyTypeCodeSequence[0]
        kind.SegmentedPropertyTypeModifierCodeSequence = [coded(concept.modifier)]
    return description


_WITHOUT = "leave out --format, which writes NIfTI"
