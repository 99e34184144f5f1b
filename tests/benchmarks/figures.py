"""Figures of rounds, brought down to medians and ratios."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

#: Figure → value; times in milliseconds, memory in megabytes.
Figures = Mapping[str, float]

MEMORY = "memory_mb"


@dataclass(frozen=True)
class FigureKind:
    """A figure's name in the results, what people read, and whether more of it is better."""

    name: str
    title: str
    more_is_better: bool = False


KINDS = (
    FigureKind("requests_per_s", "requests/s", more_is_better=True),
    FigureKind("p50_ms", "p50, ms"),
    FigureKind("p99_ms", "p99, ms"),
    FigureKind("first_request_p50_ms", "first request p50, ms"),
    FigureKind("first_request_p99_ms", "first request p99, ms"),
    FigureKind("cpu_ms_per_request", "CPU per request, ms"),
    FigureKind("cpu_ms_per_1000_tokens", "CPU per 1000 tokens, ms"),
    FigureKind("first_token_p50_ms", "first token p50, ms"),
    FigureKind("first_token_p99_ms", "first token p99, ms"),
    FigureKind("token_p50_ms", "token latency p50, ms"),
    FigureKind("token_p99_ms", "token latency p99, ms"),
    FigureKind("errors", "errors"),
    FigureKind(MEMORY, "peak memory, MB"),
)
KIND = {kind.name: kind for kind in KINDS}


def of_run(counted: Sequence[Mapping[str, Any]], cpu: float) -> Figures:
    """Figures of one run of all loads of a scenario: what each load counted, the server's CPU in seconds."""
    figures: dict[str, float] = {"errors": float(sum(load["errors"] for load in counted))}
    streams = [load for load in counted if load["tokens"]]
    plain = [load for load in counted if not load["tokens"] and load["requests"]]
    for load in plain:
        figures["requests_per_s"] = load["requests"] / load["seconds"]
        for name, prefix in (("latency", ""), ("first_request", "first_request_")):
            for part in ("p50", "p99"):
                if f"{name}_{part}" in load:  # there may have been no second one, or no connection was kept
                    figures[f"{prefix}{part}_ms"] = load[f"{name}_{part}"]
    for load in streams:
        for name in ("first_token", "token"):
            for part in ("p50", "p99"):
                figures[f"{name}_{part}_ms"] = load[f"{name}_{part}"]
    # Of a mix nobody can tell which load the time was spent on.
    if plain and not streams:
        figures["cpu_ms_per_request"] = 1000 * cpu / sum(load["requests"] for load in plain)
    if streams and not plain:
        figures["cpu_ms_per_1000_tokens"] = 1e6 * cpu / sum(load["tokens"] for load in streams)
    return figures


@dataclass
class Result:
    """All rounds of one scenario, by server."""

    scenario: str
    rounds: dict[str, list[Figures]] = field(default_factory=dict[str, list[Figures]])
    #: Once for all rounds.
    memory: dict[str, float] = field(default_factory=dict[str, float])

    def median(self, server: str, figure: str) -> float | None:
        """None if it was not measured."""
        if figure == MEMORY:
            return self.memory.get(server)
        values = [figures[figure] for figures in self.rounds.get(server, []) if figure in figures]
        return statistics.median(values) if values else None

    def ratio(self, figure: str, server: str = "ours", to: str = "peer") -> float | None:
        """The median of the rounds' ratios: what slows down a whole round falls out of it."""
        if figure == MEMORY:
            ratios = [self.memory[server] / self.memory[to]] if {server, to} <= self.memory.keys() else []
        else:
            ratios = list(self._ratios(figure, server, to))
        return statistics.median(ratios) if ratios else None

    def _ratios(self, figure: str, server: str, to: str) -> Iterator[float]:
        # One of them may not have been part of the run.
        for one, other in zip(self.rounds.get(server, []), self.rounds.get(to, []), strict=False):
            if figure in one and other.get(figure):
                yield one[figure] / other[figure]
