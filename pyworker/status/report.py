"""Everything about the worker as one JSON object: no secret, and nothing of a request's content."""

from __future__ import annotations

import dataclasses
import functools
import importlib.metadata
import platform
import time
from collections.abc import Mapping
from typing import cast

import pyworker
from pyworker.config import Settings
from pyworker.lifecycle.state import ModelState
from pyworker.runtime.redaction import redacted
from pyworker.status.cost import Period, cost_of
from pyworker.status.reasons import (
    awaited_after_error,
    awaited_while_loading,
    last_refusals,
    model_signs,
)
from pyworker.telemetry.window import LENGTH
from pyworker.worker import Worker

#: Of a worker whose threads do not run.
NOT_STARTED = (
    "the worker was not started: run gunicorn with `-c gunicorn.conf.py`, or `python -m` the worker's server "
    "module (in a test: `worker_of(app).start()`)"
)
_PACKAGES = ("flask", "gunicorn", "requests", "pydantic", "urllib3")
# Of each log that is told.
_LINES = 20


def status_of(worker: Worker) -> Mapping[str, object]:
    """Of now. Times in epoch seconds, durations in seconds, workload in the worker's unit."""
    worker.recorder.flush()
    status = worker.lifecycle.status
    phase = worker.model.phases.current
    load, in_hand = worker.ledger.in_hand()
    waiting = worker.ledger.waiting()
    window = worker.window.summary()
    now = time.time()
    return {
        "state": status.state.value,
        "since": round(phase.since, 3),
        "for_seconds": round(now - phase.since, 3),
        "error": status.error_msg,
        "can_serve": why_not_ready(worker) == "",
        "waits_for": waits_for(worker),
        "phases": [
            {"state": one.state.value, "since": round(one.since, 3), "reason": one.reason}
            for one in worker.model.phases.all()
        ],
        "queue": {
            "requests_in_hand": in_hand,
            "requests_waiting": waiting,
            "requests_running": in_hand - waiting,
            "load": load,
            "estimated_wait_seconds": round(worker.admission.estimated_wait(), 3),
            "most_in_hand": worker.settings.max_in_hand,
        },
        "benchmark": {"throughput": status.throughput, "progress": worker.model.benchmark.progress},
        **model_signs(worker),
        "last_refusals": last_refusals(worker),
        "last_model_lines": worker.last_lines.model.lines(_LINES),
        "last_lines": worker.last_lines.own.lines(_LINES),
        "last_minute": window,
        "cost": _cost(worker, window),
        "since_start": dataclasses.asdict(worker.ledger.counts),
        "autoscaler": worker.reporter.last.as_json(),
        "versions": _versions(),
        "settings": _changed_settings(worker.settings),
        "now": round(now, 3),
    }


def why_not_ready(worker: Worker) -> str:
    """Why no request would be served now; empty if one would."""
    if not worker.is_started:
        return NOT_STARTED
    status = worker.lifecycle.status
    if status.state is not ModelState.READY:
        return f"{status.state.value}: {status.error_msg}" if status.error_msg else status.state.value
    return "" if worker.verifier.has_key else "the autoscaler's public key has not been fetched yet"


def waits_for(worker: Worker) -> str:
    """What leads to the next state; empty if the worker is ready."""
    state = worker.lifecycle.state
    if not worker.is_started:
        return NOT_STARTED
    if state is ModelState.LOADING:
        return awaited_while_loading(worker)
    if state is ModelState.BENCHMARKING:
        return worker.model.warming_up or "the benchmark, or the health of the model server"
    if state is ModelState.ERRORED:
        return awaited_after_error(worker)
    if state is ModelState.DRAINING:
        count = worker.ledger.in_hand()[1]
        return f"{count} request{'' if count == 1 else 's'} in hand"
    return why_not_ready(worker)


def _cost(worker: Worker, window: Mapping[str, object]) -> Mapping[str, object]:
    shares = worker.idle.shares()
    figures: dict[str, object] = {
        "idle_share": {name: round(share, 4) for name, share in shares._asdict().items()},
    }
    if dollars := worker.settings.dollars_per_hour:
        figures["dollars_per_hour"] = dollars
        figures["last_minute"] = cost_of(dollars, _last_minute(worker, window))
        figures["since_start"] = cost_of(dollars, since_start(worker))
    return figures


def since_start(worker: Worker) -> Period:
    """What was done since the start."""
    _, generated = worker.metrics.tokens()
    return Period(worker.idle.elapsed, generated, worker.ledger.served)


def _last_minute(worker: Worker, window: Mapping[str, object]) -> Period:
    tokens, work = (
        cast("float", window[f"{name}_per_second"]) * LENGTH for name in ("generation_tokens", "workload")
    )
    return Period(min(worker.idle.elapsed, LENGTH), tokens, work)


@functools.cache
def _versions() -> Mapping[str, str]:
    found = {"pyworker": pyworker.__version__, "python": platform.python_version()}
    for name in _PACKAGES:
        found[name] = importlib.metadata.version(name)
    return found


def _changed_settings(settings: Settings) -> Mapping[str, object]:
    """Those that differ from their defaults, by their variables. A secret is only said to be set."""
    changed: dict[str, object] = {}
    for one in dataclasses.fields(settings):
        value = getattr(settings, one.name)
        if value != one.default and one.metadata:
            text = value if isinstance(value, bool | int | float) else redacted(str(value))
            changed[one.metadata["name"]] = text if one.repr else "(set)"
    return changed
