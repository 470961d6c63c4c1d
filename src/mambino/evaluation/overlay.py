"""Pictures of a case: the image, the prediction as a fill, the truth as a line.

A volume is shown by one slice: across its coarsest axis, or axial where all axes are alike, the slice on
which the truth has the most voxels. It is turned as a radiologist expects it. The picture is cut to the
structures and as much again round them.
"""

import base64
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mambino.core.grid import Grid, orienting
from mambino.core.labels import Labels
from mambino.evaluation.pairing import Masks
from mambino.evaluation.scoring import select
from mambino.imageio import read_image
from mambino.imageio.description import describe
from mambino.imageio.pairing import grouped, listing

# Okabe and Ito's colours, told apart by colour-blind eyes; the ones that show best on grey come first.
COLOURS = ("#56b4e9", "#e69f00", "#009e73", "#f0e442", "#d55e00", "#cc79a7", "#0072b2")

_FILL = 115  # of 255: the image shows through
_WIDEST = 640  # pixels of an embedded image
_MARGIN = 0.75  # of the extent of the structures, on each side
_NARROWEST = 24  # pixels of a margin
_COARSE = 1.5  # an axis whose spacing is so many times the finest is not looked along the others
_PLANES = ("axial", "coronal", "sagittal")


@dataclass(frozen=True, slots=True)
class Contour:
    """The outline of one structure of the truth, as an SVG path in pixels."""

    label: str
    colour: str
    path: str


@dataclass(frozen=True, slots=True)
class Overlay:
    """One picture.

    Attributes:
        case: shown.
        caption: which slice, and how it is turned; empty for a picture.
        columns, rows: pixels.
        aspect: width of the picture over its height, by the spacing.
        image: data URI of the image, None where there is none.
        fill: data URI of the prediction.
        contours: of the truth.
    """

    case: str
    caption: str
    columns: int
    rows: int
    aspect: float
    image: str | None
    fill: str
    contours: tuple[Contour, ...]


def overlay(case: str, masks: Masks, labels: Labels, images: tuple[Path, ...]) -> Overlay:
    """Draw one case; `images` are the files of one grey or of three colour channels, or none."""
    voxels = _voxels(images, masks.grid.shape)
    view = _view(masks.grid, np.isin(masks.truth, [n for numbers in labels.names.values() for n in numbers]))
    window = _window((view.cut(masks.prediction) > 0) | (view.cut(masks.truth) > 0))
    flat = Masks(view.cut(masks.prediction)[window], view.cut(masks.truth)[window], masks.grid)
    rows, columns = flat.truth.shape
    fill = np.zeros((rows, columns, 4), np.uint8)
    contours = []
    for (name, numbers), colour in zip(labels.names.items(), colours(len(labels.names)), strict=True):
        predicted, expected, _ = select(flat, numbers, labels.ignore)
        fill[predicted] = (*bytes.fromhex(colour[1:]), _FILL)
        if expected.any():
            contours.append(Contour(name, colour, outline(expected)))
    return Overlay(
        case=case,
        caption=view.caption,
        columns=columns,
        rows=rows,
        aspect=columns * view.spacing[1] / (rows * view.spacing[0]),
        image=None if voxels is None else _data_uri(_shown(np.stack([view.cut(c)[window] for c in voxels], -1))),
        fill=_data_uri(fill),
        contours=tuple(contours),
    )


def colours(count: int) -> tuple[str, ...]:
    """Return a colour for each of `count` labels; after the last they begin again."""
    return tuple(COLOURS[i % len(COLOURS)] for i in range(count))


def find_images(folder: Path, case: str) -> tuple[Path, ...]:
    """Return the image of a case in a folder: one file, or the first channel of several; nothing without one.

    Three channels that are stored apart are shown as colours only where the data set says that they are
    red, green and blue; a picture with its own colours is one file.
    """
    cases, _ = grouped(listing(folder))
    files = [path for _, path in sorted(cases.get(case, {}).items(), key=lambda item: item[0] or 0)]
    return tuple(files[:3] if len(files) == 3 and _in_colour(folder.parent / "dataset.json") else files[:1])


def png(array: NDArray[np.uint8]) -> bytes:
    """Encode [rows, columns, 1, 3 or 4] bytes (grey, RGB, RGBA) as PNG."""
    rows, columns, channels = array.shape
    kind = {1: 0, 3: 2, 4: 6}[channels]
    lines = np.concatenate([np.zeros((rows, 1), np.uint8), array.reshape(rows, -1)], axis=1)
    chunks = (
        (b"IHDR", struct.pack(">IIBBBBB", columns, rows, 8, kind, 0, 0, 0)),
        (b"IDAT", zlib.compress(lines.tobytes(), 9)),
        (b"IEND", b""),
    )
    body = b"".join(struct.pack(">I", len(d)) + n + d + struct.pack(">I", zlib.crc32(n + d)) for n, d in chunks)
    return b"\x89PNG\r\n\x1a\n" + body


def outline(mask: NDArray[np.bool_]) -> str:
    """Return the borders between the pixels of a mask [rows, columns] and the others, as an SVG path."""
    padded = np.pad(mask, 1).astype(np.int8)
    across, down = np.diff(padded, axis=0)[:, 1:-1] != 0, np.diff(padded, axis=1)[1:-1] != 0
    lines = [f"M{start} {row}h{length}" for row, start, length in _runs(across)]
    lines += [f"M{column} {start}v{length}" for column, start, length in _runs(down.T)]
    return "".join(lines)


@dataclass(frozen=True, slots=True, eq=False)
class _View:
    """How to look at an array: turn it, take a slice."""

    order: tuple[int, ...]
    flips: tuple[int, ...]
    axis: int
    index: int
    spacing: tuple[float, ...]
    caption: str

    def cut(self, array: NDArray[Any]) -> NDArray[Any]:
        if array.ndim == 2:
            return array
        turned: NDArray[Any] = np.flip(array.transpose(self.order), self.flips).take(self.index, axis=self.axis)
        return turned if self.axis == 0 else turned[::-1]  # superior is up


def _view(grid: Grid, truth: NDArray[np.bool_]) -> _View:
    if grid.dim == 2:
        return _View((0, 1), (), 0, 0, grid.spacing, "")
    order, flips = orienting(grid, "LPS")
    spacing = np.asarray(grid.spacing)[list(order)]
    coarsest = int(spacing.argmax())
    axis = coarsest if spacing[coarsest] > _COARSE * np.delete(spacing, coarsest).max() else 0
    others = tuple(i for i in range(3) if i != axis)
    filled = np.flip(truth.transpose(order), flips).sum(axis=others)
    index = int(filled.argmax()) if filled.any() else len(filled) // 2
    side = "anterior on the left" if axis == 2 else "patient's right on the left"
    caption = f"{_PLANES[axis]} slice {index + 1} of {len(filled)}, {side}"
    return _View(order, flips, axis, index, tuple(spacing[list(others)].tolist()), caption)


def _window(filled: NDArray[np.bool_]) -> tuple[slice, ...]:
    """Return the part of a picture that holds something, with a margin; all of it where nothing does."""
    window = []
    for axis in (0, 1):
        found = np.flatnonzero(filled.any(axis=1 - axis))
        if not found.size:
            return slice(None), slice(None)
        margin = max(_NARROWEST, round(_MARGIN * (found[-1] + 1 - found[0])))
        window.append(slice(max(0, int(found[0]) - margin), int(found[-1]) + 1 + margin))
    return tuple(window)


def _voxels(images: tuple[Path, ...], shape: tuple[int, ...]) -> NDArray[Any] | None:
    """Return [1 or 3, *s] voxels to show, or None where they do not fit the masks."""
    if not images:
        return None
    array = np.concatenate([read_image(path).array for path in images])
    if array.shape[1:] != shape:
        return None
    return array[:3] if len(array) in {3, 4} and len(shape) == 2 else array[:1]


def _shown(voxels: NDArray[Any]) -> NDArray[np.uint8]:
    """Return [rows, columns, c] intensities as bytes, small enough to embed."""
    voxels = _shrunk(_shrunk(voxels.astype(np.float64), 0), 1)
    finite = voxels[np.isfinite(voxels)]
    low, high = np.percentile(finite, (0.5, 99.5)) if finite.size else (0.0, 1.0)
    scaled = (np.nan_to_num(voxels, nan=low, posinf=high, neginf=low) - low) / max(high - low, 1e-12)
    return (scaled.clip(0, 1) * 255).round().astype(np.uint8)


def _shrunk(voxels: NDArray[np.float64], axis: int) -> NDArray[np.float64]:
    """Return means over neighbours along one axis, so that no more than `_WIDEST` are left."""
    size = voxels.shape[axis]
    if size <= _WIDEST:
        return voxels
    starts = np.arange(_WIDEST) * size // _WIDEST
    counts = np.diff([*starts, size]).reshape((-1, *[1] * (voxels.ndim - 1 - axis)))
    return np.add.reduceat(voxels, starts, axis=axis) / counts


def _in_colour(description: Path) -> bool:
    return description.is_file() and [name[:1].lower() for name in describe(description).channels] == ["r", "g", "b"]


def _runs(lines: NDArray[np.bool_]) -> list[tuple[int, int, int]]:
    """Return (line, start, length) of every run of True along the second axis."""
    edges = np.diff(np.pad(lines, ((0, 0), (1, 1))).astype(np.int8), axis=1)
    line, start = np.nonzero(edges == 1)
    _, stop = np.nonzero(edges == -1)
    return list(zip(line.tolist(), start.tolist(), (stop - start).tolist(), strict=True))


def _data_uri(array: NDArray[np.uint8]) -> str:
    return "data:image/png;base64," + base64.b64encode(png(array)).decode()
