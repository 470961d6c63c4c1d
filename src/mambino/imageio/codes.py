"""Stored mask values to label numbers.

Codes are written as text: "255" for a grey value, "255,0,0" for a colour. Zero and black are
background unless a code says otherwise.
"""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mambino.core.labels import Labels
from mambino.errors import DataError

_WHOLE = 1e-4  # scaled integers come back with rounding errors of about 1e-7 of their value
_LARGEST = 1 << 31  # no mask counts so far, and floats must fit the integers they become
_BASE = 1 << 16  # samples of a colour are packed into one number, 16 bits each


def decode(array: NDArray[Any], codes: dict[str, int] | None, path: Path) -> NDArray[Any]:
    """Return label numbers [*s] from stored values [c, *s].

    Raises:
        DataError: values that are not whole, that no code names, or several channels that are no colours.
    """
    array = whole(array, path)
    coloured = any("," in code for code in codes or ())
    if not coloured and len(array) == 3 and is_grey(array):
        array = array[:1]
    if codes is None:
        if len(array) != 1:
            raise DataError(
                f"{path} has {len(array)} channels, a mask has 1",
                "turn colours into numbers: mambino check DATA --repair -o COPY",
            )
        only: NDArray[Any] = array[0]
        return only
    if coloured and len(array) == 1:
        array = np.broadcast_to(array, (3, *array.shape[1:]))
    if len(array) != (3 if coloured else 1):
        raise DataError(
            f"{path} has {len(array)} channels, its codes such as {next(iter(codes))} have {1 + 2 * coloured}"
        )
    return _translate(array, codes, path)


def whole(array: NDArray[Any], path: Path) -> NDArray[Any]:
    """Return `array` as integers; numbers that are whole to rounding are taken as such."""
    if array.dtype.kind in "iu":
        return array
    with np.errstate(invalid="ignore"):
        rounded = np.rint(array)
        wrong = ~((np.abs(array - rounded) <= _WHOLE) & (np.abs(array) < _LARGEST))
    if wrong.any():
        first = array[wrong][0]
        raise DataError(
            f"{path} is no mask: it holds {first:g}, which is not a whole number",
            "masks hold label numbers; resample them with nearest neighbours, or check that this is not an image",
        )
    numbers: NDArray[np.int64] = rounded.astype(np.int64)
    return numbers


def check_known(array: NDArray[Any], labels: Labels, path: Path) -> NDArray[Any]:
    """Return the numbers in the smallest unsigned type, or refuse one that `labels` does not declare."""
    last = labels.numbers[-1]
    if array.min() < 0 or array.max() > last:  # declared numbers have no gaps
        found = np.unique(array).tolist()
        unknown = [n for n in found if n not in labels.numbers]
        more = f" and {len(unknown) - 5} more" if len(unknown) > 5 else ""
        raise DataError(
            f"{path} holds label numbers {unknown[:5]}{more} that are not declared; known are {_listed(labels)}",
            "declare them in dataset.json, or see: mambino check DATA",
        )
    return array.astype(smallest(last), copy=False)


def smallest(last: int) -> np.dtype[np.unsignedinteger]:
    """Return the smallest unsigned type that holds `last`."""
    return np.min_scalar_type(last)


def values(array: NDArray[Any], path: Path) -> Counter[str]:
    """Count the stored values of a mask [c, *s], written as codes.

    Raises:
        DataError: values that are not whole, or channels that are neither grey nor colours.
    """
    array = whole(array, path)
    if len(array) == 3 and is_grey(array):
        array = array[:1]
    if len(array) not in {1, 3}:
        raise DataError(f"{path} has {len(array)} channels, a mask has 1 or 3", "save it with one number a pixel")
    found, counts = np.unique(array[0] if len(array) == 1 else _packed(array), return_counts=True)
    if len(array) == 1:
        return Counter({str(value): int(n) for value, n in zip(found.tolist(), counts, strict=True)})
    return Counter({_colour(value): int(n) for value, n in zip(found.tolist(), counts, strict=True)})


def is_grey(array: NDArray[Any]) -> bool:
    """Tell whether all channels are equal: a grey mask that was saved as RGB."""
    return bool((array == array[:1]).all())


def _translate(array: NDArray[Any], codes: dict[str, int], path: Path) -> NDArray[Any]:
    table = {_key(code, len(array)): number for code, number in codes.items()}
    table.setdefault(0, 0)
    keys = np.array(sorted(table), np.int64)
    numbers = np.array([table[key] for key in keys.tolist()], np.min_scalar_type(max(table.values())))
    flat = array[0].astype(np.int64) if len(array) == 1 else _packed(array)
    places = np.searchsorted(keys, flat).clip(max=len(keys) - 1)
    wrong = keys[places] != flat
    if wrong.any():
        first = flat[wrong][0].item()
        raise DataError(
            f"{path} holds the value {first if len(array) == 1 else _colour(first)}, which no code names; "
            f"known are {', '.join(codes)}",
            "see: mambino check DATA",
        )
    translated: NDArray[Any] = numbers[places]
    return translated


def _key(code: str, channels: int) -> int:
    parts = [int(part) for part in code.split(",")]
    if channels == 1:
        return parts[0]
    red, green, blue = parts if len(parts) == 3 else parts * 3
    return (red * _BASE + green) * _BASE + blue


def _packed(array: NDArray[Any]) -> NDArray[np.int64]:
    red, green, blue = array.astype(np.int64)
    return (red * _BASE + green) * _BASE + blue  # type: ignore[no-any-return]


def _colour(packed: int) -> str:
    return f"{packed // _BASE**2},{packed // _BASE % _BASE},{packed % _BASE}"


def _listed(labels: Labels) -> str:
    names = {0: "background", **{group[0]: name for name, group in labels.names.items() if len(group) == 1}}
    if labels.ignore is not None:
        names[labels.ignore] = "ignore"
    return ", ".join(f"{n} {names[n]}" if n in names else str(n) for n in labels.numbers)
