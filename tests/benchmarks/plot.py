"""The ratios to the peer as an SVG: one bar for each target, better to the right."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from html import escape

from tests.benchmarks import scenarios
from tests.benchmarks.figures import KIND, Result
from tests.benchmarks.report import PLAIN_TARGETS

_WIDTH, _ROW, _LABELS, _TOP, _RIGHT = 880, 26, 480, 48, 60
_MOST_TICKS = 6
_BETTER, _WORSE = "#2e7d32", "#c62828"
_STYLE = "font: 13px system-ui, sans-serif; fill: #555"


def svg(results: Sequence[Result]) -> str:
    """The picture; readable on light and dark grounds."""
    rows = list(_rows(results))
    best = max((abs(math.log2(factor)) for _, factor in rows), default=1.0)
    octaves = max(1, math.ceil(best))
    least = min(0, math.floor(min((math.log2(factor) for _, factor in rows), default=0.0)))
    unit = (_WIDTH - _LABELS - _RIGHT) / (octaves - least)
    height = _TOP + _ROW * len(rows) + 12

    def x(factor: float) -> float:
        return _LABELS + (math.log2(factor) - least) * unit

    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" width="{_WIDTH}" '
        f'height="{height}" role="img" aria-label="Figures of this worker relative to the peer">',
        f"<style>text {{ {_STYLE} }}</style>",
        f'<text x="{_LABELS}" y="16">how many times better than the asyncio peer</text>',
    ]
    step = math.ceil((octaves - least) / _MOST_TICKS)
    for octave in [least, *range(0, octaves + 1, step)] if least else range(0, octaves + 1, step):
        at = x(2.0**octave)
        stroke = "#777" if octave == 0 else "#ccc"
        lines.append(
            f'<line x1="{at:.1f}" x2="{at:.1f}" y1="{_TOP - 8}" y2="{height - 12}" stroke="{stroke}"/>'
        )
        lines.append(f'<text x="{at:.1f}" y="{_TOP - 14}" text-anchor="middle">{2.0**octave:g}&#215;</text>')
    for number, (label, factor) in enumerate(rows):
        top = _TOP + _ROW * number
        left, right = sorted((x(1.0), x(factor)))
        color = _BETTER if factor >= 1 else _WORSE
        lines.append(f'<text x="{_LABELS - 10}" y="{top + 15}" text-anchor="end">{escape(label)}</text>')
        lines.append(
            f'<rect x="{left:.1f}" y="{top + 3}" width="{max(right - left, 1):.1f}" height="{_ROW - 9}" '
            f'fill="{color}"/>'
        )
        lines.append(f'<text x="{right + 6:.1f}" y="{top + 15}">{factor:.1f}&#215;</text>')
    return "\n".join([*lines, "</svg>", ""])


def _rows(results: Sequence[Result]) -> Iterator[tuple[str, float]]:
    by_name = {result.scenario: result for result in results}
    titles = {scenario.name: scenario.title for scenario in scenarios.ALL}
    for target in PLAIN_TARGETS:
        result = by_name.get(target.scenario)
        ratio = None if result is None else result.ratio(target.figure)
        if ratio:
            kind = KIND[target.figure]
            label = f"{titles[target.scenario]}: {kind.title.partition(',')[0]}"
            yield label, ratio if kind.more_is_better else 1 / ratio
