"""What planning measures of a data set: every training case once, in parallel, and cached."""

import math
import multiprocessing
import zlib
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from hashlib import sha256
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mambino.core.dataset import Case, Dataset
from mambino.core.fingerprint import CaseFacts, Fingerprint, Intensity
from mambino.core.grid import Grid, check_same_place, orienting
from mambino.core.image import Image, Segmentation
from mambino.core.machine import cores
from mambino.core.options import Progress, silent
from mambino.core.records import dump, read, write
from mambino.errors import DataError, FileFormatError
from mambino.imageio.folders import read_case, read_case_labels

ORIENTATION = "RAS"
SAMPLES = 10_000  # foreground voxels a case: every case weighs the same, whatever its size
FORMAT = 1
WORKER_BYTES = 16e6  # of files, which one process reads in about the time that it takes to start

Samples = NDArray[np.float32]


def measured(dataset: Dataset, cache: Path, *, workers: int = 0, progress: Progress = silent) -> Fingerprint:
    """Return the fingerprint kept in `cache`; measure and keep it where it is missing or files have changed."""
    source = digest(dataset)
    kept = _kept(cache)
    if kept is not None and kept.source == source:
        return kept
    fingerprint = measure(dataset, source, workers=workers, progress=progress)
    write(fingerprint, cache)
    return fingerprint


def measure(dataset: Dataset, source: str, *, workers: int = 0, progress: Progress = silent) -> Fingerprint:
    """Measure every training case.

    Args:
        dataset: whose training cases all have masks.
        source: digest of its files, see `digest`.
        workers: processes; 0 takes one a core. One worker, or one case, is measured in this process.
        progress: called after each case.

    Raises:
        DataError: there is no training case or no annotated voxel, a mask does not lie on its image,
            voxels are not finite, or cases differ in dimension or unit.
    """
    if not dataset.training:
        raise DataError(
            f"the data set {dataset.name} has no training case with a mask, so there is nothing to plan for",
            hint=f"look at what is missing: mambino check {dataset.folder}",
        )
    facts, samples, grids = [], [], []
    for case_facts, case_samples, unit in _each_case(dataset, workers):
        facts.append(case_facts)
        samples.append(case_samples)
        grids.append((len(case_facts.shape), unit))
        progress(len(facts), len(dataset.training), case_facts.id)
    _refuse_mixture(facts, grids)
    dim, unit = grids[0]
    return Fingerprint(
        format=FORMAT,
        source=source,
        cases=tuple(facts),
        intensities=_intensities(np.concatenate(samples, axis=1), dataset),
        unit="mm" if unit == "mm" else "pixel",
        orientation=_recorded(dim, unit),
    )


def digest(dataset: Dataset) -> str:
    """Return a digest of all that the measurements depend on: names, sizes and times of files, channels, labels."""
    text = sha256(f"{FORMAT} {dataset.channels} {dump(dataset.labels)} {dataset.codes}".encode())
    for case in dataset.training:
        text.update(case.id.encode())
        for path in _files(case):
            status = path.stat()
            text.update(f"{path.name} {status.st_size} {status.st_mtime_ns}".encode())
    return text.hexdigest()


def examine(case: Case, dataset: Dataset) -> tuple[CaseFacts, Samples, str]:
    """Measure one case; return its facts, [c, n] intensities of foreground voxels, and its unit."""
    image, segmentation = read_case(case, dataset), read_case_labels(case, dataset)
    _check(case.id, image, segmentation)
    order, flips = _turning(image.grid)
    voxels = np.nonzero(segmentation.array)
    numbers = segmentation.array[voxels].astype(np.int64)
    facts = CaseFacts(
        id=case.id,
        shape=tuple(image.grid.shape[axis] for axis in order),
        cropped=tuple(_nonzero_size(image.array)[axis] for axis in order),
        spacing=tuple(image.grid.spacing[axis] for axis in order),
        orientation=image.grid.orientation,
        counts=_counts(numbers, segmentation),
        centres=_centres(numbers, voxels, segmentation.array.shape, order, flips),
    )
    annotated = numbers != (dataset.labels.ignore or 0)
    return facts, _sample(image.array, tuple(axis[annotated] for axis in voxels), case.id), image.grid.unit


def _kept(cache: Path) -> Fingerprint | None:
    if not cache.is_file():
        return None
    try:
        return read(Fingerprint, cache)
    except FileFormatError:  # a cache of another version, or damaged: measuring again mends it
        return None


def _files(case: Case) -> tuple[Path, ...]:
    return (*case.images, case.label) if case.label else case.images


def _each_case(dataset: Dataset, workers: int) -> Iterator[tuple[CaseFacts, Samples, str]]:
    """Examine all training cases, in order."""
    one = partial(examine, dataset=replace(dataset, training=(), test=()))
    size = sum(path.stat().st_size for case in dataset.training for path in _files(case))
    workers = min(workers or cores(), len(dataset.training), math.ceil(size / WORKER_BYTES))
    if workers <= 1:
        yield from map(one, dataset.training)
        return
    chunk = max(1, min(8, len(dataset.training) // (4 * workers)))
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        yield from pool.map(one, dataset.training, chunksize=chunk)


def _recorded(dim: int, unit: str) -> str | None:
    """Volumes with a place in the world are turned to one orientation; pictures stay as they are stored."""
    return ORIENTATION if dim == 3 and unit == "mm" else None


def _turning(grid: Grid) -> tuple[tuple[int, ...], tuple[int, ...]]:
    orientation = _recorded(grid.dim, grid.unit)
    return orienting(grid, orientation) if orientation else (tuple(range(grid.dim)), ())


def _check(case: str, image: Image, segmentation: Segmentation) -> None:
    try:
        check_same_place(image.grid, segmentation.grid)
    except DataError as error:
        raise DataError(f"case {case}: {error}", error.hint) from None
    broken = image.array.size - np.count_nonzero(np.isfinite(image.array))
    if broken:
        raise DataError(
            f"case {case}: {broken} of {image.array.size} voxels are not finite numbers",
            hint="mambino check DATA lists all such cases, and with --repair it mends a copy",
        )


def _nonzero_size(array: NDArray[np.generic]) -> tuple[int, ...]:
    """Size of the box round all voxels that are not zero in some channel; the whole size if all are zero."""
    mask = (array != 0).any(axis=0)
    size = []
    for axis in range(mask.ndim):
        hit = np.flatnonzero(mask.any(axis=tuple(a for a in range(mask.ndim) if a != axis)))
        size.append(int(hit[-1] - hit[0]) + 1 if hit.size else mask.shape[axis])
    return tuple(size)


def _counts(numbers: NDArray[np.int64], segmentation: Segmentation) -> dict[str, int]:
    found = np.bincount(numbers, minlength=max(segmentation.labels.numbers) + 1)
    found[0] = segmentation.array.size - numbers.size
    return {str(number): int(found[number]) for number in segmentation.labels.numbers}


def _centres(
    numbers: NDArray[np.int64],
    voxels: tuple[NDArray[np.intp], ...],
    shape: tuple[int, ...],
    order: tuple[int, ...],
    flips: tuple[int, ...],
) -> dict[str, tuple[float, ...]]:
    """Centre of each label as a share of the size, along the turned axes."""
    counts = np.bincount(numbers)
    shares = []
    for turned, axis in enumerate(order):
        sums = np.bincount(numbers, weights=voxels[axis])
        share = (sums / np.maximum(counts, 1) + 0.5) / shape[axis]
        shares.append(1 - share if turned in flips else share)
    present = np.flatnonzero(counts)
    return {str(n): tuple(round(float(share[n]), 6) for share in shares) for n in present}


def _sample(array: NDArray[np.generic], voxels: tuple[NDArray[np.intp], ...], case: str) -> Samples:
    """Draw intensities of annotated voxels with replacement; the same ones on every machine."""
    count = voxels[0].size
    if not count:
        return np.empty((array.shape[0], 0), np.float32)
    drawn = np.random.default_rng(zlib.crc32(case.encode())).integers(0, count, SAMPLES)
    picked = tuple(axis[drawn] for axis in voxels)
    return np.stack([channel[picked] for channel in array]).astype(np.float32)


def _intensities(samples: Samples, dataset: Dataset) -> tuple[Intensity, ...]:
    if not samples.shape[1]:
        raise DataError(
            f"none of the {len(dataset.training)} masks of {dataset.name} has a labelled voxel: all are background",
            hint=f"look at the masks: mambino check {dataset.folder}",
        )
    return tuple(_intensity(channel.astype(np.float64)) for channel in samples)


def _intensity(values: NDArray[np.float64]) -> Intensity:
    low, middle, high = np.percentile(values, (0.5, 50, 99.5)).tolist()
    return Intensity(
        mean=float(values.mean()),
        std=float(values.std()),
        minimum=float(values.min()),
        maximum=float(values.max()),
        median=middle,
        percentile_00_5=low,
        percentile_99_5=high,
    )


def _refuse_mixture(facts: list[CaseFacts], grids: list[tuple[int, str]]) -> None:
    for case, (dim, unit) in zip(facts, grids, strict=True):
        if (dim, unit) != grids[0]:
            raise DataError(
                f"case {case.id} has {dim} axes in {unit}, case {facts[0].id} has {grids[0][0]} in {grids[0][1]}",
                hint="keep them in two data sets",
            )
