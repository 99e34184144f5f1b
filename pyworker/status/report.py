"""Everything about the worker as one JSON object: no secret, and nothing of a request's content."""

from __future__ import annotations

import dataclasses
import functools
import importlib.metadata
import platform
import time
from collections.abc import Iterable, Mapping

import pyworker
from pyworker.config import Settings
from pyworker.lifecycle.state import ModelState
from pyworker.runtime.redaction import redacted
from pyworker.telemetry.metrics import Reading
from pyworker.worker import Worker

#: Of a worker whose threads do not run.
NOT_STARTED = (
    "the worker was not started: run gunicorn with `-c gunicorn.conf.py`, or `python -m` the worker's server "
    "module (in a test: `worker_of(app).start()`)"
)
_PACKAGES = ("flask", "gunicorn", "requests", "pydantic", "urllib3")


def status_of(worker: Worker) -> Mapping[str, object]:
    """Of now. Times in epoch seconds, durations in seconds, workload in the worker's unit."""
    worker.recorder.flush()
    status = worker.lifecycle.status
    phase = worker.model.phases.current
    load, in_hand = worker.ledger.in_hand()
    waiting = worker.ledger.waiting()
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
        "last_minute": worker.window.summary(),
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
        return worker.model.loading.awaited()
    if state is ModelState.BENCHMARKING:
        return worker.model.benchmark.progress or "the benchmark, or the health of the model server"
    if state is ModelState.DRAINING:
        return f"{worker.ledger.in_hand()[1]} requests in hand"
    return why_not_ready(worker)


def readings_of(worker: Worker) -> Iterable[Reading]:
    """The gauges of `/metrics`."""
    load, in_hand = worker.ledger.in_hand()
    waiting = worker.ledger.waiting()
    status = worker.lifecycle.status
    wait, failures = worker.admission.estimated_wait(), worker.reporter.last.failures
    yield "num_requests_running", "Requests that the model server works on.", in_hand - waiting
    yield "num_requests_waiting", "Requests in the queue.", waiting
    yield "workload_in_hand", "Workload of the requests in hand.", load
    yield "estimated_wait_seconds", "Time until the requests in hand are done.", wait
    yield "benchmark_throughput", "Workload per second, as measured by the benchmark.", status.throughput
    yield "ready", "Whether a request would be served now.", float(why_not_ready(worker) == "")
    yield "report_failures", "Reports in a row that the autoscaler has not accepted.", failures
    for state in ModelState:
        yield f"state_{state.value}", f"Whether the worker is {state.value}.", float(status.state is state)


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
