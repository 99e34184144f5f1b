"""What a response of the model server means for the ledger: work done, a rejection, or an error."""

from __future__ import annotations

import logging
from collections.abc import Callable

import requests

from pyworker.errors import shortened
from pyworker.reporting.wire import Outcome
from pyworker.runtime.sample import ResponseSample, Sampler
from pyworker.upstream.lazy_response import LazyResponse

logger = logging.getLogger(__name__)

#: Why a complete 2xx response is a failure; empty if it is not.
Judge = Callable[[ResponseSample], str]

_SHOWN = 200
# Too busy, or not ready: the model did no work.
_REFUSALS = (429, 503)


class Verdict:
    """The outcome of one request by the model server's response to it. Used by one thread at a time."""

    def __init__(self, model_response: requests.Response, judge: Judge | None) -> None:
        """judge: called at the end of a 2xx response; without one the body is not sampled."""
        self._status = model_response.status_code
        self._judge = judge
        self._sampler: Sampler | None = None
        self._reader = model_response.reader if isinstance(model_response, LazyResponse) else None
        if judge is not None and self._reader is not None and 200 <= self._status < 300:
            [content_type, *_] = self._reader.head.fields.get_all("Content-Type", [""])
            self._reader.sampler = self._sampler = Sampler(self._status, content_type)

    def of(self, status: int, request_idx: int) -> tuple[Outcome, bool]:
        """The outcome, and whether it is work done, once the client's response is complete.

        status: of the client's response; request_idx: for the log.
        """
        if self._status in _REFUSALS:
            return Outcome.REJECTED, False
        if self._status >= 500 or status >= 500:
            return Outcome.ERROR, False
        reason = self._failure()
        if reason:
            logger.warning(
                "request %d: the response is a failure: %s", request_idx, shortened(reason, _SHOWN)
            )
            return Outcome.ERROR, False
        return Outcome.SUCCESS, 200 <= self._status < 300

    def _failure(self) -> str:
        judge, sampler, reader = self._judge, self._sampler, self._reader
        if judge is None or sampler is None or reader is None or not reader.is_complete:
            return ""
        try:
            return judge(sampler.sample())
        except Exception:
            logger.exception("find_failure failed; the response counts by its status")
            return ""

    def __repr__(self) -> str:
        return f"<Verdict {self._status}>"
