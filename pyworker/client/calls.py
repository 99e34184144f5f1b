"""One request of a client: find a worker, call it, and retry if a retry may succeed."""

from __future__ import annotations

import contextlib
import json
import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import cast

import requests

from pyworker.client.errors import (
    ClientError,
    SessionClosed,
    StreamBroken,
    WorkerAnswerError,
    WorkerTimeout,
    WorkerUnavailable,
)
from pyworker.client.http import Http, cause, data_of, excerpt, lines, read, read_route, received
from pyworker.client.routing import (
    AuthData,
    Deadline,
    Door,
    Routing,
    Trace,
    index_of,
    pause,
    retry_after,
    retryable,
)

ABOUT_SECONDS = 10.0
"""Deadline of a request about a session."""


@dataclass(frozen=True)
class Membership:
    """The session that a request belongs to."""

    session_id: str
    auth_data: AuthData


@dataclass
class Call:
    """One request and its deadline; belongs to the thread that makes the call."""

    route_path: str
    payload: Mapping[str, object]
    cost: float
    deadline: Deadline
    trace: Trace = field(default_factory=Trace)
    session: Membership | None = None
    auth_data: AuthData = field(default_factory=dict[str, object])
    """Of the last attempt."""


class Caller:
    """Makes calls. Any thread may call any method.

    `retries`: of a call whose worker is busy, failing or unreachable; None for as many as the deadline
    allows.
    """

    def __init__(self, http: Http, routing: Routing, timeout: float, retries: int | None) -> None:
        self._http = http
        self.routing = routing
        self._timeout = timeout
        self._retries = math.inf if retries is None else retries

    def deadline(self) -> Deadline:
        """Of a call that begins now."""
        return Deadline(self._timeout)

    def response(self, call: Call, *, whole: bool = True) -> requests.Response:
        """The final response, with its whole body or before any of it.

        Every retry keeps the request index; the requests of a session stay with its worker.
        """
        index = 0
        while True:
            if call.session is not None:
                call.auth_data = call.session.auth_data
            else:
                call.auth_data = self.routing.route(call.cost, index, call.deadline, call.trace)
            index = index_of(call.auth_data, index)
            response, failure = self._try(call, whole=whole)
            last = call.trace.attempts > self._retries
            if response is not None and (failure is None or last):
                return self._unless_closed(call, response)
            if failure is not None and last:
                raise failure
            seconds = pause(call.trace.attempts - 1)
            if response is not None:
                seconds = max(seconds, retry_after(response))
                response.close()
            if seconds >= call.deadline.left():
                tries = f"no response within {call.deadline.seconds:g} s, {call.trace.attempts} tries"
                raise WorkerUnavailable(f"{tries}; {failure}")
            call.trace.waiting += seconds
            self._http.wait(seconds)

    def _unless_closed(self, call: Call, response: requests.Response) -> requests.Response:
        if call.session is not None and response.status_code == 410:
            with response:
                raise SessionClosed(self._described(response), 410)
        return response

    def _try(self, call: Call, *, whole: bool) -> tuple[requests.Response | None, ClientError | None]:
        """One attempt: the response, and the failure if a retry may succeed."""
        trace = call.trace
        trace.attempts += 1
        trace.worker = self.routing.base_url(call.auth_data)
        url = f"{trace.worker}/{call.route_path.lstrip('/')}"
        data, headers = self._packed(call)
        trace.sent = len(data)
        trace.status, trace.first_byte_at = 0, None
        trace.sent_at = time.monotonic()
        try:
            response = self._http.post(url, data, headers, call.deadline.for_response(whole=whole))
        except requests.exceptions.ReadTimeout as error:
            waited = time.monotonic() - trace.sent_at
            raise WorkerTimeout(
                f"{url} did not respond within {waited:.3g} s; allow more time, or look at its log"
            ) from error
        except requests.RequestException as error:
            return None, WorkerUnavailable(f"{url}: {cause(error)}")
        trace.first_byte_at = time.monotonic()
        trace.status = response.status_code
        if whole or retryable(response.status_code):
            try:
                read(response)
            except StreamBroken as broken:
                return None, broken
            trace.received = received(response)
        if not retryable(response.status_code):
            return response, None
        return response, WorkerAnswerError(self._described(response), response.status_code)

    def _packed(self, call: Call) -> tuple[bytes, Mapping[str, str]]:
        """Body and headers of the request."""
        if isinstance(self.routing, Door):
            secret = self.routing.secret
            return json.dumps(call.payload).encode(), {"Authorization": f"Bearer {secret}"} if secret else {}
        session_id = None if call.session is None else call.session.session_id
        body = {"auth_data": call.auth_data, "payload": call.payload, "session_id": session_id}
        return json.dumps(body).encode(), {}

    def items(self, call: Call) -> Iterator[str]:
        """The data of a streamed response, up to its end."""
        response = self.response(call, whole=False)
        try:
            if not 200 <= response.status_code < 300:
                raise WorkerAnswerError(self._described(response), response.status_code)
            # Read to the end of the body, even after [DONE]: closing the connection earlier would cancel the
            # request.
            for line in lines(response):
                item = data_of(line)
                if item and item != "[DONE]":
                    yield item
        finally:
            call.trace.received = received(response)
            response.close()

    def object_of(self, response: requests.Response) -> Mapping[str, object]:
        """The JSON object of a successful response; raises `WorkerAnswerError`."""
        if 200 <= response.status_code < 300:
            with contextlib.suppress(ValueError):
                content: object = json.loads(response.content)
                if isinstance(content, dict):
                    return cast("Mapping[str, object]", content)
        raise WorkerAnswerError(self._described(response), response.status_code)

    def _described(self, response: requests.Response) -> str:
        content = b"(the response broke off)"
        with contextlib.suppress(requests.RequestException):
            content = response.content
        return f"{response.url} answered {excerpt(response, content, self.routing.secret)}"

    def about(self, session: Membership, action: str) -> Mapping[str, object]:
        """The response of `/session/health` or `/session/end`; raises `ClientError`."""
        url = f"{self.routing.base_url(session.auth_data)}/session/{action}"
        body = json.dumps({"session_id": session.session_id, "session_auth": session.auth_data}).encode()
        try:
            limit = Deadline(min(ABOUT_SECONDS, self._timeout)).for_response(whole=True)
            response = self._http.post(url, body, {}, limit)
        except requests.RequestException as error:
            raise WorkerUnavailable(f"{url}: {cause(error)}") from error
        read(response)
        return self.object_of(response)

    def status(self, base_url: str, token: str) -> bytes:
        """The body of a worker's `/status`, as JSON; raises `ClientError`."""
        url = f"{base_url.rstrip('/')}/status"
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        limit = Deadline(min(ABOUT_SECONDS, self._timeout)).for_response(whole=True)
        try:
            with self._http.get(url, headers, limit) as response:
                content = read_route(response)
        except requests.RequestException as error:
            raise WorkerUnavailable(f"{url}: {cause(error)}") from error
        if response.status_code != 200:
            answered = excerpt(response, content, token)
            raise WorkerAnswerError(f"{url} answered {answered}", response.status_code)
        return content
