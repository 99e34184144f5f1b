"""Why the model is not ready, and why requests were refused."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence

from pyworker.lifecycle.state import Cause
from pyworker.telemetry.record import REFUSED, RequestRecord
from pyworker.worker import Worker

# Last refusals that are told, each reason once.
_REFUSALS = 8
_LOOKED_AT = 100


def awaited_while_loading(worker: Worker) -> str:
    """What says that the model is loaded, and what was seen of it."""
    problem = worker.model.health.problem
    said = [f"its last answer: {problem}"] if problem else []
    return "; ".join([worker.model.loading.awaited(), *said])


def awaited_after_error(worker: Worker) -> str:
    """What ends the error."""
    cause = worker.lifecycle.status.cause
    if cause is Cause.BENCHMARK:
        return worker.model.warming_up or "the next try of the benchmark"
    if cause is Cause.HEALTH:
        return f"a health check that succeeds; the last one: {worker.model.health.problem or 'succeeded'}"
    return awaited_while_loading(worker)


def model_signs(worker: Worker) -> Mapping[str, object]:
    """The last phrase matched, how long the log is silent, and what the last health check said."""
    lines = worker.model.lines
    match, grew_at = lines.last_match, lines.grew_at
    return {
        "last_phrase": None if match is None else match._asdict(),
        "log_silent_seconds": None if grew_at is None else round(time.time() - grew_at, 3),
        "health_problem": worker.model.health.problem,
    }


def last_refusals(worker: Worker) -> Sequence[Mapping[str, object]]:
    """Of the last requests that got no work done: each reason once, newest first, with its number."""
    recorder = worker.recorder
    records = [*list(recorder.recently_refused())[-_LOOKED_AT:], *list(recorder.recent())[-_LOOKED_AT:]]
    refused = sorted(filter(_got_nothing, records), key=lambda one: -one.ended_at)
    counts = Counter((one.status, one.told_reason) for one in refused)
    newest = {(one.status, one.told_reason): one for one in reversed(refused)}
    return [
        {"at": one.ended_at, "status": status, "reason": reason, "route": one.route, "count": count}
        for (status, reason), count in list(counts.items())[:_REFUSALS]
        for one in [newest[status, reason]]
    ]


def _got_nothing(record: RequestRecord) -> bool:
    return record.outcome in (REFUSED, "Rejected")
