"""Slices in order, and the grid they fill; or why they fill none.

Order follows from positions along the normal of the slices, never from instance numbers or file names. World
coordinates turn from DICOM's LPS to our RAS: the first two change sign.
"""

from collections import Counter

import numpy as np
from numpy.typing import NDArray

from mambino.core.grid import Grid
from mambino.errors import DataError
from mambino.imageio.dicom.headers import Frame, Series

COSINES = 1e-3
"""Difference between direction cosines that rounding in headers makes (0.06 degrees)."""

STEP = 0.1
"""Distance of a slice from its even place, as a share of the spacing, that rounding in headers makes."""

TILT = 1.0
"""Degrees between normal and stacking direction up to which the affine holds the shear; more is gantry tilt."""

_SAME = 1e-3  # (mm) between slices at one place


def placed(series: Series) -> tuple[tuple[Frame, ...], Grid]:
    """Return the slices of a series from low to high along their normal, and the grid of their voxels.

    Raises:
        DataError: slices that differ in size, spacing, orientation or frame of reference, that lie at one place, that
            are missing, unevenly spaced, or sheared by more than `TILT`.
    """
    _check_alike(series)
    first = series.frames[0]
    _check_axes(series, first)
    heights = np.array([frame.position @ first.normal for frame in series.frames])
    order = np.argsort(heights, kind="stable")
    frames = tuple(series.frames[i] for i in order)
    if len(frames) > 1:
        _check_heights(series, heights[order])
    return frames, _grid(frames, _step(series, frames))


def _check_alike(series: Series) -> None:
    facts = {
        "sizes": Counter(f"{frame.shape[0]}x{frame.shape[1]}" for frame in series.frames),
        "pixel spacings": Counter("x".join(f"{n:.4g}" for n in frame.spacing) for frame in series.frames),
        "frames of reference": Counter(frame.reference for frame in series.frames),
    }
    for what, found in facts.items():
        if len(found) > 1:
            words = ", ".join(f"{n} of {value or 'none'}" for value, n in found.most_common(4))
            raise DataError(f"{series} has slices of {len(found)} {what}: {words}", _APART)
    groups: list[tuple[Frame, int]] = []
    for frame in series.frames:
        at = next((i for i, (f, _) in enumerate(groups) if np.abs(f.axes - frame.axes).max() <= COSINES), None)
        if at is None:
            groups.append((frame, 1))
        else:
            groups[at] = (groups[at][0], groups[at][1] + 1)
    if len(groups) > 1:
        planes: Counter[str] = Counter()
        for frame, n in groups:
            planes[_plane(frame)] += n
        words = ", ".join(f"{n} {plane}" for plane, n in planes.most_common())
        raise DataError(f"{series} has slices of {len(groups)} orientations, {words}", _APART)


def _plane(frame: Frame) -> str:
    """Name the plane a slice lies closest to."""
    return ("sagittal", "coronal", "axial")[int(np.abs(frame.normal).argmax())]


def _check_axes(series: Series, frame: Frame) -> None:
    lengths, angle = np.linalg.norm(frame.axes, axis=1), abs(float(frame.axes[0] @ frame.axes[1]))
    if np.abs(lengths - 1).max() > COSINES or angle > COSINES:
        raise DataError(
            f"{series} has direction cosines of lengths {lengths[0]:.4g} and {lengths[1]:.4g} whose product is "
            f"{angle:.4g}, expected 1, 1 and 0",
            "export the series again",
        )
    if min(frame.spacing) <= 0:
        raise DataError(f"{series} has a pixel spacing of {frame.spacing[0]:.4g}x{frame.spacing[1]:.4g} mm", _AGAIN)


def _check_heights(series: Series, heights: NDArray[np.float64]) -> None:
    gaps = np.diff(heights)
    twice = int((gaps < _SAME).sum())
    if twice:
        at = heights[int((gaps < _SAME).argmax())]
        raise DataError(
            f"{series} has {len(heights)} slices at {len(heights) - twice} places, two of them {at:.2f} mm along the "
            "normal: it holds several volumes, such as echoes or times, or a slice twice",
            _APART,
        )
    usual = float(np.median(gaps))
    even = heights[0] + (heights[-1] - heights[0]) / len(gaps) * np.arange(len(heights))
    if np.abs(heights - even).max() <= STEP * usual:
        return
    worst = int(gaps.argmax())
    missing = round(gaps[worst] / usual) - 1
    between = f"between {heights[worst]:.2f} and {heights[worst + 1]:.2f} mm along the normal"
    if missing >= 1 and abs(gaps[worst] - (missing + 1) * usual) <= STEP * usual:
        total = sum(max(0, round(gap / usual) - 1) for gap in gaps)
        raise DataError(
            f"{series} lacks {total} slices: {between} lie {gaps[worst]:.4g} mm, elsewhere {usual:.4g} mm",
            "copy or export the whole series again",
        )
    raise DataError(
        f"{series} is unevenly spaced: from {gaps.min():.4g} mm to {gaps.max():.4g} mm, the widest gap {between}",
        "resample it to even slices first, or export an evenly spaced reconstruction",
    )


def _step(series: Series, frames: tuple[Frame, ...]) -> NDArray[np.float64]:
    """Return the vector from one slice to the next (mm, LPS)."""
    first, last = frames[0], frames[-1]
    if len(frames) == 1:
        if not first.thickness or first.thickness <= 0:
            raise DataError(f"{series} has one slice and states no SliceThickness", "name the folder of all slices")
        return first.normal * first.thickness
    step = (last.position - first.position) / (len(frames) - 1)
    tilt = float(np.degrees(np.arccos(np.clip(step @ first.normal / np.linalg.norm(step), -1, 1))))
    if tilt > TILT:
        raise DataError(
            f"{series} was scanned with a tilted gantry: its slices are sheared by {tilt:.2f} degrees, at most {TILT} "
            "degree is read",
            "turn it into an upright volume first, for example with dcm2niix, which corrects the tilt",
        )
    even = first.position + step * np.arange(len(frames))[:, None]
    away = float(np.linalg.norm(np.stack([frame.position for frame in frames]) - even, axis=1).max())
    limit = STEP * float(np.linalg.norm(step)) + min(first.spacing) / 4
    if away > limit:
        raise DataError(
            f"{series} has slices that lie up to {away:.3g} mm beside a straight stack, at most {limit:.3g} mm is read",
            _AGAIN,
        )
    return step


def _grid(frames: tuple[Frame, ...], step: NDArray[np.float64]) -> Grid:
    first = frames[0]
    affine = np.eye(4)
    affine[:3, 0] = step
    affine[:3, 1] = first.axes[1] * first.spacing[0]
    affine[:3, 2] = first.axes[0] * first.spacing[1]
    affine[:3, 3] = first.position
    affine[:2] *= -1
    return Grid((len(frames), *first.shape), affine)


_APART = "export its parts as series of their own, or name another one with --series UID"
_AGAIN = "export the series again"
