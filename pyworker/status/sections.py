"""What the page and `pyworker.top` show of a worker, in sections that change at different times."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from pyworker.errors import shortened
from pyworker.status.report import status_of
from pyworker.telemetry.record import RequestRecord
from pyworker.worker import Worker

# Everything has to stay small, since it is sent each second to whoever watches.
_SHOWN_ENDED = 12
_SHOWN_REFUSED = 8
_SHOWN_REASON = 300
_SHOWN_LINE = 300


def sections_of(worker: Worker) -> Mapping[str, object]:
    """Of now: the status, the last minute second by second, the last requests, the last lines of the logs.

    Each list is in the order of time.
    """
    recorder = worker.recorder
    status = dict(status_of(worker))
    return {
        "minute": worker.window.by_second(),
        "requests": {
            "ended": _last(recorder.recent(), _SHOWN_ENDED),
            "refused": _last(recorder.recently_refused(), _SHOWN_REFUSED),
        },
        "lines": {"model": _cut(status.pop("last_model_lines")), "own": _cut(status.pop("last_lines"))},
        "status": status,
    }


def _last(records: Iterable[RequestRecord], most: int) -> list[Mapping[str, object]]:
    last = list(records)[-most:]
    return [{**one.as_json(), "reason": shortened(one.reason, _SHOWN_REASON)} for one in last]


def _cut(lines: Iterable[str]) -> list[str]:
    return [shortened(line, _SHOWN_LINE) for line in lines]
