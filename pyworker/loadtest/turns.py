"""The turns of conversations: the first against the later ones, whose beginnings an engine has seen."""

from __future__ import annotations

import math
from array import array
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from pyworker.loadtest.measurement import Samples

SHOWN = 10
"""Turns that are shown one by one."""
_SHARES = {"p50": 0.5, "p90": 0.9, "p99": 0.99}


@dataclass(frozen=True)
class TurnFigures:
    """Times of good responses in seconds, by percentile; empty if there were none."""

    turns: str
    requests: int
    failed: int
    latency: Mapping[str, float]
    first_token: Mapping[str, float]


def turn_figures(samples: Samples) -> list[TurnFigures]:
    """First and later turns, then each by itself if that tells more. Empty without conversations."""
    last = max(samples.turn, default=0)
    if last == 0:
        return []
    found = [_figures(samples, "first", lambda turn: turn == 1)]
    if last > 1:
        found.append(_figures(samples, "all later", lambda turn: turn > 1))
    if last > 2:
        found += [
            _figures(samples, str(number), lambda turn, number=number: turn == number)
            for number in range(2, min(last, SHOWN) + 1)
        ]
    return found


def _figures(samples: Samples, name: str, chosen: Callable[[int], bool]) -> TurnFigures:
    places = [place for place, turn in enumerate(samples.turn) if chosen(turn)]
    good = [place for place in places if samples.good[place]]
    return TurnFigures(
        name,
        len(places),
        len(places) - len(good),
        _percentiles([samples.ended[place] - samples.due[place] for place in good]),
        _percentiles(_known(samples.first_token, good)),
    )


def _known(column: array[float], places: Sequence[int]) -> list[float]:
    return [column[place] for place in places if not math.isnan(column[place])]


def _percentiles(values: Sequence[float]) -> Mapping[str, float]:
    ranked = sorted(values)
    if not ranked:
        return {}
    return {name: ranked[max(0, math.ceil(share * len(ranked)) - 1)] for name, share in _SHARES.items()}
