"""A client of the service: asks the autoscaler for a worker and calls it.

    with Client("https://run.vast.ai", key, "my-endpoint") as client:
        response = client.call("/generate", {"prompt": "Hello"}, cost=8).json()
        for token in client.stream("/generate_stream", {"prompt": "Hello"}, cost=8): ...
        with client.session(lifetime=60) as session:
            session.call("/generate", {"prompt": "Hello again"})

Shared by the workers' example clients and the load test.

`python -m pyworker.client -w NAME` sends one request to any worker.

calls     one request: find a worker, call it, retry
errors    what a call raises
http      one POST, and the lines of a response
options   command-line options of everything that calls the service
printing  what the example clients of workers share
routing   the autoscaler's choice of a worker, or a fixed one
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Generator, Iterator, Mapping
from pathlib import Path
from typing import TypedDict

import requests
from typing_extensions import Self, Unpack

from pyworker.client.calls import Call, Caller, Membership
from pyworker.client.errors import (
    AutoscalerUnreachable,
    ClientClosed,
    ClientError,
    NoWorkerReady,
    RouteRefused,
    RoutingFailed,
    SessionClosed,
    StreamBroken,
    TlsFailed,
    WorkerAnswerError,
    WorkerTimeout,
    WorkerUnavailable,
)
from pyworker.client.http import Http
from pyworker.client.routing import ROUTE_FAILURES, AuthData, Autoscaler, Door, OneWorker, Trace

__all__ = [
    "AutoscalerUnreachable",
    "Client",
    "ClientClosed",
    "ClientError",
    "ClientSettings",
    "NoWorkerReady",
    "RouteRefused",
    "RoutingFailed",
    "Session",
    "SessionClosed",
    "StreamBroken",
    "TlsFailed",
    "Trace",
    "WorkerAnswerError",
    "WorkerTimeout",
    "WorkerUnavailable",
]


class ClientSettings(TypedDict, total=False):
    """Settings of any client; see `Client`."""

    timeout: float
    retries: int | None
    verify: bool
    ca: Path | None
    pool_size: int


class Client:
    """Calls workers of one endpoint. Any thread may call any method; they share one connection pool.

    `timeout`: seconds for a whole call, with the wait for a worker and retries; a stream may take longer if
    it is never silent for that long. `retries`: of a call whose worker is busy, failing or unreachable; None
    for as many as fit before the deadline. `verify`: check the TLS certificates of the autoscaler and the
    worker; `ca`: a file with a root certificate to trust as well, such as the one that signs workers.
    """

    def __init__(
        self,
        autoscaler_url: str,
        api_key: str,
        endpoint: str,
        *,
        timeout: float = 600.0,
        retries: int | None = None,
        verify: bool = True,
        ca: Path | None = None,
        pool_size: int = 256,
    ) -> None:
        if not (math.isfinite(timeout) and timeout > 0):
            raise ValueError(f"timeout must be a number of seconds above 0, not {timeout!r}")
        failures = ROUTE_FAILURES if retries is None else min(ROUTE_FAILURES, retries + 1)
        self._http = Http(pool_size, verify=verify, ca=ca)
        routing = Autoscaler(self._http, autoscaler_url, api_key, endpoint, failures)
        self._caller = Caller(self._http, routing, timeout, retries)

    @classmethod
    def of_worker(
        cls,
        worker_url: str,
        auth_data: Mapping[str, object] | None = None,
        **settings: Unpack[ClientSettings],
    ) -> Self:
        """A client of one worker, without an autoscaler.

        `auth_data`: a response of the autoscaler that named this worker; without it the worker has to run
        with UNSECURED=true.
        """
        client = cls("", "", "", **settings)
        client._caller.routing = OneWorker(worker_url, auth_data)
        return client

    @classmethod
    def of_door(cls, url: str, api_key: str, **settings: Unpack[ClientSettings]) -> Self:
        """A client of one worker's door for plain OpenAI clients: no envelope, no sessions."""
        client = cls("", "", "", **settings)
        client._caller.routing = Door(url, api_key)
        return client

    def route(self, cost: float) -> AuthData:
        """The `auth_data` of a ready worker for a request of this workload; waits for one."""
        return self._caller.routing.route(cost, 0, self._caller.deadline(), Trace())

    def call(
        self, route_path: str, payload: Mapping[str, object], cost: float, *, trace: Trace | None = None
    ) -> requests.Response:
        """POST `payload` to a worker and read its response, whatever its status.

        Retried after 408, 429, 5xx and connection errors, as `retries` says.
        `trace` is filled in during the call.
        """
        call = Call(route_path, payload, cost, self._caller.deadline(), trace or Trace())
        return self._caller.response(call)

    def stream(
        self, route_path: str, payload: Mapping[str, object], cost: float, *, trace: Trace | None = None
    ) -> Generator[str]:
        """The data of a streamed response, each item as soon as it arrives: SSE `data:` or lines of JSON.

        Raises `WorkerAnswerError` for an error status and `StreamBroken` if the stream is truncated.
        Closing the iterator closes the connection.
        """
        call = Call(route_path, payload, cost, self._caller.deadline(), trace or Trace())
        yield from self._caller.items(call)

    def status(self, worker_url: str, token: str = "") -> bytes:
        """The JSON of a worker's `/status`. token: its master token, which it asks for from other machines.

        Raises `ClientError`.
        """
        return self._caller.status(worker_url, token)

    @contextlib.contextmanager
    def session(
        self,
        *,
        lifetime: float = 60.0,
        cost: float = 1.0,
        on_close_route: str | None = None,
        on_close_payload: Mapping[str, object] | None = None,
        trace: Trace | None = None,
    ) -> Generator[Session]:
        """One worker for several requests: `with client.session() as session: session.call(…)`.

        Each request extends the session by `lifetime` seconds; leaving the block ends it.
        `cost`: its workload while it is open. When it is over, the model server gets `on_close_payload` at
        `on_close_route`. `trace` is filled in while it is opened.
        """
        terms = {
            "lifetime": lifetime,
            "on_close_route": on_close_route,
            "on_close_payload": on_close_payload,
        }
        call = Call("/session/create", terms, cost, self._caller.deadline(), trace or Trace())
        created = self._caller.object_of(self._caller.response(call))
        session = Session(self._caller, Membership(str(created.get("session_id")), call.auth_data))
        try:
            yield session
        finally:
            # A session that cannot be ended now expires by itself.
            with contextlib.suppress(ClientError):
                session.end()

    def close(self) -> None:
        """End waiting calls with `ClientClosed` and close idle connections."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Client {self._caller.routing!r} [{'closed' if self._http.closed.is_set() else 'open'}]>"


class Session:
    """Requests that go to one worker, made by `Client.session`. Any thread may call any method.

    A call raises `SessionClosed` if the session is over. If its worker is busy, the call is retried there.
    """

    def __init__(self, caller: Caller, membership: Membership) -> None:
        self._caller = caller
        self._membership = membership

    @property
    def id(self) -> str:
        return self._membership.session_id

    def call(
        self, route_path: str, payload: Mapping[str, object], *, trace: Trace | None = None
    ) -> requests.Response:
        """As `Client.call`."""
        return self._caller.response(self._of(route_path, payload, trace))

    def stream(
        self, route_path: str, payload: Mapping[str, object], *, trace: Trace | None = None
    ) -> Iterator[str]:
        """As `Client.stream`."""
        yield from self._caller.items(self._of(route_path, payload, trace))

    def is_open(self) -> bool:
        """Whether the worker still has it; this does not extend its lifetime."""
        return self._caller.about(self._membership, "health").get("ok") is True

    def end(self) -> None:
        """End it now; does nothing if it is over. Raises `ClientError` if the worker does not confirm."""
        try:
            self._caller.about(self._membership, "end")
        except WorkerAnswerError as error:
            if error.status not in (400, 410):
                raise

    def _of(self, route_path: str, payload: Mapping[str, object], trace: Trace | None) -> Call:
        # The session's own workload counts for its requests.
        return Call(route_path, payload, 0.0, self._caller.deadline(), trace or Trace(), self._membership)

    def __repr__(self) -> str:
        return f"<Session {self.id[:8]}… of {self._caller.routing!r}>"
