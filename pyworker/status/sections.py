"""What the page and `pyworker.top` show of a worker, in sections that change at different times."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from pyworker.errors import shortened
from pyworker.status.report import status_of
from pyworker.telemetry.record import RequestRecord
from pyworker.worker import Worker

# A section has to stay small, since it is sent each second to whoever watches.
_SHOWN_REQUESTS = 15
_SHOWN_LINES = 40
_SHOWN_LINE = 200
_SHOWN_REASON = 300


def sections_of(worker: Worker) -> Mapping[str, object]:
    """Of now: the status, the last minute second by second, the last requests, the last lines of the logs.

    Each list is in the order of time.
    """
    recorder, lines = worker.recorder, getattr(worker, "last_lines", _TMP)
    return {
        "status": status_of(worker),
        "minute": worker.window.by_second(),
        "requests": {"ended": _last(recorder.recent()), "refused": _last(recorder.recently_refused())},
        "lines": {"model": _shown(lines.model.lines()), "own": _shown(lines.own.lines())},
    }


def _last(records: Iterable[RequestRecord]) -> list[Mapping[str, object]]:
    last = list(records)[-_SHOWN_REQUESTS:]
    return [{**one.as_json(), "reason": shortened(one.reason, _SHOWN_REASON)} for one in last]


def _shown(lines: Sequence[str]) -> list[str]:
    return [shortened(line, _SHOWN_LINE) for line in list(lines)[-_SHOWN_LINES:]]


class _T:
    def lines(self):
        return ["2026-01-01 INFO line %d of a log <b>x</b>" % n for n in range(50)] + [
            "ERROR something",
            "WARNING else",
        ]


class _TMP:
    model = _T()
    own = _T()
