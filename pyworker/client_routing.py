"""Who says which worker a request goes to: the autoscaler, or whoever names one worker."""

from __future__ import annotations

import itertools
import json
import math
import random
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol, cast

import requests

from pyworker.client_errors import AutoscalerUnreachable, NoWorkerReady, RouteRefused
from pyworker.client_http import Http, cause, excerpt_of, read_route, status_line
from pyworker.redaction import redacted
from pyworker.timed_http import TimeLimit

ROUTE_SECONDS = 30.0
"""How long the autoscaler may be silent before the call is tried again."""
FIRST_PAUSE = 0.1
LONGEST_PAUSE = 5.0
ROUTE_FAILURES = 5
"""An autoscaler that cannot be reached this often in a row is reported instead of tried on."""

AuthData = dict[str, object]


class Deadline:
    """The end of one call; used by the one thread that makes the call."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._end = time.monotonic() + seconds

    def left(self) -> float:
        return self._end - time.monotonic()

    def of_answer(self, *, whole: bool, at_most: float = math.inf) -> TimeLimit:
        """For one exchange of the call: with the whole answer, or with a stream, which must not be silent."""
        return TimeLimit(min(self._end, time.monotonic() + at_most), None if whole else self.seconds)


@dataclass
class Trace:
    """What a call went through, written by the thread that makes it. Moments are monotonic seconds."""

    routing: float = 0.0
    """Seconds until the autoscaler's first answer."""
    waiting: float = 0.0
    """Seconds after it in which no worker was ready, or a worker's refusal was waited out."""
    attempts: int = 0
    """How often a worker was called."""
    worker: str = ""
    sent_at: float = 0.0
    """When the last call of a worker began."""
    first_byte_at: float | None = None
    """When the status and headers of the last answer were here."""
    status: int = 0
    received: int = 0
    """Bytes of the body."""


class Routing(Protocol):
    """Gives a worker, waited for if need be."""

    secret: str

    def route(self, cost: float, index: int, deadline: Deadline, trace: Trace) -> AuthData:
        """The `auth_data` of a call; `index` is 0, or that of the request that is tried again."""
        ...

    def base_url(self, auth_data: AuthData) -> str:
        """Where the worker of this `auth_data` is called."""
        ...


class Autoscaler:
    """Asks the autoscaler. Any thread may call `route`."""

    def __init__(
        self, http: Http, url: str, api_key: str, endpoint: str, failures_allowed: int = ROUTE_FAILURES
    ) -> None:
        self._http = http
        self._url = url.rstrip("/")
        self.secret = api_key
        self._endpoint = endpoint
        self._failures_allowed = failures_allowed

    def route(self, cost: float, index: int, deadline: Deadline, trace: Trace) -> AuthData:
        attempt = 0
        failures = 0
        begin = time.monotonic()
        while True:
            answer, trouble, asked_to_wait = self._ask(cost, index, deadline)
            if attempt == 0 and trace.attempts == 0:
                trace.routing = time.monotonic() - begin
                begin += trace.routing
            if answer is not None and "url" in answer:
                trace.waiting += time.monotonic() - begin
                return answer
            failures = 0 if answer is not None else failures + 1
            if answer is not None:
                index = index_of(answer, index)
                trouble = str(answer.get("status", "it gave no reason"))
            seconds = max(asked_to_wait, pause(attempt))
            attempt += 1
            if failures >= self._failures_allowed or (failures and seconds >= deadline.left()):
                raise AutoscalerUnreachable(
                    f"no answer from the autoscaler at {self._url}: {trouble}; is it running?"
                )
            if seconds >= deadline.left():
                raise NoWorkerReady(
                    f"no worker of {self._endpoint!r} became ready within {deadline.seconds:g} s "
                    f"({trouble}); see that one is running and that its model has loaded"
                )
            self._http.wait(seconds)

    def base_url(self, auth_data: AuthData) -> str:
        return str(auth_data["url"]).rstrip("/")

    def _ask(self, cost: float, index: int, deadline: Deadline) -> tuple[AuthData | None, str, float]:
        """One question to the autoscaler: its answer, or why there is none and how long to wait."""
        body = {
            "endpoint": self._endpoint,
            "api_key": self.secret,
            "cost": cost,
            "request_idx": index,
            "replay_timeout": deadline.seconds,
        }
        # The contract also has the key in the query, but addresses end up in logs and error messages.
        headers = {"Authorization": f"Bearer {self.secret}"}
        limit = deadline.of_answer(whole=True, at_most=ROUTE_SECONDS)
        try:
            response = self._http.post(f"{self._url}/route/", json.dumps(body).encode(), headers, limit)
            with response:
                content = read_route(response)
        except requests.RequestException as error:
            return None, cause(error), 0.0
        if retryable(response.status_code):
            return None, f"it answered {status_line(response)}", retry_after(response)
        if not 200 <= response.status_code < 300:
            raise self._refusal(response, content)
        return self._route_answer(content), "", 0.0

    def _refusal(self, response: requests.Response, content: bytes) -> RouteRefused:
        hints = {401: "the API key", 403: "the API key", 404: "the endpoint name and the autoscaler's URL"}
        hint = hints.get(response.status_code, "the request")
        answer = f"{status_line(response)}: {excerpt_of(content, self.secret)}"
        return RouteRefused(f"the autoscaler at {self._url} answered {answer}; check {hint}")

    def _route_answer(self, content: bytes) -> AuthData:
        try:
            answer: object = json.loads(content)
        except ValueError:
            answer = None
        if isinstance(answer, dict):
            fields = cast("AuthData", answer)
            if isinstance(fields.get("url", ""), str):
                return fields
        raise RouteRefused(
            f"the autoscaler at {self._url} answered {excerpt_of(content, self.secret)}, "
            "which is no route; check its URL"
        )

    def __repr__(self) -> str:
        return f"{self._endpoint} at {redacted(self._url)}"


class OneWorker:
    """Always the same worker, without an autoscaler. Any thread may call `route`.

    A worker checks who signed: it takes `auth_data` that the autoscaler once gave for it (a signature of the
    current form may come any number of times), or anything where it runs with UNSECURED=true.
    """

    secret = ""

    def __init__(self, url: str, auth_data: Mapping[str, object] | None = None) -> None:
        self._url = url.rstrip("/")
        self._auth_data = auth_data
        self._numbers = itertools.count(1)  # one step of it cannot be interrupted by another thread

    def route(self, cost: float, index: int, deadline: Deadline, trace: Trace) -> AuthData:  # noqa: ARG002
        if self._auth_data is not None:
            return {**self._auth_data}
        number = index or next(self._numbers)
        return {
            "url": self._url,
            "signature": "",
            "cost": cost,
            "endpoint": "",
            "reqnum": number,
            "request_idx": number,
        }

    def base_url(self, auth_data: AuthData) -> str:  # noqa: ARG002
        return self._url  # where a tunnel leads to it, the signed URL is another

    def __repr__(self) -> str:
        return f"the worker {redacted(self._url)}"


def retryable(status: int) -> bool:
    return status in (408, 429) or 500 <= status < 600


def pause(attempt: int) -> float:
    """Doubles with each attempt up to a cap; a random part keeps clients from coming back together."""
    return min(LONGEST_PAUSE, FIRST_PAUSE * 2.0 ** min(attempt, 16)) * random.uniform(0.75, 1.25)


def retry_after(response: requests.Response) -> float:
    """Seconds asked for by `Retry-After`; 0 where it is absent, a date, or senseless."""
    try:
        seconds = float(response.headers.get("Retry-After", "0"))
    except ValueError:
        return 0.0
    return seconds if math.isfinite(seconds) and seconds > 0 else 0.0


def index_of(answer: Mapping[str, object], otherwise: int) -> int:
    index = answer.get("request_idx")
    return index if isinstance(index, int) and index > 0 else otherwise
