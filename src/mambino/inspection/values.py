"""Findings about what voxels hold: label numbers, colours, noise, emptiness, values that are not finite."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from mambino.core.dataset import Dataset
from mambino.core.findings import Finding, Kind
from mambino.core.labels import Labels
from mambino.inspection.facts import CaseFacts, Code, FileFacts

_WHITE = 255
_NEAR = 64  # grey levels from black or white that compression noise reaches at sharp edges
_NEARLY_ALL = 0.95  # share of a noisy mask's voxels within `_NEAR`
_ROUNDING = 0.01  # label numbers that went through a scaling come back with such an error
_FILL = "find out where they come from; `--repair` puts the smallest value in their place"
_SHOWN = 5  # values or names listed in a message


@dataclass(frozen=True, slots=True)
class Meaning:
    """What the masks of a data set may hold.

    Attributes:
        labels: what the data set declares.
        known: the label number of each value or colour that is declared.
        levels: grey levels that spread the label numbers evenly from black to white, where the masks
            hold the level of every label; else nobody can tell which label is meant.
        colours: number of each colour in ascending order, black being 0, where the masks hold as many
            colours as there are labels.
    """

    labels: Labels
    known: Mapping[Code, int]
    levels: Mapping[Code, int]
    colours: Mapping[Code, int]

    @property
    def declared(self) -> str:
        """The stored values and their names, for a message."""
        stored = {number: shown(code) for code, number in self.known.items()}
        names = {name: "+".join(stored[number] for number in group) for name, group in self.labels.names.items()}
        if self.labels.ignore is not None:
            names["ignore"] = stored[self.labels.ignore]
        return ", ".join([f"{stored[0]} background", *(f"{text} {name}" for name, text in names.items())])


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
    count = len(dataset.labels.numbers) - 1
    if dataset.codes is not None:
        known = {tuple(map(float, text.split(","))): number for text, number in dataset.codes.items()}
        if 0 not in known.values():
            known = {(0.0,) * len(next(iter(known))): 0, **known}
        return Meaning(dataset.labels, known | _greys(known), {}, {})
    found = {code for case in cases if case.mask for code in case.mask.codes}
    levels = _levels(count)
    seen = {levels[code] for code in found if code in levels}
    colours = sorted(code for code in found if len(code) > 1 and any(code))
    numbers = {(0.0,) * 3: 0, **{code: number for number, code in enumerate(colours, 1)}}
    return Meaning(
        dataset.labels,
        {(float(number),): number for number in dataset.labels.numbers},
        levels if len(seen | {0}) == count + 1 else {},
        numbers | _greys(numbers) if colours and len(colours) == count else {},
    )


def reading(mask: FileFacts, meant: Meaning) -> Reading:
    """Say how the codes of a mask become label numbers, and what is wrong with them."""
    codes = mask.codes
    if all(code in meant.known for code in codes):
        return Reading("float mask" if mask.dtype.startswith("float") else None, meant.known)
    if any(value != round(value) for code in codes for value in code):
        return _fractions(mask, meant)
    return _noise(mask, meant) if _noisy(mask, meant) else _foreign(mask, meant)


def _foreign(mask: FileFacts, meant: Meaning) -> Reading:
    codes = mask.codes
    if all(code in meant.levels for code in codes):
        message = f"the mask holds {_listed([shown(code) for code in codes])}; declared are {meant.declared}"
        return Reading("0/255 mask", meant.levels, message)
    if any(len(code) > 1 for code in codes) or all(code in meant.colours for code in codes):
        return _colours(mask, meant)
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
            message=f"label numbers are stored as floating point in the masks of {_listed(floats)}",
            remedy="nothing to do: they are read as whole numbers; `--repair` stores them so",
        )
    if empty:
        yield Finding(
            severity="note",
            kind="empty mask",
            case="",
            message=f"background only is in the masks of {_listed(empty)}",
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
                message=f"label {name} ({'+'.join(map(str, group))}) occurs in none of {understood} training masks",
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
                    remedy="export the mask again" if what == "mask" else _FILL,
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


def shown(code: Code) -> str:
    """Return a stored value or colour as text."""
    return f"{code[0]:g}" if len(code) == 1 else f"({', '.join(f'{value:g}' for value in code)})"


def _levels(labels: int) -> dict[Code, int]:
    """Return grey levels that spread label numbers evenly from black to white, rounded either way."""
    levels: dict[Code, int] = {}
    for number in range(labels + 1):
        exact = _WHITE * number / labels
        levels |= {(float(math.floor(exact)),): number, (float(math.ceil(exact)),): number}
    return levels


def _greys(colours: Mapping[Code, int]) -> dict[Code, int]:
    """Return the colours that are grey as single values: a mask that holds no other is read as grey."""
    return {code[:1]: number for code, number in colours.items() if len(code) > 1 and len(set(code)) == 1}


def _colours(mask: FileFacts, meant: Meaning) -> Reading:
    found = [code for code in mask.codes if any(code)]
    holds = f"the mask holds {len(found)} colours besides black ({_listed([shown(code) for code in found])})"
    if all(code in meant.colours for code in mask.codes):
        told = ", ".join(f"{shown(code)} is {n}" for code, n in meant.colours.items() if n and len(code) > 1)
        return Reading("colour mask", meant.colours, f"{holds}; declared are {meant.declared}, in this order: {told}")
    return Reading("colour mask", None, f"{holds}; declared are {meant.declared}")


def _fractions(mask: FileFacts, meant: Meaning) -> Reading:
    broken = [shown(code) for code in mask.codes if code[0] != round(code[0])]
    message = f"the mask holds values that are no whole numbers ({_listed(broken)})"
    whole = {code: (float(round(code[0])),) for code in mask.codes}
    close = all(len(code) == 1 and abs(code[0] - number[0]) <= _ROUNDING for code, number in whole.items())
    if close and all(number in meant.known for number in whole.values()):
        numbers = {code: meant.known[number] for code, number in whole.items()}
        return Reading("fractional mask", numbers, f"{message}, close to the declared {meant.declared}")
    return Reading("fractional mask", None, f"{message}; declared are {meant.declared}")


def _noisy(mask: FileFacts, meant: Meaning) -> bool:
    """Tell whether most voxels are close to black, white or a declared colour, and many are not quite there."""
    colours = [code for code in meant.known if len(code) > 1]
    if any(len(code) > 1 for code in mask.codes) and not colours:
        return False
    aims = np.array(colours or [(0.0,), (float(_WHITE),)])
    found = np.array([code * aims.shape[1] if len(code) == 1 else code for code in mask.codes])
    far = np.abs(found[:, None] - aims[None]).max(axis=2)
    counts = np.array(list(mask.codes.values()))
    near = counts[far.min(axis=1) <= _NEAR].sum()
    reaches = {int(aim) for aim in far.argmin(axis=1)[far.min(axis=1) <= _NEAR]}
    inside = found.min() >= 0 and found.max() <= _WHITE
    return bool(inside and len(found) > 2 and len(reaches) > 1 and near >= _NEARLY_ALL * counts.sum())


def _noise(mask: FileFacts, meant: Meaning) -> Reading:
    colours = [code for code in meant.known if len(code) > 1]
    ends = "0 and 255" if not colours else "the declared colours"
    message = (
        f"the mask holds {len(mask.codes)} values, nearly all close to {ends}, as JPEG compression leaves them; "
        f"declared are {meant.declared}"
    )
    # Between black and white, the noise of several labels passes through the levels of the others.
    if not colours and len(meant.labels.numbers) != 2:
        return Reading("noisy mask", None, message)
    if not colours:
        return Reading("noisy mask", {code: int(code[0] > _WHITE / 2) for code in mask.codes}, message)
    nearest = {code: min(colours, key=lambda colour: math.dist(colour, _rgb(code))) for code in mask.codes}
    return Reading("noisy mask", {code: meant.known[colour] for code, colour in nearest.items()}, message)


def _rgb(code: Code) -> Code:
    return code * 3 if len(code) == 1 else code


def _undeclared(mask: FileFacts, meant: Meaning) -> Reading:
    unknown = {code: count for code, count in mask.codes.items() if code not in meant.known}
    return Reading(
        "undeclared label",
        None,
        f"the mask holds {_listed([shown(code) for code in unknown])} in {sum(unknown.values())} voxels; "
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
