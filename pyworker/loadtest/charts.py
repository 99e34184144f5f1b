"""Plots as SVG text. Colours come from classes, so that one plot reads well in light, dark and print."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 720.0, 230.0
LEFT, RIGHT, TOP, BOTTOM = 62.0, 12.0, 10.0, 30.0
TICKS = 5

Format = Callable[[float], str]


@dataclass(frozen=True)
class Series:
    """Values over the shared x of a chart; `style` is a class of the page. None is a gap."""

    name: str
    style: str
    values: Sequence[float | None]


class _Frame:
    """The linear axes of a plot; maps values to coordinates."""

    def __init__(self, x_end: float, y_end: float) -> None:
        self.x_step = nice_step(x_end or 1.0)
        self.y_step = nice_step(y_end or 1.0)
        self.x_end = x_end or 1.0
        self.y_end = max(self.y_step, math.ceil((y_end or 1.0) / self.y_step - 1e-9) * self.y_step)

    def x(self, value: float) -> float:
        return LEFT + value / self.x_end * (WIDTH - LEFT - RIGHT)

    def y(self, value: float) -> float:
        return HEIGHT - BOTTOM - value / self.y_end * (HEIGHT - TOP - BOTTOM)

    def y_axis(self, y_format: Format) -> Iterator[str]:
        for value in _multiples(self.y_step, self.y_end):
            yield _line("grid", LEFT, self.y(value), WIDTH - RIGHT, self.y(value))
            yield _text("end", LEFT - 8, self.y(value) + 4, y_format(value))

    def grid(self, x_format: Format, y_format: Format) -> Iterator[str]:
        yield from self.y_axis(y_format)
        for value in _multiples(self.x_step, self.x_end):
            yield _text("middle", self.x(value), HEIGHT - BOTTOM + 18, x_format(value))


def lines(
    x: Sequence[float],
    series: Sequence[Series],
    label: str,
    x_format: Format,
    y_format: Format,
    *,
    mark: tuple[str, float] | None = None,
    x_title: Format | None = None,
) -> str:
    """Each series as a line over `x`. mark: a name at an x. x_title: of x in the tooltips, or `x_format`."""
    highest = max((value for one in series for value in one.values if value is not None), default=0.0)
    frame = _Frame(x[-1] if x else 0.0, highest)
    parts = list(frame.grid(x_format, y_format))
    for one in series:
        for run in _runs(x, one.values):
            points = " ".join(f"{frame.x(a):.1f},{frame.y(b):.1f}" for a, b in run)
            if len(run) == 1:
                x_at, y_at = frame.x(run[0][0]), frame.y(run[0][1])
                parts.append(f'<circle class="{one.style}" cx="{x_at:.1f}" cy="{y_at:.1f}" r="2.5"/>')
            else:
                parts.append(f'<polyline class="line {one.style}" points="{points}"/>')
    if mark is not None:
        parts += _mark(frame, *mark)
    parts += _hover(frame, x, series, x_title or x_format, y_format)
    return _svg(label, parts)


def _mark(frame: _Frame, name: str, value: float) -> Iterator[str]:
    at = frame.x(value)
    yield _line("mark", at, TOP, at, HEIGHT - BOTTOM)
    anchor, shift = ("end", -5) if at > WIDTH - 120 else ("start", 5)
    yield _text(f"{anchor} strong", at + shift, TOP + 12, name)


def stacked(
    x: Sequence[float], width: float, series: Sequence[Series], label: str, x_format: Format, y_format: Format
) -> str:
    """Bars of `width` that begin at `x`, the series on top of each other."""
    heights = [sum(one.values[place] or 0.0 for one in series) for place in range(len(x))]
    frame = _Frame((x[-1] + width) if x else 0.0, max(heights, default=0.0))
    parts = list(frame.grid(x_format, y_format))
    for place, begin in enumerate(x):
        base = 0.0
        for one in series:
            value = one.values[place] or 0.0
            if value:
                left, right = frame.x(begin), frame.x(begin + width)
                gap = min(1.0, (right - left) / 4)
                parts.append(_bar(one.style, left, frame.y(base + value), right - left - gap, frame.y(base)))
            base += value
    parts += _hover(frame, x, series, x_format, y_format, width)
    return _svg(label, parts)


def distribution(
    bins: Sequence[tuple[float, int]], marks: Sequence[tuple[str, float]], label: str, format_x: Format
) -> str:
    """How often values occurred, on a logarithmic axis, with some of them marked."""
    if not bins:
        return _svg(label, [])
    low, high = math.log10(bins[0][0]), math.log10(bins[-1][0])
    if high - low < 0.3:
        low, high = (low + high) / 2 - 0.15, (low + high) / 2 + 0.15
    count = 6 * min(10, 2 + int(math.sqrt(sum(times for _, times in bins)) / 3))
    sums = [0] * count
    for value, times in bins:
        sums[min(count - 1, max(0, int((math.log10(value) - low) / (high - low) * count)))] += times
    frame = _Frame(count, 1.35 * max(sums))  # with room for the marks' names
    parts = list(frame.y_axis("{:g}".format))
    for place, times in enumerate(sums):
        if times:
            edges = (10 ** (low + (place + side) * (high - low) / count) for side in (0, 1))
            title = f"{times} between {' and '.join(format_x(edge) for edge in edges)}"
            left, right = frame.x(place), frame.x(place + 1)
            parts.append(_bar("s1", left, frame.y(times), right - left - 1, frame.y(0), title))
    for place in range(0, count + 1, count // 6):
        name = format_x(10 ** (low + place * (high - low) / count))
        parts.append(_text("middle", min(frame.x(place), WIDTH - RIGHT - 14), HEIGHT - BOTTOM + 18, name))
    for level, (name, value) in enumerate(marks):
        at = frame.x(min(count, max(0.0, (math.log10(value) - low) / (high - low) * count)))
        parts.append(_line("mark", at, TOP, at, HEIGHT - BOTTOM))
        anchor, shift = ("end", -5) if at > WIDTH - 120 else ("start", 5)
        text = f"{name} {format_x(value)}"
        parts.append(_text(f"{anchor} strong", at + shift, TOP + 12 + 15 * level, text))
    return _svg(label, parts)


def nice_step(end: float) -> float:
    """1, 2 or 5 times a power of ten, so that about TICKS of them reach `end`."""
    raw = end / TICKS
    power = 10.0 ** math.floor(math.log10(raw))
    return next(size * power for size in (1, 2, 5, 10) if size * power >= raw * 0.999)


def _multiples(step: float, end: float) -> Iterator[float]:
    for number in range(int(end / step + 1e-9) + 1):
        yield number * step


def _runs(x: Sequence[float], values: Sequence[float | None]) -> Iterator[list[tuple[float, float]]]:
    """Stretches without a gap."""
    for gap, run in itertools.groupby(zip(x, values, strict=True), lambda point: point[1] is None):
        if not gap:
            yield [(a, b) for a, b in run if b is not None]


def _hover(
    frame: _Frame,
    x: Sequence[float],
    series: Sequence[Series],
    x_format: Format,
    y_format: Format,
    width: float = 0.0,
) -> Iterator[str]:
    """Invisible strips with the values as tooltips."""
    step = width or (x[1] - x[0] if len(x) > 1 else frame.x_end)
    for place, begin in enumerate(x):
        named = [(one.name, one.values[place]) for one in series]
        shown = [f"{name} {y_format(value)}" for name, value in named if value is not None]
        if shown:
            left = max(frame.x(begin if width else begin - step / 2), LEFT)
            right = min(frame.x(begin + (step if width else step / 2)), WIDTH - RIGHT)
            title = "\n".join([x_format(begin), *shown])
            yield _bar("hover", left, TOP, max(0.0, right - left), HEIGHT - BOTTOM, title)


def _svg(label: str, parts: Sequence[str]) -> str:
    inside = "\n".join(parts)
    return (
        f'<svg viewBox="0 0 {WIDTH:g} {HEIGHT:g}" role="img" aria-label="{escape(label, quote=True)}">'
        f"\n{inside}\n</svg>"
    )


def _line(style: str, x1: float, y1: float, x2: float, y2: float) -> str:
    return f'<line class="{style}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'


def _text(style: str, x: float, y: float, text: str) -> str:
    return f'<text class="{style}" x="{x:.1f}" y="{y:.1f}">{escape(text)}</text>'


def _bar(style: str, left: float, top: float, width: float, bottom: float, title: str = "") -> str:
    inside = f"<title>{escape(title)}</title>" if title else ""
    return (
        f'<rect class="{style}" x="{left:.1f}" y="{top:.1f}" width="{width:.1f}" '
        f'height="{max(0.0, bottom - top):.1f}">{inside}</rect>'
    )
