"""Why requests were refused or failed, as short words of a closed set: labels of metrics."""

from __future__ import annotations

from pyworker.telemetry.record import ERROR, REFUSED, REJECTED, RequestRecord

#: The status of a refusal, which is that of its error class in `pyworker.errors`, and the word for it.
_REFUSALS = {
    400: "bad_request",
    401: "unauthorized",
    410: "session_closed",
    413: "too_large",
    415: "unsupported_coding",
    422: "invalid",
    429: "overloaded",
    499: "client_gone",
    503: "not_ready",
}
_FAILURES = {502: "model_unreachable", 504: "model_timeout"}
#: All that `shed_cause` and `failure_cause` may say.
SHED = (*_REFUSALS.values(), "queue_timeout", "model_busy", "other")
FAILURES = (*_FAILURES.values(), "response_cut", "model_error", "other")


def shed_cause(record: RequestRecord) -> str:
    """Why no work was done for it, though its client wanted some; empty if that is not so."""
    if record.outcome == REFUSED:
        return _REFUSALS.get(record.status, "other")
    if record.outcome != REJECTED:
        return ""
    if record.status == 503:
        return "not_ready"
    return "queue_timeout" if record.first_byte is None else "model_busy"


def failure_cause(record: RequestRecord) -> str:
    """Why an admitted request was an error; empty if it was none."""
    if record.outcome != ERROR:
        return ""
    if record.first_byte is not None:
        return "response_cut" if record.reason else "model_error"
    return _FAILURES.get(record.status, "other")
