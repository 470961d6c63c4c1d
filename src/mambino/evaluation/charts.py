"""Drawings as inline SVG: how scores are spread over cases, and how training went.

Colours are those of the page (`report.html.j2`), so that a drawing follows it into the dark and onto paper.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

import numpy as np

from mambino.core.report import Statistic

_WIDTH = 720
_LEFT, _RIGHT, _TOP, _ROW = 150, 24, 10, 46
_AXIS = 34  # height of the axis and its title


@dataclass(frozen=True, slots=True)
class Row:
    """The scores of one label: (case, value) each, and what they come to."""

    label: str
    points: tuple[tuple[str, float], ...]
    statistic: Statistic


@dataclass(frozen=True, slots=True)
class Line:
    """A quantity over the epochs of training."""

    name: str
    points: tuple[tuple[float, float], ...]


def strips(rows: Sequence[Row], title: str, *, highest: float | None = None) -> str:
    """Draw one strip a label: a dot a case, a box from the first to the third quartile, the mean with its interval.

    Args:
        rows: one a label.
        title: of the axis, with its unit.
        highest: right end of the axis; from the values if None.
    """
    values = [value for row in rows for _, value in row.points]
    ticks = _ticks(values, highest)
    low, high = ticks[0], ticks[-1]
    right = _WIDTH - _RIGHT

    def x(value: float) -> float:
        return _LEFT + (value - low) / (high - low) * (right - _LEFT)

    bottom = _TOP + _ROW * len(rows)
    parts = [_grid(x(tick), _TOP, bottom, _number(tick)) for tick in ticks]
    parts += [_text((_LEFT + right) / 2, bottom + 32, title, "middle", "axis")]
    for i, row in enumerate(rows):
        parts.append(_strip(row, x, _TOP + _ROW * (i + 0.5)))
    return _svg(bottom + _AXIS + 4, parts, title)


def curves(lines: Sequence[Line], title: str, *, height: int = 230) -> str:
    """Draw quantities over epochs, each named at its end."""
    points = [point for line in lines for point in line.points]
    xs, ys = [p[0] for p in points], [p[1] for p in points]
    across, up = _ticks(xs, None, lowest=0.0), _ticks(ys, None)
    left, right, bottom = 58, _WIDTH - 90, height - _AXIS - 4

    def x(value: float) -> float:
        return left + (value - across[0]) / (across[-1] - across[0]) * (right - left)

    def y(value: float) -> float:
        return bottom - (value - up[0]) / (up[-1] - up[0]) * (bottom - _TOP)

    parts = [_level(y(tick), left, right, _number(tick)) for tick in up]
    parts += [_text(x(tick), bottom + 16, _number(tick), "middle", "tick") for tick in across]
    parts.append(_text((left + right) / 2, bottom + 32, "epoch", "middle", "axis"))
    for i, line in enumerate(lines):
        path = "M" + "L".join(f"{x(a):.1f} {y(b):.1f}" for a, b in line.points)
        last = line.points[-1]
        parts.append(f'<path d="{path}" class="curve c{i}"/>')
        parts.append(_text(x(last[0]) + 6, y(last[1]) + 4, line.name, "start", f"name c{i}"))
    return _svg(height, parts, title)


def _strip(row: Row, x: Callable[[float], float], middle: float) -> str:
    parts = [_text(_LEFT - 14, middle + 4, _short(row.label), "end", "label")]
    if not row.points:
        return "".join([*parts, _text(_LEFT + 8, middle + 4, "no case", "start", "tick")])
    values = np.array([value for _, value in row.points])
    first, centre, third = np.percentile(values, (25, 50, 75))
    box = f'x="{x(first):.1f}" y="{middle - 13}" width="{max(x(third) - x(first), 1):.1f}" height="26" rx="3"'
    parts.append(f'<rect {box} class="box"/>')
    parts.append(f'<path d="M{x(centre):.1f} {middle - 13}v26" class="median"/>')
    for i, (case, value) in enumerate(row.points):
        # Golden-ratio steps spread dots evenly over the height, the same way each time.
        offset = ((i * 0.618034) % 1 - 0.5) * 20
        shown = f"{escape(case)}: {value:.3f}"
        parts.append(f'<circle cx="{x(value):.1f}" cy="{middle + offset:.1f}" r="3"><title>{shown}</title></circle>')
    found = row.statistic
    if found.mean is not None and found.low is not None and found.high is not None:
        parts.append(f'<path d="M{x(found.low):.1f} {middle}H{x(found.high):.1f}" class="interval"/>')
    if found.mean is not None:
        at = x(found.mean)
        parts.append(
            f'<path d="M{at:.1f} {middle - 6}l6 6l-6 6l-6 -6z" class="mean"><title>mean {found.mean:.3f}</title></path>'
        )
    return "".join(parts)


def _ticks(values: Sequence[float], highest: float | None, lowest: float | None = None) -> list[float]:
    """Return round numbers that enclose the values."""
    low = min(values, default=0.0) if lowest is None else lowest
    high = max(values, default=1.0) if highest is None else highest
    if high - low < 1e-9:
        low, high = (low - 0.5, high) if highest is not None else (low, high + 1)
    step = 10.0 ** math.floor(math.log10((high - low) / 4))
    step = next(step * factor for factor in (1, 2, 2.5, 5, 10) if (high - low) / (step * factor) <= 6)
    start = math.floor(low / step + 1e-9)
    stop = math.ceil(high / step - 1e-9)
    ticks = [round(i * step, 10) for i in range(start, stop + 1)]
    return [tick for tick in ticks if highest is None or tick <= highest + 1e-9]


def _svg(height: float, parts: Sequence[str], title: str) -> str:
    size = f'viewBox="0 0 {_WIDTH} {height:g}"'
    return f'<svg {size} role="img" aria-label="{escape(title)}" class="chart">{"".join(parts)}</svg>'


def _grid(x: float, top: float, bottom: float, text: str) -> str:
    return f'<path d="M{x:.1f} {top}V{bottom}" class="grid"/>' + _text(x, bottom + 16, text, "middle", "tick")


def _level(y: float, left: float, right: float, text: str) -> str:
    return f'<path d="M{left} {y:.1f}H{right}" class="grid"/>' + _text(left - 8, y + 4, text, "end", "tick")


def _text(x: float, y: float, text: str, anchor: str, kind: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" class="{kind}">{escape(text)}</text>'


def _number(value: float) -> str:
    return f"{value:.6g}"


def _short(label: str) -> str:
    return label if len(label) <= 20 else label[:19] + "…"
