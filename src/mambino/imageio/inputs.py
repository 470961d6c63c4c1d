"""What is to be segmented: image files, folders of images, and DICOM."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mambino.core.dataset import Case
from mambino.core.image import Image
from mambino.core.scratch import Room
from mambino.errors import DataError, Error
from mambino.imageio import FORMATS, check_readable, dicom, holds_dicom, is_dicom
from mambino.imageio.dicom.references import source_images
from mambino.imageio.folders import read_case_images, refuse_empty, stacked
from mambino.imageio.pairing import Problem, formed, grouped, listing

_KNOWN = ", ".join(FORMATS)


@dataclass(frozen=True, slots=True, eq=False)
class Input:
    """One image to segment, and where it is from.

    Attributes:
        image: all channels.
        volume: the DICOM series of the first channel; None for other files.
        sentence: which series were read, and what else was there; empty for other files.
    """

    image: Image
    volume: "dicom.Volume | None" = None
    sentence: str = ""


def find_images(inputs: Sequence[Path], channels: int) -> tuple[tuple[Case, ...], tuple[Problem, ...]]:
    """Find the images to predict: files, and folders whose channel files are grouped by name.

    Args:
        inputs: files, folders or both. A folder, zip or DICOMDIR of DICOM is one case, whatever it holds.
        channels: how many the network takes.

    Returns:
        The cases, and what is wrong with the others, one problem each: a file that does not exist or is of
        a kind that is not read, a folder without images, a wrong number of channel files, two images of one name.

    Raises:
        DataError, FileFormatError: the first of these problems, where no case is left.
    """
    refused: dict[Path, Error] = {}
    found = dict.fromkeys(file for path in inputs for file in _images_at(Path(path), refused))
    named, twice = grouped(found)
    whole, wrong = formed(named, channels, "the bundle")
    problems = {problem.case: problem for problem in (*wrong, *twice)}
    for case, files in named.items():
        for error in (refused[file] for file in files.values() if file in refused):
            problems[case] = Problem(kind="unreadable", case=case, message=str(error), remedy=error.hint)
    cases = tuple(case for name, case in whole.items() if name not in problems)
    if problems and not cases:
        first = next(iter(problems.values()))
        raise next(iter(refused.values()), DataError(first.message, first.remedy))
    return cases, tuple(problems.values())


def _images_at(path: Path, refused: dict[Path, Error]) -> list[Path]:
    """Return the images that a path names; note in `refused` why it is none, if so."""
    try:
        if path.is_dir() and holds_dicom(path):
            return [path]
        if path.is_dir():
            return listing(path) or refuse_empty(path, f"files of these kinds are read: {_KNOWN}")
        check_readable(path)
    except Error as error:
        refused[path] = error
    return [path]


def read_input(
    case: Case,
    channels: Sequence[str],
    whose: str,
    *,
    series: Sequence[str] = (),
    headers: bool = False,
    room: Room | None = None,
) -> Input:
    """Read all channels of a case.

    Args:
        case: from `find_images`.
        channels: names of those that there must be, in order.
        whose: these are, for the message: "the bundle takes".
        series: UIDs of the DICOM series to read, one a channel; chosen by rule if there are none.
        headers: keep what DICOM results refer to.
        room: for the voxels of NIfTI files, where they may not fit into memory; see `read_image`.

    Raises:
        DataError: another number of channels, channels on different grids, or no such series.
        FileFormatError: a file cannot be read.
        MissingExtraError: another package reads it.
    """
    sources = [path for path in case.images if is_source(path)]
    if not sources:
        if series:
            raise DataError(f"case {case.id} is not DICOM, so it has no series {series[0]}", "leave out --series")
        if headers:
            raise DataError(f"case {case.id} is not DICOM, which a DICOM result refers to", "leave out --format")
        return Input(read_case_images(case, channels, whose, room))
    pairs = [(path, uid) for path in sources for uid in (series or (None,))]
    if len(pairs) != len(channels) or len(sources) != len(case.images):
        raise DataError(
            f"case {case.id} has {len(pairs)} DICOM series, {len(channels)} are needed, one a channel "
            f"({', '.join(channels)})",
            "name them in this order: --series UID UID, or give a folder a channel, numbered _0000, _0001",
        )
    volumes = [dicom.read(path, uid, headers=headers) for path, uid in pairs]
    if headers:
        source_images(volumes[0])  # refused now rather than after the network has run
    image = stacked(case.id, [v.image for v in volumes], [v.sentence.partition(":")[0] for v in volumes])
    return Input(image, volumes[0], "; ".join(volume.sentence for volume in volumes))


def is_source(path: Path) -> bool:
    """Tell whether a path names DICOM: a file, a zip, a DICOMDIR, or a folder of it."""
    return holds_dicom(path) if path.is_dir() else is_dicom(path)
