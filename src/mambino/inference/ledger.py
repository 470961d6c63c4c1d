"""What was predicted, how, and what may be left as it is: predict.json."""

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

from mambino.core.dataset import Case
from mambino.core.options import PredictOptions
from mambino.core.records import read, record
from mambino.errors import Error, FileFormatError
from mambino.imageio.dicom.concepts import Concept

NAME = "predict.json"


@record
class Doubt:
    """How unsure the prediction of a case is.

    Attributes:
        entropy: mean over the mask, or over the image where the mask is empty (nats).
        mutual_information: the same mean of what is disagreement between members; None of one member (nats).
        expected_dice: the Dice that the probabilities expect, the mean over the structures found; None if none is.
        dice_at_least: of nine in ten cases like those the bundle was calibrated on; None where it was not.
        trusted: whether the expected Dice reaches that of nine in ten of those cases; None where it was not calibrated.
    """

    entropy: float
    mutual_information: float | None = None
    expected_dice: float | None = None
    dice_at_least: float | None = None
    trusted: bool | None = None


@record
class Entry:
    """What became of one case.

    Attributes:
        case: its name.
        status: "made": now; "kept": made earlier by the same bundles with the same options from the same
            image; "untouched": there is a mask that is not ours to replace; "failed": see message.
        file: the mask, in the folder of this record; None where there is none.
        seconds: that making it took, or until it failed (s).
        message: why it failed or was left alone; of DICOM, which series was read.
        sha256: of the mask.
        image: sha256 of the image files it was made from.
        made_by: sha256 of the bundles and options it was made with.
        doubt: how unsure it is, where the options ask for it.
        voxels: of the mask.
        precision: that the networks ran in; empty where it is not known.
    """

    case: str
    status: Literal["made", "kept", "failed", "untouched"]
    file: Path | None = None
    seconds: float = 0.0
    message: str = ""
    sha256: str = ""
    image: str = ""
    made_by: str = ""
    doubt: Doubt | None = None
    voxels: int = 0
    precision: str = ""


@record
class Predictions:
    """The masks of a folder and how they were made.

    Attributes:
        format: version of this record.
        bundles: sha256 of the bundles last used; several are averaged.
        networks: their names, one a bundle.
        names: of the bundles' files, without their folder.
        codes: of the labels, where DICOM was written.
        options: last used.
        versions: of the software last used.
        entries: one a case.
    """

    format: int = 1
    bundles: tuple[str, ...]
    networks: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    codes: dict[str, Concept] | None = None
    options: PredictOptions
    versions: dict[str, str]
    entries: tuple[Entry, ...] = ()

    @property
    def failed(self) -> tuple[str, ...]:
        """Names of the cases that have no mask because something is wrong with them."""
        return tuple(entry.case for entry in self.entries if entry.status == "failed")

    @property
    def doubtful(self) -> tuple[str, ...]:
        """Names of the cases whose masks are not to be trusted, by what held-out cases have taught."""
        return tuple(entry.case for entry in self.entries if entry.doubt and entry.doubt.trusted is False)

    @property
    def made_by(self) -> str:
        """A digest of the bundles and of those options that change a mask."""
        options = self.options
        words = [*self.bundles, options.mirror, options.overlap, options.precision, options.probabilities]
        words += [
            *options.series,
            *(
                [[options.largest, options.smallest, options.fill]]
                if options.largest or options.smallest or options.fill
                else []
            ),
            *(["uncertainty"] if options.uncertainty else []),
            *([f"crop {options.crop}"] if options.crop != "none" else []),
            *([] if options.format == "mask" else [options.format, sorted((self.codes or {}).items())]),
        ]
        return hashlib.sha256(repr(words).encode()).hexdigest()


def entries_in(folder: Path) -> dict[str, Entry]:
    """Return by case what a folder of masks holds already; nothing where it has no record.

    Raises:
        FileFormatError: there is a record, but it is damaged or of another version.
    """
    path = folder / NAME
    if not path.exists():
        return {}
    try:
        return {entry.case: entry for entry in read(Predictions, path).entries}
    except FileFormatError as error:
        raise FileFormatError(str(error), hint=f"remove {path}, or choose another output folder") from None


def merged(now: Predictions, before: dict[str, Entry]) -> Predictions:
    """Return the record of a folder: this run, and what earlier runs say of other cases."""
    entries = {**before, **{entry.case: entry for entry in now.entries}}
    return replace(now, entries=tuple(entries[case] for case in sorted(entries)))


def settled(case: Case, mask: Path, before: Entry | None, made_by: str) -> Entry | None:
    """Return the entry of a case whose mask stays as it is, None where it is to be made."""
    if not mask.exists():
        return None
    if before is not None and before.sha256 and before.file != Path(mask.name):
        why = "is of another format than the one on record"
        return Entry(case=case.id, status="untouched", file=Path(mask.name), message=_left(why))
    if before is None or not before.sha256:
        return Entry(case=case.id, status="untouched", file=Path(mask.name), message=_left("was not made by mambino"))
    if before.sha256 != digest_of([mask]):
        why = "was changed since it was made"
    elif before.made_by != made_by:
        why = "was made by another bundle or with other options"
    elif before.image != image_digest(case):
        why = "was made from another image of this name"
    else:
        return replace(before, status="kept", message="")
    return replace(before, status="untouched", message=_left(why))


def failure(case: str, error: Error, before: Entry | None, seconds: float = 0.0) -> Entry:
    """Return the entry of a case that cannot be segmented; what is known of an older mask stays known."""
    message = f"{error} ({error.hint})" if error.hint else str(error)
    older = before or Entry(case=case, status="failed")
    return replace(older, status="failed", message=message, seconds=round(seconds, 3))


def image_digest(case: Case) -> str:
    """Return one sha256 over the image files of a case; empty where one cannot be read."""
    try:
        return digest_of(case.images)
    except OSError:
        return ""


def digest_of(paths: Sequence[Path]) -> str:
    """Return one sha256 over the content of files, and of all files in folders."""
    total = hashlib.sha256()
    for file in (file for path in paths for file in _files(path)):
        with file.open("rb") as opened:
            total.update(hashlib.file_digest(opened, "sha256").digest())
    return total.hexdigest()


def _files(path: Path) -> list[Path]:
    return sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]


def _left(why: str) -> str:
    return f"the mask there {why}; it stays as it is (--overwrite replaces it)"
