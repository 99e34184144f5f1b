"""What the page and `pyworker.top` show of a worker, in sections that change at different times."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import cast

from pyworker.errors import shortened
from pyworker.status.report import status_of
from pyworker.telemetry.record import RequestRecord
from pyworker.worker import Worker

# Everything has to stay small, since it is sent each second to whoever watches.
_SHOWN_REQUESTS = 12
_SHOWN_REASON = 300
_SHOWN_LINE = 300


def sections_of(worker: Worker) -> Mapping[str, object]:
    """Of now: the status, the last minute second by second, the last requests, the last lines of the logs.

    Each list is in the order of time.
    """
    status = dict(status_of(worker))
    return {
        "minute": worker.window.by_second(),
        "requests": _last(worker.recorder.recent()),
        "lines": {
            name: [shortened(line, _SHOWN_LINE) for line in cast("list[str]", status.pop(key))]
            for name, key in (("model", "last_model_lines"), ("own", "last_lines"))
        },
        "status": status,
    }


def _last(records: Iterable[RequestRecord]) -> list[Mapping[str, object]]:
    last = list(records)[-_SHOWN_REQUESTS:]
    return [{**one.as_json(), "reason": shortened(one.told_reason, _SHOWN_REASON)} for one in last]
