"""Labels of masks that nobody described: found by looking at the values they hold."""

from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path

from mambino.core.labels import Labels
from mambino.core.machine import cores
from mambino.errors import DataError, Error
from mambino.imageio import read_image
from mambino.imageio.codes import values
from mambino.imageio.pairing import Problem

Codes = dict[str, int]
Found = tuple[Labels, Codes | None, tuple[Problem, ...]]

_MOST_COLOURS = 64  # more are the noise of a lossy format
_RARE = 0.005  # share of pixels under which a colour is taken for noise
_NEAR = 24  # grey values so close to 0 or 255 are what JPEG makes of a black and white mask
_COLOURS = {
    "255,0,0": "red",
    "0,255,0": "green",
    "0,0,255": "blue",
    "255,255,0": "yellow",
    "0,255,255": "cyan",
    "255,0,255": "magenta",
    "255,255,255": "white",
    "0,0,0": "black",
}


def find_labels(masks: Sequence[Path]) -> Found:
    """Tell what the masks hold: labels, codes where values are not label numbers, and what is wrong with them.

    Black and white becomes "foreground"; 1, 2, 3 become label_1, label_2, label_3; other numbers and
    colours get codes. Background is 0, or black, or where there is no black the most frequent colour.

    Raises:
        DataError: no mask holds anything but background.
    """
    facts = [mask.stat() for mask in masks]
    return _find(tuple(masks), tuple((fact.st_size, fact.st_mtime_ns) for fact in facts))


@lru_cache(maxsize=8)
def _find(masks: tuple[Path, ...], state: tuple[tuple[int, int], ...]) -> Found:  # noqa: ARG001  (part of the key)
    with ThreadPoolExecutor(cores()) as pool:  # unpacking and decoding leave the interpreter free
        looked = list(pool.map(_look, masks))
    problems = tuple(found for found in looked if isinstance(found, Problem))
    total: Counter[str] = Counter()
    for found in looked:
        total.update(found if isinstance(found, Counter) else {})
    if any("," in value for value in total):
        labels, codes, noisy = _coloured(total)
    else:
        labels, codes, noisy = _numbered(Counter({int(value): n for value, n in total.items()}))
    return labels, codes, problems + noisy


def _look(mask: Path) -> Counter[str] | Problem:
    try:
        return values(read_image(mask).array, mask)
    except Error as error:
        return Problem(kind="unreadable", case="", message=str(error), remedy=error.hint or "mend or replace the file")


def _numbered(total: Counter[int]) -> Found:
    found = sorted(value for value in total if value != 0)
    if not found:
        raise DataError("the masks hold nothing but background", "check that these are the right files")
    if _is_noisy(total):
        return Labels(names={"foreground": (1,)}), {"255": 1}, (_noisy(len(total), "grey values"),)
    if found == list(range(1, len(found) + 1)):
        return Labels(names={f"label_{n}": (n,) for n in found}), None, ()
    if len(found) == 1:
        return Labels(names={"foreground": (1,)}), {str(found[0]): 1}, ()
    names: dict[str, tuple[int, ...]] = {f"label_{value}": (n,) for n, value in enumerate(found, 1)}
    return Labels(names=names), {str(value): n for n, value in enumerate(found, 1)}, ()


def _is_noisy(total: Counter[int]) -> bool:
    ends = sum(n for value, n in total.items() if value <= _NEAR or value >= 255 - _NEAR)
    blurred = any(0 < value <= _NEAR or 255 - _NEAR <= value < 255 for value in total)
    in_bytes = min(total) >= 0 and 255 - _NEAR <= max(total) <= 255
    return in_bytes and len(total) > 8 and blurred and ends >= 0.9 * total.total()


def _coloured(total: Counter[str]) -> Found:
    colours: Counter[str] = Counter()
    for value, n in total.items():
        colours[value if "," in value else ",".join([value] * 3)] += n
    noisy: tuple[Problem, ...] = ()
    if len(colours) > _MOST_COLOURS:
        noisy = (_noisy(len(colours), "colours"),)
        colours = Counter({colour: n for colour, n in colours.items() if n >= _RARE * colours.total()})
    background = "0,0,0" if "0,0,0" in colours else colours.most_common(1)[0][0]
    others = sorted((c for c in colours if c != background), key=lambda c: [int(part) for part in c.split(",")])
    if not others:
        raise DataError("the masks hold nothing but background", "check that these are the right files")
    names: dict[str, tuple[int, ...]] = {
        _COLOURS.get(colour, "colour_" + colour.replace(",", "_")): (n,) for n, colour in enumerate(others, 1)
    }
    return Labels(names=names), {background: 0, **{colour: n for n, colour in enumerate(others, 1)}}, noisy


def _noisy(count: int, what: str) -> Problem:
    return Problem(
        kind="noisy masks",
        case="",
        message=f"the masks hold {count} {what}, most of them the noise of a lossy format such as JPEG",
        remedy="snap them to their labels: mambino check DATA --repair -o COPY",
    )
