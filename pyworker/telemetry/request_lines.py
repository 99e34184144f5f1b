"""One line of the log for each request that ended or was refused.

Written by the recorder's thread. A sample by default: under load the log would take more disk than the model.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Sequence

from pyworker.runtime.redaction import one_line
from pyworker.telemetry.last_lines import REQUEST_LINES
from pyworker.telemetry.log_format import FIELDS
from pyworker.telemetry.record import REFUSED, RequestRecord

logger = logging.getLogger(REQUEST_LINES)

ALL, SAMPLED, FAILED, NONE = "all", "sampled", "failed", "none"
#: Of each kind (successes, failures, refusals) in a batch of the recorder, unless all are wanted.
MOST = 5
_GOOD = ("Success", "Cancelled")
_TOKENS = ("prompt_tokens", "generation_tokens")


class RequestLines:
    """A sink of the recorder. wanted: `all`, `sampled`, `failed` (with refusals, sampled) or `none`."""

    def __init__(self, wanted: str, emit: Callable[[str, dict[str, object]], None] | None = None) -> None:
        self._wanted = wanted
        self._emit = emit or _log
        self._most = None if wanted == ALL else MOST

    def take(self, records: Sequence[RequestRecord]) -> None:
        """Write their lines."""
        if self._wanted == NONE:
            return
        written: Counter[str] = Counter()
        omitted: Counter[str] = Counter()
        for record in records:
            kind = _kind(record)
            if kind == "succeeded" and self._wanted == FAILED:
                continue
            if self._most is not None and written[kind] >= self._most:
                omitted[f"{record.status} {record.outcome}"] += 1
                continue
            written[kind] += 1
            self._emit(line_of(record), record.as_json())
        if omitted:
            by_kind = ", ".join(f"{count} of {what}" for what, count in omitted.most_common(8))
            self._emit(
                f"{omitted.total()} more requests without a line: {by_kind}", {"omitted": dict(omitted)}
            )


def line_of(record: RequestRecord) -> str:
    """The line as text."""
    parts = [f"{record.status} {record.outcome} {record.route}", f"id={record.request_id}"]
    if record.request_idx is not None:
        parts.append(f"idx={record.request_idx}")
    parts.append(f"total={record.total:.3f}s auth={record.authentication:.3f}s queue={record.queued:.3f}s")
    if record.first_byte is not None:
        parts.append(f"first={record.first_byte:.3f}s")
    if record.outcome != REFUSED:
        parts.append(f"workload={record.workload:g}")
        if record.work is not None:
            parts.append(f"work={record.work:g}")
    told = record.as_json()
    parts += [f"{name}={told[name]}" for name in _TOKENS if told.get(name) is not None]
    if reason := record.told_reason:
        parts.append(f"reason={one_line(reason)!r}")
    return " ".join(parts)


def _kind(record: RequestRecord) -> str:
    if record.outcome == REFUSED:
        return "refused"
    return "succeeded" if record.outcome in _GOOD and record.status < 400 else "failed"


def _log(line: str, fields: dict[str, object]) -> None:
    logger.info("%s", line, extra={FIELDS: fields})
