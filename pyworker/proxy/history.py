"""What is recorded of one request: its steps, and how it ended."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from pyworker.errors import PyworkerError, RequestError
from pyworker.reporting.tracker import RequestTracker
from pyworker.runtime.sample import Work
from pyworker.telemetry.record import REFUSED, RequestRecord
from pyworker.telemetry.recorder import Recorder
from pyworker.telemetry.stopwatch import REQUEST_ID, STOPWATCH, Stopwatch
from pyworker.telemetry.trace import TRACE, TraceContext, is_traceparent, trace_context
from pyworker.upstream.adapter import Trace

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment

_NO_TOKENS = Work(0.0)


class History:
    """One request on its way. Used by one thread at a time; exactly one of `refuse` and `end` is called."""

    def __init__(self, route: str, environ: WSGIEnvironment, recorder: Recorder) -> None:
        self.stopwatch = environ[STOPWATCH] = Stopwatch()
        self.request_id: str = environ.get(REQUEST_ID, "")
        self._trace: TraceContext | None = None
        if recorder.traces:
            self._trace = trace_context(environ["REQUEST_METHOD"], environ.get("HTTP_TRACEPARENT"))
            environ[TRACE] = self._trace
        self._route = route
        self._recorder = recorder

    def refuse(self, status: int, reason: str) -> None:
        """It was never admitted."""
        total = time.monotonic() - self.stopwatch.began
        self._recorder.refused(
            RequestRecord(
                request_id=self.request_id,
                request_idx=None,
                route=self._route,
                ended_at=self._recorder.now(),
                status=status,
                outcome=REFUSED,
                reason=reason,
                authentication=total,
                queued=0.0,
                first_byte=None,
                total=total,
                workload=0.0,
                work=None,
                trace=self._trace,
            )
        )

    def end(self, tracker: RequestTracker, status: int, reason: str, events: int = 0) -> None:
        """It has an outcome, and everything that it held is released."""
        now = time.monotonic()
        watch = self.stopwatch
        admitted = watch.began if watch.admitted is None else watch.admitted
        started = now if watch.started is None else watch.started
        assert tracker.outcome is not None
        work = tracker.work
        told = work if isinstance(work, Work) else _NO_TOKENS
        self._recorder.ended(
            RequestRecord(
                request_id=self.request_id,
                request_idx=tracker.request_idx,
                route=self._route,
                ended_at=self._recorder.now(),
                status=status,
                outcome=tracker.outcome.value,
                reason=reason,
                authentication=admitted - watch.began,
                queued=started - admitted,
                first_byte=None if watch.first_byte is None else watch.first_byte - started,
                total=now - watch.began,
                workload=tracker.workload,
                work=work,
                prompt_tokens=told.prompt_tokens,
                generation_tokens=told.generation_tokens,
                events=events,
                trace=self._trace,
            )
        )


def trace_of(environ: WSGIEnvironment) -> Trace:
    """The header fields by which the model server's log and traces can be matched with ours."""
    request_id: str | None = environ.get(REQUEST_ID)
    trace = [("X-Request-Id", request_id)] if request_id else []
    context: TraceContext | None = environ.get(TRACE)
    parent: str | None = environ.get("HTTP_TRACEPARENT") if context is None else context.traceparent
    if parent is not None and is_traceparent(parent):
        trace.append(("traceparent", parent))
    return trace


def status_of(error: BaseException) -> int:
    """Of the response that an error becomes."""
    return error.status if isinstance(error, RequestError) else 500


def reason_of(error: BaseException) -> str:
    """What is recorded of an error."""
    # Only our own errors are known to contain nothing of the request.
    if isinstance(error, RequestError):
        return error.reason
    return str(error) if isinstance(error, PyworkerError) else type(error).__name__
