"""What is written for one case, and under which name."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from mambino.core.dataset import Case
from mambino.core.image import Segmentation
from mambino.core.options import PredictOptions
from mambino.core.provenance import Maker
from mambino.errors import OptionError
from mambino.imageio import mask_suffix, write_labels, write_scores
from mambino.imageio.dicom.rtstruct import write_rtstruct
from mambino.imageio.dicom.seg import write_seg
from mambino.imageio.inputs import Input
from mambino.inference.ledger import Doubt, Predictions
from mambino.inference.uncertainty import Maps

ENDINGS = {"seg": ".seg.dcm", "seg-labelmap": ".seg.dcm", "rtstruct": ".rtstruct.dcm"}
"""Of what is written by another format than the image's own."""


@dataclass(frozen=True, slots=True, eq=False)
class Result:
    """What the network says of one image; scores [k, *s] and maps of uncertainty where they are asked for."""

    given: Input
    segmentation: Segmentation
    scores: NDArray[np.float32] | None
    maps: Maps | None = None
    doubt: Doubt | None = None


def write_result(part: Path, mask: Path, result: Result, case: Case, now: Predictions) -> None:
    """Write the mask of a case to `part` in the format of the options, and beside `mask` what else there is.

    Raises:
        DataError: the format cannot hold the labels, or the series is not as DICOM demands.
        FileFormatError: the folder cannot be written to, or the disk is full.
    """
    volume = result.given.volume
    like = None if volume else case.images[0]
    for kind, array in _beside(result).items():
        write_scores(beside(mask, kind), array, result.segmentation.grid, like=like)
    if now.options.format == "mask" or volume is None:
        write_labels(part, result.segmentation, like=like)
        return
    if now.options.format == "rtstruct":
        write_rtstruct(part, result.segmentation, volume, now.codes or {}, maker(now))
        return
    form: Literal["BINARY", "LABELMAP"] = "LABELMAP" if now.options.format == "seg-labelmap" else "BINARY"
    write_seg(part, result.segmentation, volume, now.codes or {}, maker(now), form)


def maker(now: Predictions) -> Maker:
    """Return what a DICOM object says of its making."""
    bundles = tuple(zip(now.names, now.bundles, strict=True))
    return Maker(version=now.versions["mambino"], bundles=bundles, networks=now.networks)


def mask_paths(cases: Sequence[Case], folder: Path, kind: str) -> dict[str, Path]:
    """Return where the mask of each case goes, never over an image.

    Raises:
        OptionError: an image lies there.
    """
    masks = {case.id: folder / (case.id + ENDINGS.get(kind, mask_suffix(case.images[0]))) for case in cases}
    images = {path.resolve() for case in cases for path in case.images}
    for mask in masks.values():
        if mask.resolve() in images:
            raise OptionError(f"the mask {mask} would replace its own image", hint="choose another output folder: -o")
    return masks


def _beside(result: Result) -> dict[str, NDArray[np.float32]]:
    """Return what is written beside a mask: [k, *s] by the name of its folder."""
    maps = result.maps
    found = {
        "probabilities": result.scores,
        "entropy": None if maps is None else maps.entropy[None],
        "mutual_information": None
        if maps is None or maps.mutual_information is None
        else maps.mutual_information[None],
    }
    return {name: array for name, array in found.items() if array is not None}


def beside(mask: Path, kind: str) -> Path:
    """Return where what belongs to a mask goes, in the folder `kind` beside it: NIfTI for volumes, else .npz."""
    ending = next((end for end in ENDINGS.values() if mask.name.endswith(end)), "")
    volume = mask.name.removesuffix(ending) + ".nii.gz" if ending else mask.name
    return mask.parent / kind / (volume if volume.endswith(".nii.gz") else f"{mask.stem}.npz")


def named(options: PredictOptions) -> PredictOptions:
    """Return options that can be recorded: without folder and machine, which are nobody else's business."""
    return replace(options, codes=Path(options.codes.name) if options.codes else None, scheduler=None)
