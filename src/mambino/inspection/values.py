"""Findings about what voxels hold: label numbers, colours, noise, emptiness, values that are not finite."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from mambino.core.dataset import Dataset
from mambino.core.findings import Finding, Kind
from mambino.core.labels import Labels
from mambino.inspection.facts import CaseFacts, Code, FileFacts

_WHITE = 255
_NEAR = 64  # grey levels from black or white that compression noise reaches at sharp edges
_NEARLY_ALL = 0.95  # share of a noisy mask's voxels within `_NEAR`
_ROUNDING = 0.01  # label numbers that went through a scaling come back with such an error
_SHOWN = 5  # values or names listed in a message


@dataclass(frozen=True, slots=True)
class Meaning:
    """What the masks of a data set may hold.

    Attributes:
        labels: what the data set declares.
        codes: stored values that stand for label numbers, where the data set translates them.
        colours: colours other than black that occur in its masks, in ascending order; empty where they
            are more than there are labels.
    """

    labels: Labels
    codes: Mapping[Code, int]
    colours: tuple[Code, ...]

    @property
    def declared(self) -> str:
        """The numbers and names, for a message."""
        names = ", ".join(f"{'+'.join(map(str, group))} {name}" for name, group in self.labels.names.items())
        ignore = "" if self.labels.ignore is None else f", {self.labels.ignore} ignore"
        return f"0 background, {names}{ignore}"


@dataclass(frozen=True, slots=True)
class Reading:
    """How a mask is to be understood.

    Attributes:
        kind: what is wrong with its values; None where they are what was declared.
        numbers: the label number of each code; None where nobody can tell.
        message: what is wrong, with both values.
    """

    kind: Kind | None
    numbers: Mapping[Code, int] | None
    message: str = ""


def meaning(dataset: Dataset, cases: Sequence[CaseFacts]) -> Meaning:
    """Collect what the masks of a data set may hold."""
    codes = {tuple(map(float, text.split(","))): number for text, number in (dataset.codes or {}).items()}
    found = {code for case in cases if case.mask for code in case.mask.codes if len(code) > 1 and any(code)}
    numbers = len(dataset.labels.numbers) - 1
    return Meaning(dataset.labels, codes, tuple(sorted(found)) if len(found) <= numbers else ())


def reading(mask: FileFacts, meant: Meaning) -> Reading:
    """Say how the codes of a mask become label numbers, and what is wrong with them."""
    codes, known = mask.codes, meant.labels.numbers
    if meant.codes and all(code in meant.codes for code in codes):
        return Reading(None, meant.codes)
    if any(len(code) > 1 for code in codes):
        return _colours(mask, meant)
    if all(code[0] in known for code in codes):
        kind: Kind | None = "float mask" if mask.dtype.startswith("float") else None
        return Reading(kind, {code: int(code[0]) for code in codes})
    if any(code[0] != round(code[0]) for code in codes):
        return _fractions(mask, meant)
    levels = _levels(len(known) - 1)
    if all(code in levels for code in codes):
        values = _listed([f"{code[0]:g}" for code in codes])
        return Reading("0/255 mask", levels, f"the mask holds {values}; declared are {meant.declared}")
    if _noisy(mask):
        return _noise(mask, meant)
    return _undeclared(mask, meant)


def masks(cases: Sequence[CaseFacts], meant: Meaning) -> Iterator[Finding]:
    """Find masks whose values are not the declared label numbers, and masks that show nothing."""
    floats, empty = [], []
    for case in cases:
        if not case.mask or not case.mask.readable:
            continue
        read = reading(case.mask, meant)
        if read.kind == "float mask":
            floats.append(case.case.id)
        elif read.kind:
            yield Finding(
                severity="error", kind=read.kind, case=case.case.id, message=read.message, remedy=_remedy(read)
            )
        if is_empty(case.mask, read):
            empty.append(case.case.id)
    if floats:
        yield Finding(
            severity="note",
            kind="float mask",
            case="",
            message=f"{len(floats)} masks store their label numbers as floating point: {_listed(floats)}",
            remedy="nothing to do: they are read as whole numbers; `--repair` stores them so",
        )
    if empty:
        yield Finding(
            severity="note",
            kind="empty mask",
            case="",
            message=f"{len(empty)} masks hold background only: {_listed(empty)}",
            remedy="nothing to do where nothing is there to mark; look at them if every image should show something",
        )


def occurrences(cases: Sequence[CaseFacts], meant: Meaning) -> Iterator[Finding]:
    """Find declared labels that no training mask holds."""
    seen: set[int] = set()
    understood = 0
    for case in cases:
        if not case.training or not case.mask or not case.mask.readable:
            continue
        numbers = reading(case.mask, meant).numbers
        understood += numbers is not None
        seen |= {numbers[code] for code in case.mask.codes if code in numbers} if numbers else set()
    if not understood:
        return
    for name, group in meant.labels.names.items():
        if not seen.intersection(group):
            yield Finding(
                severity="warning",
                kind="label never occurs",
                case="",
                message=f"label {name} ({_listed([str(n) for n in group])}) occurs in none of {understood} training masks",
                remedy="take it out of dataset.json, or add cases that show it: a network cannot learn it from these",
            )


def intensities(cases: Sequence[CaseFacts]) -> Iterator[Finding]:
    """Find voxels that are not finite, and channels that hold one value everywhere."""
    for case in cases:
        for facts in case.files:
            if facts.not_finite:
                what = "mask" if facts is case.mask else "image"
                yield Finding(
                    severity="error",
                    kind="not finite",
                    case=case.case.id,
                    message=f"{facts.not_finite} voxels of the {what} {facts.path.name} are NaN or infinite",
                    remedy="find out where they come from; "
                    + ("export the mask again" if what == "mask" else "`--repair` puts the smallest value in their place"),
                )
        for channel in case.constant:
            ranges = [pair for facts in case.images for pair in facts.ranges]
            yield Finding(
                severity="warning",
                kind="constant image",
                case=case.case.id,
                message=f"channel {channel} holds {ranges[channel][0]:g} in every voxel",
                remedy="look whether the image was exported whole; leave the case out if it shows nothing",
            )


def is_empty(mask: FileFacts, read: Reading) -> bool:
    """Tell whether a mask holds background only."""
    if read.numbers is None:
        return False
    return not any(read.numbers.get(code, 0) for code in mask.codes)


def _levels(labels: int) -> dict[Code, int]:
    """Return grey levels that spread label numbers evenly from black to white, rounded either way."""
    levels: dict[Code, int] = {}
    for number in range(labels + 1):
        exact = _WHITE * number / labels
        levels |= {(float(int(exact)),): number, (float(int(exact + 0.999)),): number}
    return levels


def _colours(mask: FileFacts, meant: Meaning) -> Reading:
    found = [code for code in mask.codes if any(code)]
    shown = _listed([str(tuple(map(int, code))) for code in found])
    if meant.colours and all(code in meant.colours for code in found):
        numbers = {code: number for number, code in enumerate(meant.colours, 1)}
        numbers |= {(0.0,) * len(code): 0 for code in meant.colours}
        told = ", ".join(f"{tuple(map(int, code))} is {numbers[code]}" for code in meant.colours)
        return Reading(
            "colour mask", numbers, f"the mask holds the colours {shown}; declared are {meant.declared}, so {told}"
        )
    labels = len(meant.labels.numbers) - 1
    return Reading(
        "colour mask",
        None,
        f"the mask holds {len(found)} colours besides black ({shown}); declared are {labels} labels ({meant.declared})",
    )


def _fractions(mask: FileFacts, meant: Meaning) -> Reading:
    broken = [f"{code[0]:g}" for code in mask.codes if code[0] != round(code[0])]
    message = f"the mask holds {len(broken)} values that are no whole numbers ({_listed(broken)})"
    numbers = {code: round(code[0]) for code in mask.codes}
    close = all(abs(code[0] - number) <= _ROUNDING for code, number in numbers.items())
    if close and set(numbers.values()) <= set(meant.labels.numbers):
        return Reading("fractional mask", numbers, f"{message}, close to the declared {meant.declared}")
    return Reading("fractional mask", None, f"{message}; declared are {meant.declared}")


def _noisy(mask: FileFacts) -> bool:
    near = sum(count for (value, *_), count in mask.codes.items() if value <= _NEAR or value >= _WHITE - _NEAR)
    highest, lowest = max(mask.codes)[0], min(mask.codes)[0]
    inside = 0 <= lowest <= _NEAR and _WHITE - _NEAR <= highest <= _WHITE
    return inside and len(mask.codes) > 2 and near >= _NEARLY_ALL * sum(mask.codes.values())


def _noise(mask: FileFacts, meant: Meaning) -> Reading:
    message = (
        f"the mask holds {len(mask.codes)} values, nearly all close to 0 and 255, as JPEG compression leaves them; "
        f"declared are {meant.declared}"
    )
    # Between black and white, the noise of several labels passes through the levels of the others.
    if len(meant.labels.numbers) != 2:
        return Reading("noisy mask", None, message)
    return Reading("noisy mask", {code: int(code[0] > _WHITE / 2) for code in mask.codes}, message)


def _undeclared(mask: FileFacts, meant: Meaning) -> Reading:
    unknown = {code[0]: count for code, count in mask.codes.items() if code[0] not in meant.labels.numbers}
    voxels = sum(unknown.values())
    return Reading(
        "undeclared label",
        None,
        f"the mask holds the label numbers {_listed([f'{value:g}' for value in unknown])} in {voxels} voxels; "
        f"declared are {meant.declared}",
    )


def _remedy(read: Reading) -> str:
    match read.kind:
        case "undeclared label":
            return "declare them in dataset.json, or correct the mask: nobody can guess what they mean"
        case "noisy mask" if read.numbers is None:
            return "export the masks again in a format without loss (PNG, NIfTI)"
        case "colour mask" if read.numbers is None:
            return "export the masks again with one colour, or better one number, a label"
        case "fractional mask" if read.numbers is None:
            return "export the mask again without interpolation; probabilities need a threshold first"
        case _:
            return "`--repair` writes the label numbers"


def _listed(items: Sequence[str]) -> str:
    more = f" and {len(items) - _SHOWN} more" if len(items) > _SHOWN else ""
    return ", ".join(items[:_SHOWN]) + more
