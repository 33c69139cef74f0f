"""Training curves as line charts for SVG: points and ticks in the pixels of one fixed view box."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

WIDTH, HEIGHT = 420, 200  # the view box
LEFT, RIGHT, TOP, BOTTOM = 46, 12, 10, 24  # margins


@dataclass(frozen=True)
class Line:
    name: str
    points: str  # for <polyline>
    dots: tuple[tuple[float, float], ...]  # the same points, where they are few
    last: float


@dataclass(frozen=True)
class Tick:
    at: float
    label: str


@dataclass(frozen=True)
class Chart:
    title: str
    lines: tuple[Line, ...]
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]


def make_chart(
    title: str, records: Sequence[Mapping[str, Any]], keys: Mapping[str, str], log_scale: bool = False
) -> Chart | None:
    """Make a chart with one line per metric.

    Args:
        title: Of the chart.
        records: Of metrics.jsonl, with "step".
        keys: Label of a line -> metric name. Metrics without a finite value are left out.
        log_scale: Draw powers of ten; values of 0 and below are left out.

    Returns:
        The chart, None where it would have no line.
    """
    series = {label: _points(records, key, log_scale) for label, key in keys.items()}
    series = {label: points for label, points in series.items() if points}
    if not series:
        return None
    xs = [x for points in series.values() for x, _ in points]
    ys = [y for points in series.values() for _, y in points]
    x_low, x_high = min(xs), max(xs) if max(xs) > min(xs) else min(xs) + 1
    marks = _powers(min(ys), max(ys)) if log_scale else _round_numbers(min(ys), max(ys), 4)

    def place(x: float, y: float) -> tuple[float, float]:
        across = LEFT + (x - x_low) / (x_high - x_low) * (WIDTH - LEFT - RIGHT)
        up = (y - marks[0]) / (marks[-1] - marks[0])
        return round(across, 1), round(HEIGHT - BOTTOM - up * (HEIGHT - TOP - BOTTOM), 1)

    lines = []
    for label, points in series.items():
        placed = tuple(place(x, y) for x, y in points)
        last = 10 ** points[-1][1] if log_scale else points[-1][1]
        lines.append(
            Line(label, " ".join(f"{x:g},{y:g}" for x, y in placed), placed if len(placed) <= 30 else (), last)
        )
    x_marks = [x for x in _round_numbers(x_low, x_high, 4) if x_low <= x <= x_high and x == int(x)]
    return Chart(
        title,
        tuple(lines),
        tuple(Tick(place(x, marks[0])[0], f"{x:g}") for x in x_marks),
        tuple(Tick(place(x_low, y)[1], f"1e{y:g}" if log_scale else f"{y:g}") for y in marks),
    )


def _points(records: Sequence[Mapping[str, Any]], key: str, log_scale: bool) -> list[tuple[float, float]]:
    points = []
    for record in records:
        value = record.get(key)
        if value is None or not math.isfinite(value) or (log_scale and value <= 0):
            continue
        points.append((float(record["step"]), math.log10(value) if log_scale else float(value)))
    return points


def _round_numbers(low: float, high: float, count: int) -> list[float]:
    """Return about `count` round numbers, evenly spaced, that enclose `[low, high]`."""
    if high - low <= 1e-6 * max(abs(low), abs(high)):  # a constant line is drawn in the middle
        half = abs(low) / 2 or 0.5
        low, high = low - half, high + half
    raw = (high - low) / count
    power = 10 ** math.floor(math.log10(raw))
    spacing = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= raw * (1 - 1e-9))
    first, last = math.floor(low / spacing + 1e-9), math.ceil(high / spacing - 1e-9)
    return [float(f"{at * spacing:.10g}") for at in range(first, max(last, first + 1) + 1)]


def _powers(low: float, high: float) -> list[float]:
    """Return whole exponents that enclose `[low, high]`, at most about five of them."""
    first, last = math.floor(low), max(math.ceil(high), math.floor(low) + 1)
    spacing = max(1, math.ceil((last - first) / 4))
    return [float(at) for at in range(first, last + spacing, spacing)]
