"""Contours for radiotherapy (RT Structure Set), slice by slice along the edges of the voxels."""

from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mambino.core.image import Segmentation
from mambino.core.provenance import Maker
from mambino.core.records import replacing
from mambino.errors import need
from mambino.imageio.dicom import Volume
from mambino.imageio.dicom.concepts import Code, Concept
from mambino.imageio.dicom.contours import Point, polygons
from mambino.imageio.dicom.headers import Frame, quietly
from mambino.imageio.dicom.references import (
    DESCRIPTION,
    MOST_LABEL,
    item,
    new_uid,
    not_referable,
    series_number,
    source_images,
)

_STRUCTURE_SET = "1.2.840.10008.5.1.4.1.1.481.3"
_STUDY = "1.2.840.10008.3.1.2.3.1"  # study management, which is retired and still what objects refer to
_SHARED = (
    *("SpecificCharacterSet", "PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyInstanceUID"),
    *("StudyDate", "StudyTime", "StudyID", "AccessionNumber", "ReferringPhysicianName", "FrameOfReferenceUID"),
    "PositionReferenceIndicator",
)
_COLOURS = ((230, 80, 60), (70, 160, 230), (90, 190, 90), (240, 190, 50), (170, 110, 220), (60, 200, 200))
_DIGITS = 5  # of a coordinate (mm), after the point


def write_rtstruct(
    path: Path, segmentation: Segmentation, volume: Volume, concepts: Mapping[str, Concept], maker: Maker
) -> None:
    """Write the labels of a series as one RT Structure Set.

    A contour is closed and planar, in the plane of its slice; it runs along edges of voxels, so a voxel is inside
    when its centre is. Holes are joined to the outline by a channel without width. A label without a voxel is a
    region without contours.

    Args:
        path: of the file.
        segmentation: on the grid of `volume`.
        volume: the series, read with its headers.
        concepts: what each label shows.
        maker: what made the labels.

    Raises:
        MissingExtraError: pydicom is not installed.
        DataError: the series lacks what a structure set refers to.
        FileFormatError: the file cannot be written.
    """
    need("pydicom", extra="dicom", why=f"writing {path}")
    sources = source_images(volume)
    with quietly():
        try:
            made = _structure_set(sources, volume, maker)
            made.StructureSetROISequence, made.ROIContourSequence, made.RTROIObservationsSequence = [], [], []
            for number, (name, group) in enumerate(segmentation.labels.names.items(), 1):
                _add_region(made, number, name, concepts[name], maker)
                contours = list(_contours(np.isin(segmentation.array, group), volume, sources))
                made.ROIContourSequence.append(_region_contours(number, contours))
        except Exception as error:  # pydicom raises anything where a source is not as DICOM demands
            raise not_referable(volume, error) from None
        with replacing(path) as part:
            made.save_as(part, enforce_file_format=True)


def _structure_set(sources: list[Any], volume: Volume, maker: Maker) -> Any:
    import pydicom

    first, uid, now = sources[0], pydicom.uid.UID(new_uid()), datetime.now()
    meta = pydicom.dataset.FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = pydicom.uid.UID(_STRUCTURE_SET), uid
    # Explicit value representations count the characters of a contour in two bytes, which is too few.
    meta.TransferSyntaxUID = pydicom.uid.ImplicitVRLittleEndian
    made = pydicom.dataset.FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    for keyword in _SHARED:
        if keyword in first:
            made[keyword] = first[keyword]
    made.SOPClassUID, made.SOPInstanceUID, made.Modality = _STRUCTURE_SET, uid, "RTSTRUCT"
    made.SeriesInstanceUID, made.SeriesNumber, made.InstanceNumber = new_uid(), series_number(volume), 1
    made.SeriesDescription, made.OperatorsName = DESCRIPTION, ""
    made.Manufacturer, made.ManufacturerModelName, made.SoftwareVersions = "mambino", "mambino", maker.version
    made.StructureSetLabel, made.ApprovalStatus = "mambino", "UNAPPROVED"
    bundles = "; ".join(f"{key} {value}" for key, value in maker.parameters.items())
    made.StructureSetDescription = f"{DESCRIPTION} mambino {maker.version}; {bundles}"[:1024]
    made.StructureSetDate, made.StructureSetTime = now.strftime("%Y%m%d"), now.strftime("%H%M%S")
    made.ReferencedFrameOfReferenceSequence = [_reference(sources, first)]
    return made


def _reference(sources: list[Any], first: Any) -> Any:
    """Refer to the frame of reference, the study, the series and all its files."""
    series = item(
        SeriesInstanceUID=first.SeriesInstanceUID, ContourImageSequence=[_image(source) for source in sources]
    )
    study = item(
        ReferencedSOPClassUID=_STUDY,
        ReferencedSOPInstanceUID=first.StudyInstanceUID,
        RTReferencedSeriesSequence=[series],
    )
    return item(FrameOfReferenceUID=first.FrameOfReferenceUID, RTReferencedStudySequence=[study])


def _add_region(made: Any, number: int, name: str, concept: Concept, maker: Maker) -> None:
    made.StructureSetROISequence.append(
        item(
            ROINumber=number,
            ReferencedFrameOfReferenceUID=made.FrameOfReferenceUID,
            ROIName=name[:MOST_LABEL],
            ROIGenerationAlgorithm="AUTOMATIC",
            ROIGenerationDescription=f"mambino {maker.version}"[:MOST_LABEL],
        )
    )
    made.RTROIObservationsSequence.append(
        item(
            ObservationNumber=number,
            ReferencedROINumber=number,
            RTROIIdentificationCodeSequence=[_code(concept.type)],
            RTROIInterpretedType="",
            ROIInterpreter="",
        )
    )


def _region_contours(number: int, contours: list[Any]) -> Any:
    colour = list(_COLOURS[(number - 1) % len(_COLOURS)])
    region = item(ROIDisplayColor=colour, ReferencedROINumber=number)
    if contours:
        region.ContourSequence = contours
    return region


def _contours(mask: NDArray[np.bool_], volume: Volume, sources: list[Any]) -> Iterator[Any]:
    """Yield the contours of a label, each with the slice it lies in."""
    for place in np.flatnonzero(mask.any((1, 2))).tolist():
        frame = volume.frames[place]
        source = volume.headers[frame.uid]
        for polygon in polygons(mask[place]):
            points = _points(polygon, frame)
            yield item(
                ContourImageSequence=[_image(source, frame.number + 1 if _many(sources, volume) else None)],
                ContourGeometricType="CLOSED_PLANAR",
                NumberOfContourPoints=len(points),
                ContourData=[f"{n:.{_DIGITS}f}" for n in points.ravel()],
            )


def _points(polygon: list[Point], frame: Frame) -> NDArray[np.float64]:
    """Return corners of voxels as points [n, 3] (mm, LPS); a voxel's centre is half a voxel from its corner."""
    corners = np.array(polygon, np.float64) - 0.5
    down: NDArray[np.float64] = corners[:, :1] * frame.spacing[0] * frame.axes[1]
    along: NDArray[np.float64] = corners[:, 1:] * frame.spacing[1] * frame.axes[0]
    points: NDArray[np.float64] = frame.position + down + along
    return points


def _many(sources: list[Any], volume: Volume) -> bool:
    return len(sources) == 1 and len(volume.frames) > 1


def _image(source: Any, number: int | None = None) -> Any:
    found = item(ReferencedSOPClassUID=source.SOPClassUID, ReferencedSOPInstanceUID=source.SOPInstanceUID)
    if number is not None:
        found.ReferencedFrameNumber = number
    return found


def _code(code: Code) -> Any:
    return item(CodeValue=code[0], CodingSchemeDesignator=code[1], CodeMeaning=code[2])
