"""Runs the stages of a sweep on a target."""

from __future__ import annotations

import time
from contextlib import closing
from dataclasses import replace
from datetime import datetime, timezone

from pyworker.loadtest.arrivals import Rate
from pyworker.loadtest.drive import INTERRUPTED, Interrupts, drive, engine_of
from pyworker.loadtest.exchange import Cancelling
from pyworker.loadtest.goal import good_response
from pyworker.loadtest.live import say, view_for
from pyworker.loadtest.measurement import Measurement
from pyworker.loadtest.payloads import Payloads
from pyworker.loadtest.plan import Plan
from pyworker.loadtest.sender import sender_of
from pyworker.loadtest.stage import Hopeless, Stage, Window, stage_of
from pyworker.loadtest.sweep import Sweep, SweepPlan, SweepResult
from pyworker.loadtest.sweep_report import progress
from pyworker.loadtest.targets import Called

SHORTEST = 0.1
"""Seconds of a stage that was given up."""


def sweep(
    plan: Plan,
    asked: SweepPlan,
    called: Called,
    payloads: Payloads,
    seen: Interrupts,
    tokens_by: str = "",
) -> SweepResult:
    """Stages of one target until it is saturated. tokens_by: who counts tokens, in words."""
    window = Window(asked.warm_up, asked.warm_up + asked.seconds)
    duration = window.end + asked.cool_down
    cancelling = Cancelling(plan.cancel_share, plan.cancel_after, plan.seed)
    sent = 0

    def run(load: float) -> Stage | None:
        nonlocal sent
        changes = {"concurrency": int(load)} if asked.closed else {"rate": Rate(load, load)}
        stage_plan = replace(plan, count=None, duration=duration, **changes)
        measurement = Measurement(good_response(asked.goals, plan.objective), asked.goals)
        sender = sender_of(stage_plan, called, payloads, measurement, cancelling, first=sent)
        hopeless = Hopeless(measurement, window, load * window.seconds)
        title = f"sweep of {called.name}, now {asked.named(load)}"
        with closing(sender), view_for(stage_plan, title, lines=False) as view:
            enough = (lambda: "") if asked.closed else (lambda: "hopeless" if hopeless() else "")
            stopped = drive(engine_of(stage_plan, sender), measurement, view, seen, enough)
        if stopped == INTERRUPTED:
            return None
        sent += measurement.sent
        # Of a stage that was given up, the part in which requests were sent.
        end = measurement.last_start - measurement.begin if stopped else window.end
        measured = Window(window.begin, max(end, window.begin + SHORTEST))
        return stage_of(measurement, load, measured, plan.dollars_per_hour, closed=asked.closed)

    started_at = datetime.fromtimestamp(time.time(), timezone.utc).isoformat(timespec="seconds")
    result = Sweep(asked, run, lambda stage, remark: say(progress(asked, stage, remark))).result(
        called.name, started_at
    )
    parts = [str(plan.talk)] if plan.talk is not None else []
    if plan.shape is not None:
        parts += [str(plan.shape), *([f"tokens by {tokens_by}"] if tokens_by else [])]
    return replace(result, shape=", ".join(parts))
