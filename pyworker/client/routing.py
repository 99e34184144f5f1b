"""Which worker a request goes to: chosen by the autoscaler, or fixed."""

from __future__ import annotations

import itertools
import json
import math
import random
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

import requests

from pyworker.client.errors import AutoscalerUnreachable, NoWorkerReady, RouteRefused
from pyworker.client.http import Http, cause, excerpt, read_route, status_line
from pyworker.runtime.redaction import redacted
from pyworker.runtime.timed_http import TimeLimit

ROUTE_SECONDS = 30.0
"""Seconds without a response after which the autoscaler is asked again."""
FIRST_PAUSE = 0.1
LONGEST_PAUSE = 5.0
ROUTE_FAILURES = 5
"""Failures in a row after which the autoscaler counts as unreachable."""

AuthData = dict[str, object]


class Deadline:
    """The end of one call; used by the one thread that makes the call."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._end = time.monotonic() + seconds

    def left(self) -> float:
        return self._end - time.monotonic()

    def for_response(self, *, whole: bool, at_most: float = math.inf) -> TimeLimit:
        """For one HTTP request of the call. A stream may take longer, but must not be silent."""
        return TimeLimit(min(self._end, time.monotonic() + at_most), None if whole else self.seconds)


@dataclass
class Trace:
    """Times and results of a call, written by the thread that makes it. Moments are monotonic seconds."""

    routing: float = 0.0
    """Seconds until the autoscaler's first response."""
    waiting: float = 0.0
    """Seconds after it spent waiting: for a ready worker, or before a retry."""
    attempts: int = 0
    """Attempts at a worker."""
    worker: str = ""
    sent_at: float = 0.0
    """When the last attempt began."""
    first_byte_at: float | None = None
    """When status and headers of the last response had arrived."""
    status: int = 0
    sent: int = 0
    """Bytes of the body of the request."""
    received: int = 0
    """Bytes of the body of the response."""


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
        """The `auth_data` of a ready worker; waits for one. index: of a request that is retried, else 0."""
        attempt = 0
        failures = 0
        begin = time.monotonic()
        while True:
            route, trouble, asked_to_wait = self._ask(cost, index, deadline)
            if attempt == 0 and trace.attempts == 0:
                trace.routing = time.monotonic() - begin
                begin += trace.routing
            if route is not None and "url" in route:
                trace.waiting += time.monotonic() - begin
                return route
            failures = 0 if route is not None else failures + 1
            if route is not None:
                index = index_of(route, index)
                trouble = str(route.get("status", "it gave no reason"))
            seconds = max(asked_to_wait, pause(attempt))
            attempt += 1
            if failures >= self._failures_allowed or (failures and seconds >= deadline.left()):
                raise AutoscalerUnreachable(
                    f"no response from the autoscaler at {self._url}: {trouble}; is it running?"
                )
            if seconds >= deadline.left():
                raise NoWorkerReady(
                    f"no worker of {self._endpoint!r} became ready within {deadline.seconds:g} s "
                    f"({trouble}); see that one is running and that its model has loaded"
                )
            self._http.wait(seconds)

    def base_url(self, auth_data: AuthData) -> str:
        """The worker's URL."""
        return str(auth_data["url"]).rstrip("/")

    def _ask(self, cost: float, index: int, deadline: Deadline) -> tuple[AuthData | None, str, float]:
        """One request to the autoscaler: its response, or why there is none and the seconds to wait."""
        body = {
            "endpoint": self._endpoint,
            "api_key": self.secret,
            "cost": cost,
            "request_idx": index,
            "replay_timeout": deadline.seconds,
        }
        # The contract also allows the key in the query, but URLs end up in logs and error messages.
        headers = {"Authorization": f"Bearer {self.secret}"}
        limit = deadline.for_response(whole=True, at_most=ROUTE_SECONDS)
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
        return self._parsed(response, content), "", 0.0

    def _refusal(self, response: requests.Response, content: bytes) -> RouteRefused:
        hints = {401: "the API key", 403: "the API key", 404: "the endpoint name and the autoscaler's URL"}
        hint = hints.get(response.status_code, "the request")
        answered = excerpt(response, content, self.secret)
        return RouteRefused(f"the autoscaler at {self._url} answered {answered}; check {hint}")

    def _parsed(self, response: requests.Response, content: bytes) -> AuthData:
        try:
            route: object = json.loads(content)
        except ValueError:
            route = None
        if isinstance(route, dict):
            fields = cast("AuthData", route)
            if isinstance(fields.get("url", ""), str):
                return fields
        raise RouteRefused(
            f"the autoscaler at {self._url} answered {excerpt(response, content, self.secret)}, "
            "which is no route; check its URL"
        )

    def __repr__(self) -> str:
        return f"{self._endpoint} at {redacted(self._url)}"


class OneWorker:
    """Always the same worker, without an autoscaler. Any thread may call `route`.

    A worker checks the signature: it accepts `auth_data` that the autoscaler once gave for it (a signature of
    the current form may be used any number of times), or anything if it runs with UNSECURED=true.
    """

    secret = ""

    def __init__(self, url: str, auth_data: Mapping[str, object] | None = None) -> None:
        self._url = url.rstrip("/")
        self._auth_data = auth_data
        self._numbers = itertools.count(1)  # next() on it is atomic

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
        return self._url  # behind a tunnel this is not the signed URL

    def __repr__(self) -> str:
        return f"the worker {redacted(self._url)}"


class Door:
    """A worker's door for plain OpenAI clients: requests go there without an envelope, with a bearer key.

    Any thread may call any method. It has no sessions.
    """

    def __init__(self, url: str, api_key: str) -> None:
        """url: as clients of OpenAI name it, with or without `/v1` at its end."""
        self._url = url.rstrip("/").removesuffix("/v1")
        self.secret = api_key

    def route(self, cost: float, index: int, deadline: Deadline, trace: Trace) -> AuthData:  # noqa: ARG002
        return {}

    def base_url(self, auth_data: AuthData) -> str:  # noqa: ARG002
        return self._url

    def __repr__(self) -> str:
        return f"the door {redacted(self._url)}"


Routing = Autoscaler | OneWorker | Door


def retryable(status: int) -> bool:
    return status in (408, 429) or 500 <= status < 600


def pause(attempt: int) -> float:
    """Seconds before the next attempt: doubling up to a cap, with jitter so that clients do not retry in
    step.
    """
    return min(LONGEST_PAUSE, FIRST_PAUSE * 2.0 ** min(attempt, 16)) * random.uniform(0.75, 1.25)


def retry_after(response: requests.Response) -> float:
    """Seconds asked for by `Retry-After`; 0 if it is absent, a date, or invalid."""
    try:
        seconds = float(response.headers.get("Retry-After", "0"))
    except ValueError:
        return 0.0
    return seconds if math.isfinite(seconds) and seconds > 0 else 0.0


def index_of(route: Mapping[str, object], otherwise: int) -> int:
    index = route.get("request_idx")
    return index if isinstance(index, int) and index > 0 else otherwise
