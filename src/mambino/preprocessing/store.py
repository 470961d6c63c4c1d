"""Where prepared cases lie: compressed arrays that are read in parts, and a record that seals each case.

A case is `<id>.image.b2nd` [c, *s] float32, `<id>.labels.b2nd` [*s] int8 or int16,
`<id>.locations.b2nd` [n, 1 + d] int32 (a label number and the voxel index of one of its voxels), and
`<id>.json`, written last. The arrays are blosc2 files, which nnU-Net reads too.
"""

import hashlib
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any, Literal

import blosc2
import numpy as np
from numpy.typing import NDArray

from mambino.core.records import read, record, replacing, unwritable, write
from mambino.errors import FileFormatError

SAMPLE = 10_000
"""So many voxels of each label are remembered at most, to centre patches on; those of a label are found by this number,
so that another one needs another version of the files."""

_PARTS = ("image", "labels", "locations")
# Measured on a 512x512x200 volume: smaller and 28 times faster to write than zstd level 8 (docs/preprocessing.md).
_COMPRESSION = {"codec": blosc2.Codec.ZSTD, "clevel": 1, "nthreads": 1}
_AGAIN = "prepare it again: mambino preprocess WORK"


@record
class Origin:
    """Where a prepared case comes from.

    Attributes:
        key: digest of everything the case was made from: files and configuration.
        data: digest of the data side of the configuration alone, `case.data_side`.
        patient: of the case, where the data set names one.
        shape, spacing: of the image as it was given.
        prepared_spacing: of the prepared case, in the order of its axes.
        unit: of the spacings.
    """

    key: str
    data: str
    patient: str | None = None
    shape: tuple[int, ...]
    spacing: tuple[float, ...]
    prepared_spacing: tuple[float, ...]
    unit: Literal["mm", "pixel"]


@record
class StoredFacts:
    """What is known of a prepared case.

    Attributes:
        format: version of the files.
        id: of the case.
        origin: where it comes from.
        channels: of the image.
        shape: voxels along each axis.
        counts: voxels of each label number, as text keys.
        sizes, sums: bytes and checksum of each file.
    """

    format: int = 1
    id: str
    origin: Origin
    channels: int
    shape: tuple[int, ...]
    counts: dict[str, int]
    sizes: dict[str, int]
    sums: dict[str, int]


@dataclass(frozen=True, slots=True, eq=False)
class StoredVoxels:
    """Voxel indices [n, d] of one label, of which single ones are read without the others.

    Attributes:
        file: where those of all labels lie, one label after the other.
        number: of the label.
        first, stop: the rows of the label.
    """

    file: Path
    number: int
    first: int
    stop: int

    def __len__(self) -> int:
        """Return how many there are."""
        return self.stop - self.first

    def __getitem__(self, which: int | slice) -> NDArray[np.int32]:
        """Read one index [d], or neighbouring ones [n, d].

        Raises:
            FileFormatError: the file is gone, damaged, or of another case.
            IndexError: there is no such voxel.
        """
        wanted = range(self.first, self.stop)[which]
        first, stop = (wanted, wanted + 1) if isinstance(wanted, int) else (wanted.start, wanted.stop)
        rows = _read(self.file, (slice(first, stop), slice(None)))
        if len(rows) != stop - first or (rows[:, 0] != self.number).any():
            raise FileFormatError(f"{self.file} holds other voxels of label {self.number} than its record", hint=_AGAIN)
        return rows[0, 1:] if isinstance(wanted, int) else rows[:, 1:]


@dataclass(frozen=True, slots=True, eq=False)
class StoredCase:
    """A prepared case on disk, of which parts are read on demand."""

    folder: Path
    facts: StoredFacts

    @property
    def id(self) -> str:
        """Name of the case."""
        return self.facts.id

    @property
    def shape(self) -> tuple[int, ...]:
        """Voxels along each axis."""
        return self.facts.shape

    @property
    def locations(self) -> Mapping[int, "StoredVoxels"]:
        """Voxel indices [n, d] of at most `SAMPLE` voxels of each label that occurs, background excepted.

        They stay on disk until one is asked for: a thousand cases of a hundred structures have 16 GB of them.
        """
        file, counts = _file(self.folder, self.id, "locations"), _counts(self.folder, self.facts)
        edges = accumulate(counts.values(), initial=0)
        return {n: StoredVoxels(file, n, *span) for n, span in zip(counts, pairwise(edges), strict=True)}

    def image_patch(self, start: Sequence[int], stop: Sequence[int]) -> NDArray[np.float32]:
        """Read the voxels [c, *stop-start] float32 from `start` to before `stop`, both inside the case.

        Raises:
            FileFormatError: the file is gone or damaged.
        """
        box = (slice(None), *map(slice, start, stop))
        return _read(_file(self.folder, self.id, "image"), box).astype(np.float32, copy=False)

    def labels_patch(self, start: Sequence[int], stop: Sequence[int]) -> NDArray[np.int16]:
        """Read the label numbers [*stop-start] int16 from `start` to before `stop`, both inside the case.

        Raises:
            FileFormatError: the file is gone or damaged.
        """
        return _read(_file(self.folder, self.id, "labels"), tuple(map(slice, start, stop))).astype(np.int16)


@dataclass(frozen=True, slots=True, eq=False)
class Store:
    """A folder of prepared cases."""

    folder: Path

    def ids(self) -> tuple[str, ...]:
        """Return the names of the cases that are there, sorted."""
        files = self.folder.glob("*.json") if self.folder.is_dir() else ()
        return tuple(sorted(file.name.removesuffix(".json") for file in files if not file.name.startswith(".")))

    def facts(self, case: str) -> StoredFacts:
        """Read what is known of a case.

        Raises:
            FileFormatError: there is no such case, or its record is damaged.
        """
        return read(StoredFacts, self.folder / f"{case}.json")

    def patient(self, case: str) -> str | None:
        """Return the patient of a case, where the data set names one."""
        return self.facts(case).origin.patient

    def open(self, case: str) -> StoredCase:
        """Open a case without reading its voxels.

        Raises:
            FileFormatError: there is no such case, or its record is damaged.
        """
        return StoredCase(self.folder, self.facts(case))

    def sound(self, case: str) -> bool:
        """Tell whether a case is there as it was written: no file missing, cut short or altered."""
        try:
            facts = self.facts(case)
            return all(self._sum(case, part) == (facts.sizes[part], facts.sums[part]) for part in _PARTS)
        except (FileFormatError, OSError, KeyError):
            return False

    def holds(self, case: str, key: str) -> bool:
        """Tell whether a case is there as it was written, and was made from what `key` is a digest of."""
        return self.sound(case) and self.facts(case).origin.key == key

    def write(
        self,
        case: str,
        image: NDArray[np.float32],
        labels: NDArray[np.integer],
        origin: Origin,
        *,
        slices: bool = False,
    ) -> None:
        """Write a case; it counts as there only when all of it is, and what cannot be finished is taken away.

        Args:
            case: its name, which also seeds the sample of its voxels.
            image: [c, *s].
            labels: [*s].
            origin: where it comes from.
            slices: it will be read slice by slice along its first axis.

        Raises:
            FileFormatError: the folder cannot be written to, or the disk is full.
        """
        self.remove(case)
        locations, counts = _sample(labels, case)
        smallest = np.int8 if labels.max(initial=0) < 128 else np.int16
        frames = {
            "image": _compressed(image, slices),
            "labels": _compressed(labels.astype(smallest), slices),
            "locations": _compressed(locations, slices=False),
        }
        facts = StoredFacts(
            id=case,
            origin=origin,
            channels=image.shape[0],
            shape=image.shape[1:],
            counts=counts,
            sizes={part: len(frame) for part, frame in frames.items()},
            sums={part: zlib.crc32(frame) for part, frame in frames.items()},
        )
        try:
            for part, frame in frames.items():  # whose sizes and sums are in the record
                with replacing(_file(self.folder, case, part), settle=False) as file:
                    file.write_bytes(frame)
            write(facts, self.folder / f"{case}.json")
        except FileFormatError:
            self.remove(case)
            raise

    def remove(self, case: str) -> None:
        """Remove a case, its record first, so that it never counts as there in part.

        Raises:
            FileFormatError: the folder cannot be written to.
        """
        self._unlink(self.folder / f"{case}.json", *(_file(self.folder, case, part) for part in _PARTS))

    def sweep(self) -> None:
        """Remove what a run that was killed left half-written.

        Raises:
            FileFormatError: the folder cannot be written to.
        """
        self._unlink(*self.folder.glob(".part-*"))

    def _unlink(self, *files: Path) -> None:
        try:
            for file in files:
                file.unlink(missing_ok=True)
        except OSError as error:
            raise unwritable(self.folder, error) from None

    def _sum(self, case: str, part: str) -> tuple[int, int]:
        frame = _file(self.folder, case, part).read_bytes()
        return len(frame), zlib.crc32(frame)


def _file(folder: Path, case: str, part: str) -> Path:
    return folder / f"{case}.{part}.b2nd"


def _counts(folder: Path, facts: StoredFacts) -> dict[int, int]:
    """Return how many voxels of each label were remembered, in the order of the file."""
    try:
        return {number: max(0, min(facts.counts[str(number)], SAMPLE)) for number in sorted(map(int, facts.counts))}
    except (ValueError, KeyError):
        raise FileFormatError(
            f"{folder / facts.id}.json counts voxels of labels that are no numbers", hint=_AGAIN
        ) from None


def _compressed(array: NDArray[Any], slices: bool) -> bytes:
    """Pack an array into tiles that suit the patches read from it, on one thread: equal arrays give equal bytes."""
    chunks, blocks = _tiles(array.shape, slices)
    packed = blosc2.asarray(np.ascontiguousarray(array), chunks=chunks, blocks=blocks, cparams=_COMPRESSION)
    frame: bytes = packed.to_cframe()
    return frame


def _tiles(shape: tuple[int, ...], slices: bool) -> tuple[tuple[int, ...], tuple[int, ...]]:
    space = shape[-3:] if len(shape) > 2 else shape
    chunks, blocks = ((8, 256, 256), (1, 128, 128)) if slices else ((64, 128, 128), (32, 32, 64))
    chunk = tuple(min(c, n) for c, n in zip(chunks[-len(space) :], space, strict=True))
    block = tuple(min(b, c) for b, c in zip(blocks[-len(space) :], chunk, strict=True))
    ahead = (1,) * (len(shape) - len(space))
    return (*ahead, *(max(1, c) for c in chunk)), (*ahead, *(max(1, b) for b in block))


def _read(file: Path, box: tuple[slice, ...]) -> NDArray[Any]:
    try:
        part: NDArray[Any] = blosc2.open(str(file), mode="r", dparams={"nthreads": 1})[box]
    except Exception as error:  # a damaged file makes blosc2 raise anything
        raise FileFormatError(f"{file} cannot be read: {error or type(error).__name__}", hint=_AGAIN) from None
    return part


def _sample(labels: NDArray[np.integer], case: str) -> tuple[NDArray[np.int32], dict[str, int]]:
    """Draw voxels of each label, seeded by the name of the case; count all of them."""
    seed = int.from_bytes(hashlib.sha256(case.encode()).digest()[:8], "little")
    generator = np.random.default_rng(seed)
    flat = labels.reshape(-1)
    places = np.flatnonzero(flat)
    numbers = flat[places]
    found, counts = np.unique(numbers, return_counts=True)
    rows = [np.empty((0, 1 + labels.ndim), np.int32)]
    for number in found.tolist():
        mine = places[numbers == number]
        if len(mine) > SAMPLE:
            mine = np.sort(generator.choice(mine, SAMPLE, replace=False, shuffle=False))
        index = np.stack(np.unravel_index(mine, labels.shape), 1)
        rows.append(np.concatenate([np.full((len(mine), 1), number), index], 1).astype(np.int32))
    return np.concatenate(rows), dict(zip(map(str, found.tolist()), counts.tolist(), strict=True))
