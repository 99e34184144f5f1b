"""Responses that are made elsewhere: a `JobHandler` starts a job on the model server, awaits or polls it, and
answers with its result, in place of one forwarded call.
"""

from __future__ import annotations

import contextlib
import logging
import socket
import threading
import time
from abc import abstractmethod
from collections.abc import Callable, Generator
from typing import Any, ClassVar

import flask
import requests

from pyworker.data_types import EndpointHandler, Form, Payload
from pyworker.errors import ModelTimeout
from pyworker.responses import checked, read_whole
from pyworker.runtime.thread_pool import waiting
from pyworker.upstream.call import Aborted, ModelCall
from pyworker.upstream.client import ModelClient
from pyworker.upstream.encoding import JSON, encode, encode_form

logger = logging.getLogger(__name__)

#: Seconds of silence that end a call of a hook of `on_cancel`.
CANCEL_TIMEOUT = 10.0
#: Seconds after which such a hook can wait no longer: the next request has begun by then.
CANCEL_SECONDS = 30.0


class JobCall(ModelCall):
    """The call of a job, which goes on between its calls to the model server. Thread-safe."""

    outlasts_hang_up = True

    def __init__(self) -> None:
        super().__init__()
        #: Set once the job has to end.
        self.stopping = threading.Event()
        #: Set once nobody waits for its end any more, its hook's included.
        self.ended = threading.Event()
        # Guarded by _lock, as _socket.
        self._held: set[socket.socket] = set()
        self._has_begun = False
        self._is_shielded = False

    def begin(self) -> None:
        """The job begins. Raises `Aborted` if it is aborted."""
        with self._lock:
            self._has_begun = True
            if self.aborted:
                raise Aborted

    def hold(self, connection: socket.socket) -> None:
        """Shut this socket down if the job is aborted. Raises `Aborted` if it is."""
        with self._lock:
            self._held.add(connection)
            if self.aborted:
                raise Aborted

    def let_go(self, connection: socket.socket) -> None:
        """The opposite of `hold`."""
        with self._lock:
            self._held.discard(connection)

    @contextlib.contextmanager
    def shielded(self) -> Generator[None]:
        """Within the block `hang_up` cuts nothing."""
        with self._lock:
            self._is_shielded = True
        try:
            yield
        finally:
            with self._lock:
                self._is_shielded = False

    def hang_up(self) -> bool:
        """The job has to end, but may call its hook: a call is not cut while it is shielded. True if the job
        has begun: its end has to be awaited.
        """
        with self._lock:
            is_shielded = self._is_shielded
            self.aborted = self.aborted or is_shielded
        if not is_shielded:
            self._cut()
        self.stopping.set()
        return self._has_begun

    def abort(self) -> bool:
        is_connected = self._cut()
        self.stopping.set()
        self.ended.set()
        return is_connected

    def _cut(self) -> bool:
        is_connected = super().abort()
        with self._lock:
            for connection in self._held:
                with contextlib.suppress(OSError):  # it has ended already
                    socket.socket.shutdown(connection, socket.SHUT_RDWR)
        return is_connected


class Job:
    """One request of a `JobHandler`. Belongs to the thread that runs `perform`.

    Each of its methods that waits raises `pyworker.upstream.call.Aborted` once the client has hung up, its
    session has ended, or the worker shuts down; and `ModelTimeout` once the job gave no sign of life (a
    response of the model server, `progress`) for `timeout` seconds.
    """

    def __init__(
        self, client: ModelClient, call: JobCall, timeout: float | None, request: flask.Request | None = None
    ) -> None:
        """timeout: seconds, None for no limit. request: the client's; None in the benchmark."""
        self.client_request = request
        self._client = client
        self._call = call
        self._timeout = timeout
        self._is_cancelling = False
        self._cancel_until = 0.0
        self._alive_at = time.monotonic()
        #: What `progress` was told last.
        self.done, self.total = 0.0, 0.0
        #: What `settle` was told.
        self.work: float | None = None

    def send(
        self,
        method: str,
        path: str,
        *,
        json: object = None,
        form: Form | None = None,
        timeout: float | None = None,
        limit: int | None = None,
        deadline: float | None = None,
        starts: bool = False,
    ) -> requests.Response:
        """A call to the model server; returns its response, of any status, with the whole body read.

        starts: it starts what a hook of `on_cancel` stops. So it is not cut if the client hangs up meanwhile:
        its response, which the hook needs, is awaited for up to 30 s.

        timeout: seconds of silence, default: the job's. limit: bytes of the body, deadline: seconds from its
        header block to its end, each of which has no bound by default. Raises `ModelUnreachable` too, and
        `ResponseTooLarge`, which is one.
        """
        self.check()
        body, content_type = encode_form(form) if form is not None else (b"", JSON)
        if json is not None:
            body = encode(json)
        call: ModelCall = self._call
        if self._is_cancelling:
            call, timeout = ModelCall(), CANCEL_TIMEOUT
        with self._call.shielded() if starts else contextlib.nullcontext():
            response = self._client.forward(
                path,
                body,
                call,
                method=method,
                content_type=content_type,
                timeout=self._timeout if timeout is None else timeout,
            )
            with response:
                read_whole(response, limit, deadline)
        self._alive_at = time.monotonic()
        return response

    def wait(self, seconds: float) -> None:
        """Pause, for instance between two polls. In a hook of `on_cancel` it raises `Aborted` after 30 s."""
        if self._is_cancelling:
            self._wait_in_hook(seconds)
            return
        limit = self._seconds_left()
        with waiting:
            self._call.stopping.wait(seconds if limit is None else max(min(seconds, limit), 0.0))
        self.check()

    def _wait_in_hook(self, seconds: float) -> None:
        left = self._cancel_until - time.monotonic()
        with waiting:
            is_over = self._call.ended.wait(max(min(seconds, left), 0.0))
        if is_over or left <= 0:
            raise Aborted

    def check(self) -> None:
        """Raise `Aborted` or `ModelTimeout` if the job has to end."""
        if self._is_cancelling:
            return
        if self._call.aborted:
            raise Aborted
        left = self._seconds_left()
        if left is not None and left <= 0:
            raise ModelTimeout(f"the model server made no progress for {self._timeout:g} s")

    def _seconds_left(self) -> float | None:
        return None if self._timeout is None else self._alive_at + self._timeout - time.monotonic()

    def progress(self, done: float = 0.0, total: float = 0.0) -> None:
        """The model server works on it: `done` of `total` steps."""
        self.done, self.total = done, total
        self._alive_at = time.monotonic()

    def settle(self, work: float) -> None:
        """The work that was done, in the unit of `count_workload`, if it is another than that."""
        self.work = work

    @contextlib.contextmanager
    def holding(self, connection: socket.socket) -> Generator[None]:
        """Read from this socket (of a websocket, for one) within the block: it is shut down if the job ends.

        An error that this causes leaves the block as `Aborted`. Mark the blocking read with
        `with pyworker.runtime.thread_pool.waiting:`.
        """
        try:
            self._call.hold(connection)
            yield
        except Aborted:
            raise
        except Exception as error:
            if self._call.aborted:
                raise Aborted from error
            raise
        finally:
            self._call.let_go(connection)

    @contextlib.contextmanager
    def on_cancel(self, hook: Callable[[], object]) -> Generator[None]:
        """Call `hook` if the block is left because the job has to end: tell the model server to stop.

        The next request of a serial route starts once it has returned, or 30 s after the client hung up.
        `send` works in the hook, for at most 10 s each.
        """
        try:
            yield
        except (Aborted, ModelTimeout):
            self._is_cancelling = True
            self._cancel_until = time.monotonic() + CANCEL_SECONDS
            try:
                hook()
            except Exception as error:  # noqa: BLE001  the job ends anyway
                logger.warning("a job could not be cancelled: %s: %s", type(error).__name__, error)
            finally:
                self._is_cancelling = False
            raise

    def respond(self, body: object, status: int = 200) -> flask.Response:
        """A JSON response; unlike `flask.jsonify` it can be made in the benchmark, too."""
        return flask.Response(encode(body), status, mimetype="application/json")

    def __repr__(self) -> str:
        return f"<Job {self.done:g} of {self.total:g}{' aborted' if self._call.aborted else ''}>"


class JobHandler(EndpointHandler[Payload]):
    """A route whose response is made by `perform`. The benchmark runs it too."""

    @abstractmethod
    def perform(self, payload: Payload, job: Job) -> flask.Response:
        """The client's response. Runs on the request's thread, which holds its slot in the queue.

        A 4xx response, or a `RequestError` with such a status, is the client's fault; 429 and 503 count as
        rejected, other errors as failures of the model server.
        """

    def run(self, payload: Payload, job: Job, name: Callable[[], str] | None = None) -> flask.Response:
        """`perform`; raises `BadHandler` if that returns no response. name: of the handler, for its text."""
        told = name or (lambda: str(getattr(self, "shown_as", type(self).__qualname__)))
        return checked(self.perform(payload, job), lambda: f"{told()}.perform", "job.respond(…)")

    def generate_client_response(
        self, client_request: flask.Request, model_response: requests.Response
    ) -> flask.Response:
        """Not used: `perform` makes the response."""
        raise NotImplementedError


class FunctionHandler(JobHandler[Any]):
    """A route whose response is made by a function of payload and job, and of the path's variables."""

    function: ClassVar[Callable[..., flask.Response]]

    def perform(self, payload: Any, job: Job) -> flask.Response:
        request = job.client_request
        variables = request.view_args if request is not None else None
        return type(self).function(payload, job, **(variables or {}))
