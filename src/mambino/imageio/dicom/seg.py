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
from mambino.core.provenance import Maker
from mambino.core.records import replacing
from mambino.errors import DataError, need
from mambino.imageio.codes import smallest
from mambino.imageio.dicom import Volume
from mambino.imageio.dicom.concepts import Code, Concept
from mambino.imageio.dicom.headers import quietly
from mambino.imageio.dicom.references import (
    DESCRIPTION,
    MOST_LABEL,
    new_uid,
    not_referable,
    series_number,
    source_images,
)

_RLE = "1.2.840.10008.1.2.5"
_PLAIN = "1.2.840.10008.1.2.1"


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
                series_instance_uid=new_uid(),
                series_number=series_number(volume),
                sop_instance_uid=new_uid(),
                instance_number=1,
                manufacturer="mambino",
                manufacturer_model_name="mambino",
                software_versions=maker.version,
                device_serial_number=maker.bundles[0][1][:16],
                content_description=DESCRIPTION,
                content_label="SEGMENTATION",
                content_creator_name="mambino^software",
                transfer_syntax_uid=_RLE if kind == "LABELMAP" else _PLAIN,
                series_description=DESCRIPTION,
            )
        except Exception as error:  # highdicom raises anything where a source is not as DICOM demands
            raise not_referable(volume, error) from None
        with replacing(path) as part:
            made.save_as(part)


def coded(code: Code) -> Any:
    """Return a code as highdicom wants it."""
    import highdicom

    return highdicom.sr.CodedConcept(value=code[0], scheme_designator=code[1], meaning=code[2])


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
        tracking_uid=new_uid(),
        tracking_id=name[:MOST_LABEL],
    )
    if concept.modifier:
        kind = description.SegmentedPropertyTypeCodeSequence[0]
        kind.SegmentedPropertyTypeModifierCodeSequence = [coded(concept.modifier)]
    return description
