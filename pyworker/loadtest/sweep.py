"""Raises the load in stages until the server is saturated, and finds the knee.

The knee is the highest load whose objectives hold. A stage that fails is run once more, and only then
believed: one hiccup of a machine is not its capacity.

Without an objective, N users who each wait for their response have no load that fails. Their stages go on
until more users bring no more responses, and the knee is where the asymptotes of throughput and latency
cross: N* = X * (R + Z), the highest throughput times the latency of the lowest load and what a user thinks
between two requests (Denning and Buzen, "The Operational Analysis of Queueing Network Models", 1978). Beyond
it users only wait for each other.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace

from pyworker.loadtest.goal import Goal
from pyworker.loadtest.search import Search, Steps
from pyworker.loadtest.stage import Stage

FORMAT = "pyworker-loadtest-sweep"
VERSION = 1
#: Responses have to grow by this share of what the users grew by.
LEAST_GAIN = 0.1
SATURATED = "more users bring no more responses"


@dataclass(frozen=True)
class SweepPlan:
    """What --sweep asks for. Times in seconds; closed: the load is a number of users, not a rate."""

    closed: bool
    steps: Steps
    first: float
    precision: float
    seconds: float
    warm_up: float
    cool_down: float
    goals: tuple[Goal, ...]
    asked: bool
    """Whether an objective was given, other than few errors."""
    pause: float = 0.0
    """Mean time that a user thinks between two requests."""

    @property
    def asymptotic(self) -> bool:
        """Whether the knee is that of the asymptotes."""
        return self.closed and not self.asked

    def named(self, load: float) -> str:
        return f"{load:g} at a time" if self.closed else f"{load:.4g} rps"


@dataclass(frozen=True)
class SweepResult:
    """Rates per second, times in seconds; loads in requests per second, or users if `closed`."""

    started_at: str
    target: str
    closed: bool
    objectives: Sequence[str]
    stages: Sequence[Stage]
    """By load."""
    knee: float | None
    """The load; None if none held."""
    saturated: bool
    """Whether a higher load was seen to fail: without that the knee may lie above."""
    interrupted: bool
    shape: str = ""
    """Lengths and conversations that were asked for, in words."""
    format: str = FORMAT
    version: int = VERSION

    @property
    def knee_stage(self) -> Stage | None:
        return next((stage for stage in self.stages if stage.load == self.knee), None)

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=1) + "\n"


class Sweep:
    """Runs the stages. `run` measures one load, or gives None if the user has had enough; `told` hears of
    each stage.
    """

    def __init__(
        self, plan: SweepPlan, run: Callable[[float], Stage | None], told: Callable[[Stage, str], None]
    ) -> None:
        self._plan = plan
        self._run = run
        self._told = told
        self._stages: dict[float, Stage] = {}
        self._interrupted = False

    def result(self, target: str, started_at: str) -> SweepResult:
        """Runs all of it."""
        plan = self._plan
        precision = math.inf if plan.asymptotic else plan.precision
        search = Search(plan.steps, plan.first, precision, whole=plan.closed)
        while (load := search.next()) is not None:
            stage = self._stage(load)
            if stage is None:
                break
            search.tell(load, holds=stage.holds)
        knee = search.held
        if plan.asymptotic and search.failed is not None and not self._interrupted:
            knee = self._crossing(knee)
        return SweepResult(
            started_at=started_at,
            target=target,
            closed=plan.closed,
            objectives=[goal.name for goal in plan.goals],
            stages=[self._stages[load] for load in sorted(self._stages)],
            knee=knee,
            saturated=search.failed is not None,
            interrupted=self._interrupted,
        )

    def _stage(self, load: float) -> Stage | None:
        """A failure is confirmed first. None: interrupted."""
        stage = self._tried(load)
        if stage is not None and not stage.holds:
            self._told(stage, "once more")
            stage = self._tried(load)
        return self._kept(load, stage)

    def _kept(self, load: float, stage: Stage | None) -> Stage | None:
        """Among the stages, unless it was interrupted."""
        if stage is None:
            self._interrupted = True
        else:
            self._stages[load] = stage
            self._told(stage, "")
        return stage

    def _tried(self, load: float) -> Stage | None:
        stage = self._run(load)
        if stage is None or not self._plan.asymptotic or not stage.holds:
            return stage
        lower = max((known for known in self._stages if known < load), default=None)
        if lower is None:
            return stage
        before = self._stages[lower].throughput
        gain = stage.throughput / before - 1 if before else math.inf
        if gain >= LEAST_GAIN * (load / lower - 1):
            return stage
        return replace(stage, failing=[SATURATED])

    def _crossing(self, held: float | None) -> float | None:
        """Measures the load at which the asymptotes cross; the load."""
        lowest = self._stages[min(self._stages)]
        most = max(stage.throughput for stage in self._stages.values())
        load = float(max(1, round(most * (lowest.mean + self._plan.pause))))
        if load not in self._stages and self._kept(load, self._run(load)) is None:
            return held
        return load
