"""What a response of the model server means for the books: work that was done, a refusal, or a fault."""

from __future__ import annotations

import logging
from collections.abc import Callable

import requests

from pyworker.errors import shortened
from pyworker.model_response import ModelResponse
from pyworker.reports import Outcome
from pyworker.sample import ResponseSample, Sampler

logger = logging.getLogger(__name__)

#: Why a complete 2xx response is a failure all the same; empty if it is none.
Judge = Callable[[ResponseSample], str]

_SHOWN = 200
#: The model server says that it is too busy, or not there yet: nothing was done.
_REFUSALS = (429, 503)


class Verdict:
    """The outcome of one request, from the model server's response to it. Belongs to one thread at a time."""

    def __init__(self, model_response: requests.Response, judge: Judge | None) -> None:
        """judge: asked at the end of a 2xx response; without one its body is not looked at."""
        self._status = model_response.status_code
        self._judge = judge
        self._sampler: Sampler | None = None
        self._response = model_response if isinstance(model_response, ModelResponse) else None
        if judge is not None and self._response is not None and 200 <= self._status < 300:
            answer = self._response.answer
            [content_type, *_] = answer.msg.get_all("Content-Type", [""])
            self._sampler = Sampler(self._status, content_type)
            answer.sample_with(self._sampler)

    def of(self, status: int, request_idx: int) -> tuple[Outcome, bool]:
        """Outcome, and whether the model worked for it, once the client's response is complete.

        status: of the client's response, which is the handler's; request_idx: for the log.
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
        if self._sampler is None or self._judge is None or self._response is None:
            return ""
        if not self._response.answer.is_complete:
            return ""
        try:
            return self._judge(self._sampler.sample())
        except Exception:
            logger.exception("find_failure failed; the response counts as it is")
            return ""

    def __repr__(self) -> str:
        return f"<Verdict {self._status}>"
