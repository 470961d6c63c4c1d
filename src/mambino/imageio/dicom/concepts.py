"""Coded names of structures: from a file, else by the name of the label, else plain tissue.

Codes are those of SNOMED CT (SCT) that DICOM lists for segmentations: context groups 7192 (anatomical structures) and
7194 (lesions and other abnormal structures) of PS3.16, as pydicom carries them.
"""

import json
import tomllib
from collections.abc import Sequence
from pathlib import Path

from mambino.core.records import parse, record
from mambino.errors import DataError, FileFormatError, need

Code = tuple[str, str, str]
"""Value, scheme and meaning: ("10200004", "SCT", "Liver")."""

ANATOMY: Code = ("91723000", "SCT", "Anatomical Structure")
ABNORMAL: Code = ("49755003", "SCT", "Morphologically Abnormal Structure")
TISSUE: Code = ("85756007", "SCT", "Tissue")
SIDES: dict[str, Code] = {"left": ("7771000", "SCT", "Left"), "right": ("24028007", "SCT", "Right")}

_LISTS = ((7192, ANATOMY), (7194, ABNORMAL))
_LONGEST = (16, 16, 64)  # characters of a short string, and of a long one


@record
class Concept:
    """What a label shows, in codes.

    Attributes:
        type: what it is.
        category: what kind of thing that is.
        modifier: which side it is on, say.
    """

    type: Code
    category: Code = ANATOMY
    modifier: Code | None = None


@record
class Codes:
    """A file of codes.

    Attributes:
        labels: a concept for each name of a label, or for some of them.
    """

    labels: dict[str, Concept]


def read_codes(path: Path | None, labels: Sequence[str]) -> dict[str, Concept]:
    """Return the concept of each label, from a .toml or .json file where it has one there.

    Raises:
        FileFormatError: the file cannot be read, or is no such record.
        DataError: it names a label that there is not, or a code that DICOM cannot hold.
    """
    given = {} if path is None else _read(Path(path)).labels
    unknown = sorted(given.keys() - set(labels))
    if unknown:
        raise DataError(
            f"{path} gives a code to the label {unknown[0]}, the labels are {', '.join(labels)}", "correct its name"
        )
    for name, concept in given.items():
        for code in filter(None, (concept.type, concept.category, concept.modifier)):
            if any(not 0 < len(word) <= most for word, most in zip(code, _LONGEST, strict=True)):
                raise DataError(
                    f"{path}: the label {name} has the code {code}, whose parts have 1 to 16, 16 and 64 characters",
                    'as in type = ["10200004", "SCT", "Liver"]',
                )
    return {name: given.get(name) or by_name(name) for name in labels}


def by_name(name: str) -> Concept:
    """Return the concept that DICOM lists under the name of a label, its side apart; tissue if there is none."""
    codes = need("pydicom.sr.codedict", extra="dicom", why=f"the code of {name}").codes
    words = name.replace("_", " ").replace("-", " ").lower().split()
    side = next((SIDES[word] for word in words if word in SIDES), None)
    wanted = "".join(word for word in words if word not in SIDES)
    for number, category in _LISTS:
        group = getattr(codes, f"cid{number}")
        match = next((known for known in group.dir() if known.lower() == wanted), None)
        if match:
            found = getattr(group, match)
            return Concept(type=(found.value, found.scheme_designator, found.meaning), category=category, modifier=side)
    return Concept(type=TISSUE, category=TISSUE)


def _read(path: Path) -> Codes:
    hint = 'write [labels.liver] and below it type = ["10200004", "SCT", "Liver"]'
    try:
        text = path.read_text(encoding="utf-8")
        if path.suffix.lower() == ".toml":
            text = json.dumps(tomllib.loads(text), default=str)
    except OSError as error:
        raise FileFormatError(
            f"{path} cannot be read: {error.strerror}", "check the path and its permissions"
        ) from None
    except (ValueError, RecursionError) as error:
        raise FileFormatError(f"{path} is not valid TOML: {error}", hint) from None
    return parse(Codes, text, str(path), hint)
