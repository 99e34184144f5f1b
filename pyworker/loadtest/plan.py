"""What the command line asks for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pyworker.loadtest.arrivals import Arrival, Rate
from pyworker.loadtest.goal import Goal
from pyworker.loadtest.objective import Objective
from pyworker.loadtest.shape import ShapePlan
from pyworker.loadtest.sweep import SweepPlan
from pyworker.loadtest.talk import TalkPlan
from pyworker.loadtest.trace import Trace


@dataclass(frozen=True)
class Plan:
    """The load and the reports asked for, in seconds and requests per second."""

    count: int | None
    duration: float
    rate: Rate
    arrival: Arrival
    concurrency: int | None
    seed: int | None
    route: str | None
    stream: bool
    payload_file: Path | None
    objective: Objective
    max_error_rate: float
    json_file: Path | None
    html_file: Path | None
    csv_file: Path | None
    compare_file: Path | None
    dollars_per_hour: float | None
    goals: tuple[Goal, ...] = ()
    max_errors: int | None = None
    compare_url: str | None = None
    url: str | None = None
    body: str | None = None
    burstiness: float = 1.0
    cancel_share: float = 0.0
    cancel_after: float = 1.0
    trace: Trace | None = None
    sweep: SweepPlan | None = None
    shape: ShapePlan | None = None
    talk: TalkPlan | None = None

    @property
    def planned(self) -> int | None:
        """How many requests there will be; None if that is not known before."""
        if self.count is None or self.talk is None:
            return self.count
        turns = self.talk.turns
        return self.count * round(turns.mean) if turns.kind == "constant" else None

    @property
    def needed(self) -> int | None:
        """As many payloads as can be sent; None if there is no such number."""
        if self.count is None or self.talk is None:
            return self.count
        return self.count * int(self.talk.turns.highest)

    @property
    def wanted(self) -> str:
        """The load in words."""
        return self._load if self.talk is None else f"{self.talk}, {self._load}"

    @property
    def _load(self) -> str:
        unit = "rps" if self.talk is None else "a second"
        if self.concurrency is not None:
            return f"{self.concurrency} at a time"
        if self.trace is not None:
            return f"the times of {self.trace.name}"
        rate = self.rate
        if rate.seconds:
            return f"{rate.first:g} to {rate.last:g} {unit} in {rate.seconds:g} s, {self.arrival}"
        bursts = f" ({self.burstiness:g})" if self.arrival == "gamma" else ""
        return f"{rate.last:g} {unit}, {self.arrival}{bursts}"
