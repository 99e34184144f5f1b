"""What a response means for the ledger: its outcome, and the work done."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable

import requests

from pyworker.data_types import HiddenEvents
from pyworker.jobs import Job
from pyworker.reporting.wire import Outcome
from pyworker.runtime.redaction import located, sign_in
from pyworker.runtime.sample import EVENT_STREAM, Measure, ResponseSample, Sampler, measured
from pyworker.upstream.event_filter import EventFilter
from pyworker.upstream.lazy_response import LazyResponse

logger = logging.getLogger(__name__)

#: Why a complete 2xx response is a failure; empty if it is not.
Judge = Callable[[ResponseSample], str]

# Too busy, or not ready: the model did no work.
_REFUSALS = (429, 503)
NO_WORK = 0.0


class Verdict(ABC):
    """The outcome of one request. Used by one thread at a time, but for `work_so_far`."""

    @abstractmethod
    def of(self, status: int, request_idx: int) -> tuple[Outcome, float | None]:
        """The outcome, and the work done (`RequestTracker.end`), once the client's response is complete.

        status: of the client's response; request_idx: for the log.
        """

    @property
    def events(self) -> int:
        """Server-sent events of the response so far, if they were counted; else 0."""
        return 0

    @abstractmethod
    def work_so_far(self) -> float | None:
        """The work done for a response that is not complete; None if unknown. May be called by any thread."""


class ResponseVerdict(Verdict):
    """By the model server's response."""

    def __init__(
        self,
        model_response: requests.Response,
        judge: Judge | None,
        measure: Measure | None = None,
        hidden: HiddenEvents | None = None,
    ) -> None:
        """judge, measure: called at the end of a 2xx response; without both the body is not sampled.
        hidden: events of the body that the client does not get.
        """
        self._status = model_response.status_code
        self._judge = judge
        self._measure = measure
        self._sampler: Sampler | None = None
        self._reader = model_response.reader if isinstance(model_response, LazyResponse) else None
        if self._reader is None or not 200 <= self._status < 300:
            return
        [content_type, *_] = self._reader.head.fields.get_all("Content-Type", [""])
        if judge is not None or measure is not None:
            self._sampler = Sampler(self._status, content_type)
        self._reader.tap = self._sampler
        # What is left out would be missing from a body of a declared length.
        if hidden is not None and self._reader.length is None and content_type.startswith(EVENT_STREAM):
            self._reader.tap = _SampledFilter(self._sampler, EventFilter(hidden))

    def of(self, status: int, request_idx: int) -> tuple[Outcome, float | None]:
        if self._status in _REFUSALS:
            return Outcome.REJECTED, None
        if self._status >= 500 or status >= 500:
            return Outcome.ERROR, None
        if not 200 <= self._status < 300:
            return Outcome.SUCCESS, NO_WORK
        if self._reader is None or self._sampler is None or not self._reader.is_complete:
            return Outcome.SUCCESS, None
        sample = self._sampler.sample()
        reason = self._failure(sample)
        if reason:
            # Its text may quote the request.
            sign = sign_in(reason) or "its text is in the response"
            logger.warning("request %d: the response is a failure: %s", request_idx, sign)
            return Outcome.ERROR, None
        return Outcome.SUCCESS, self._measured(sample)

    def work_so_far(self) -> float | None:
        return None if self._sampler is None else self._measured(self._sampler.sample(is_complete=False))

    @property
    def events(self) -> int:
        return 0 if self._sampler is None else self._sampler.events

    def _failure(self, sample: ResponseSample) -> str:
        if self._judge is None:
            return ""
        try:
            return self._judge(sample)
        except Exception as error:  # noqa: BLE001  an author's code may do anything
            logger.error("find_failure failed (%s); the response counts by its status", located(error))
            return ""

    def _measured(self, sample: ResponseSample) -> float | None:
        return None if self._measure is None else measured(self._measure, sample)

    def __repr__(self) -> str:
        return f"<ResponseVerdict {self._status}>"


class _SampledFilter:
    """A tap that samples what the model server has sent, and passes on what the client may see."""

    def __init__(self, sampler: Sampler | None, events: EventFilter) -> None:
        self._sampler = sampler
        self._events = events
        self.finish = events.finish

    def feed(self, piece: bytes) -> bytes:
        if self._sampler is not None:
            self._sampler.feed(piece)
        return self._events.feed(piece)


class JobVerdict(Verdict):
    """By the response that a job has made."""

    def __init__(self, job: Job) -> None:
        self._job = job

    def of(self, status: int, request_idx: int) -> tuple[Outcome, float | None]:  # noqa: ARG002
        if status in _REFUSALS:
            return Outcome.REJECTED, None
        if status >= 500:
            return Outcome.ERROR, self._job.work
        return Outcome.SUCCESS, NO_WORK if status >= 400 else self._job.work

    def work_so_far(self) -> float | None:
        return self._job.work
