"""The path of one request: parse, authenticate, admit, forward."""

from __future__ import annotations

import functools
import logging
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import flask
import requests

from pyworker.data_types import ApiPayload, AuthData, EndpointHandler
from pyworker.errors import (
    ClientGone,
    ConfigError,
    JsonDataException,
    LimitReached,
    ModelTimeout,
    ModelUnreachable,
    NotReady,
    Overloaded,
    RequestError,
)
from pyworker.jobs import Job, JobCall, JobHandler
from pyworker.lifecycle.state import ModelLifecycle, ModelState
from pyworker.lifecycle.suspicion import FailureStreak
from pyworker.proxy.auth import SignatureVerifier
from pyworker.proxy.disconnect import DisconnectWatcher
from pyworker.proxy.envelope import Envelope
from pyworker.proxy.exchange import Exchange
from pyworker.proxy.open_exchanges import OpenExchanges
from pyworker.proxy.reception import Reception
from pyworker.proxy.verdict import NO_WORK, JobVerdict, Judge, ResponseVerdict
from pyworker.reporting.figures import Limits
from pyworker.reporting.ledger import Ledger
from pyworker.reporting.tracker import Kind, RequestTracker
from pyworker.reporting.wire import Outcome
from pyworker.responses import Passed, PassThrough, Stream, passed_through, response_of, streamed
from pyworker.runtime.log_limit import LogLimit
from pyworker.runtime.request_queue import Admission
from pyworker.runtime.sample import Measure
from pyworker.upstream.call import Aborted, ModelCall
from pyworker.upstream.client import ModelClient
from pyworker.upstream.encoding import encode_payload
from pyworker.wsgi_extensions import HELD, PRESENCE, Presence

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment

Responded = TypeVar("Responded")

logger = logging.getLogger(__name__)

#: The pipeline of an app is kept in `app.extensions` by this name.
PIPELINE = "pyworker.proxy.pipeline"
# The same limit as for the cost in `auth_data`.
_MAX_WORKLOAD = 1e15


_PASSING: Mapping[Any, Callable[[requests.Response], Passed]] = {
    PassThrough.generate_client_response: passed_through,
    Stream.generate_client_response: streamed,
}


@dataclass(frozen=True)
class Route:
    """A handler and the options that apply to it. max_queue_time: seconds, None for no limit."""

    handler: EndpointHandler[Any]
    admission: Admission
    max_queue_time: float | None

    # A method that the handler does not override is None, so that no response is sampled for it.

    @functools.cached_property
    def judge(self) -> Judge | None:
        """The handler's `find_failure`."""
        is_own = type(self.handler).find_failure is not EndpointHandler[Any].find_failure
        return self.handler.find_failure if is_own else None

    @functools.cached_property
    def measure(self) -> Measure | None:
        """The handler's `count_work`."""
        is_own = type(self.handler).count_work is not EndpointHandler[Any].count_work
        return self.handler.count_work if is_own else None

    @functools.cached_property
    def passing(self) -> Callable[[requests.Response], Passed] | None:
        """How the model server's response is passed on; None if the handler makes a response of its own."""
        if isinstance(self.handler, JobHandler):
            return None
        return _PASSING.get(type(self.handler).generate_client_response)


class Pipeline:
    """Serves the requests of every route. Thread-safe.

    max_in_hand: how many requests may be queued or working at a time.
    """

    def __init__(
        self,
        *,
        verifier: SignatureVerifier,
        lifecycle: ModelLifecycle,
        ledger: Ledger,
        reception: Reception,
        client: ModelClient,
        watcher: DisconnectWatcher,
        max_in_hand: int,
        streak: FailureStreak,
    ) -> None:
        self._verifier = verifier
        self._lifecycle = lifecycle
        self._ledger = ledger
        self._reception = reception
        self._client = client
        self._watcher = watcher
        self._max_in_hand = max_in_hand
        self._streak = streak
        #: Also for the routes of sessions.
        self.bodies = reception.bodies
        self.open_exchanges = OpenExchanges()
        self._fault_lines = LogLimit()

    def serve(self, route: Route, request: flask.Request) -> flask.Response:
        """The model server's response to one request. Raises a `RequestError` for every other response."""
        handler = route.handler

        def respond(exchange: Exchange, envelope: Envelope[ApiPayload]) -> flask.Response:
            if isinstance(handler, JobHandler):
                return self._perform(handler, request, envelope, exchange)
            model_response = self._forward(route, envelope, exchange)
            return exchange.deliver(handler.generate_client_response(request, model_response))

        return self._serve(route, request.environ, respond)

    def serve_passing(
        self, route: Route, passing: Callable[[requests.Response], Passed], environ: WSGIEnvironment
    ) -> tuple[Passed, Iterable[bytes]] | flask.Response:
        """The same for a route that passes the response on: what it is, and the body to iterate.

        A response without a body is still an object, which knows what its header block must not hold.
        """

        def respond(
            exchange: Exchange, envelope: Envelope[ApiPayload]
        ) -> tuple[Passed, Iterable[bytes]] | flask.Response:
            passed = passing(self._forward(route, envelope, exchange))
            if passed.status in (204, 304):
                return exchange.deliver(response_of(passed))
            return passed, exchange.pass_on(passed)

        return self._serve(route, environ, respond)

    def _serve(
        self,
        route: Route,
        environ: WSGIEnvironment,
        respond: Callable[[Exchange, Envelope[ApiPayload]], Responded],
    ) -> Responded:
        received = self._reception.receive(route.handler, environ)
        envelope, session = received.envelope, received.session
        # Nothing is counted or reported before this line.
        self._require_ready()
        workload = _workload(envelope.payload)
        tracker = self._admit(route, envelope.auth_data, workload, received.kind)
        registers = [self.open_exchanges] if session is None else [self.open_exchanges, session]
        call = JobCall() if isinstance(route.handler, JobHandler) else ModelCall()
        exchange = Exchange(tracker, route.admission.enter(), self._watcher, registers, call)
        environ[HELD] = exchange
        try:
            self._await_slot(route, environ, exchange)
            response = respond(exchange, envelope)
            exchange.call_at_end(lambda: self._streak.ended(tracker.outcome))
            return response
        except BaseException as error:
            exchange.fail()
            self._streak.ended(tracker.outcome, error)
            if exchange.gone and isinstance(error, Exception):
                raise ClientGone("the client hung up") from error
            if exchange.aborted is not None and isinstance(error, Exception):
                raise exchange.aborted.error() from error
            if isinstance(error, (ModelUnreachable, ModelTimeout)):
                self._log_fault(error, exchange.tracker.request_idx, route.handler.endpoint)
            raise

    def _log_fault(self, error: RequestError, request_idx: int, endpoint: str) -> None:
        text = error.message
        if (more := self._fault_lines.suffix(text)) is not None:
            logger.warning("%d request %d: %s: %s%s", error.status, request_idx, endpoint, text, more)

    def authenticate(self, auth_data: AuthData) -> None:
        """Raise `Unauthorized` or `NotReady` if this client cannot be served now."""
        self._verifier.verify(auth_data)
        self._require_ready()

    def _require_ready(self) -> None:
        if not self._verifier.has_key:
            raise NotReady("the autoscaler's public key has not been fetched yet")
        state = self._lifecycle.state
        if state is not ModelState.READY:
            raise NotReady(f"the worker cannot serve now: {state.value}")

    def _admit(self, route: Route, auth_data: AuthData, workload: float, kind: Kind) -> RequestTracker:
        throughput = self._lifecycle.status.throughput
        limit = route.max_queue_time
        max_load = limit * throughput if limit is not None and throughput > 0 else None
        try:
            return self._ledger.admit(auth_data, workload, Limits(self._max_in_hand, max_load), kind)
        except LimitReached as reached:
            in_hand, wait = reached.entries, _seconds(reached.load, throughput)
            if limit is None or in_hand >= self._max_in_hand:
                raise _too_busy(f"{in_hand} requests are in hand already", in_hand, wait) from None
            reason = f"the estimated wait of {wait:.1f} s is above the limit of {limit:g} s"
            raise _too_busy(reason, in_hand, wait, wait - limit) from None

    def _await_slot(self, route: Route, environ: WSGIEnvironment, exchange: Exchange) -> None:
        """Wait for the request's turn; from here on the client is watched."""
        presence: Presence | None = environ.get(PRESENCE)
        if presence is not None:
            exchange.watch(presence)
        if not exchange.slot.wait(route.max_queue_time):
            exchange.tracker.end(Outcome.REJECTED)
            load, in_hand = self._ledger.in_hand()
            reason = f"waited {route.max_queue_time:g} s in the queue, which is the limit"
            raise _too_busy(reason, in_hand, _seconds(load, self._lifecycle.status.throughput))
        if exchange.call.aborted:
            raise Aborted
        exchange.tracker.start_work()

    def _forward(self, route: Route, envelope: Envelope[ApiPayload], exchange: Exchange) -> requests.Response:
        handler = route.handler
        payload = envelope.take_payload()
        hidden = handler.hidden_events(payload)
        body, content_type = (b"", "") if handler.method == "GET" else encode_payload(handler, payload)
        # A large payload is in memory once at most while the model works.
        del payload
        model_response = self._client.forward(
            handler.endpoint, body, exchange.call, method=handler.method, content_type=content_type
        )
        del body
        exchange.hold(model_response, ResponseVerdict(model_response, route.judge, route.measure, hidden))
        if exchange.call.aborted:
            raise Aborted  # the client hung up meanwhile
        return model_response

    def _perform(
        self,
        handler: JobHandler[Any],
        request: flask.Request,
        envelope: Envelope[ApiPayload],
        exchange: Exchange,
    ) -> flask.Response:
        call = exchange.call
        assert isinstance(call, JobCall)
        job = Job(self._client, call, self._client.timeout, request)
        exchange.hold(None, JobVerdict(job))
        call.begin()
        try:
            response = handler.perform(envelope.take_payload(), job)
        except RequestError as error:
            if error.status < 500:  # the client's fault, not the model server's
                exchange.tracker.end(Outcome.SUCCESS, work=NO_WORK)
            raise
        exchange.slot.release()  # the model server is done, however slowly the client reads
        return exchange.deliver(response)


def _seconds(load: float, throughput: float) -> float:
    """How long the model takes for this workload; 0 before its throughput is known."""
    return load / throughput if throughput > 0 else 0.0


def _too_busy(reason: str, in_hand: int, wait: float, over: float = 0.0) -> Overloaded:
    return Overloaded(
        f"too busy: {reason}", requests_in_hand=in_hand, estimated_wait=wait, retry_after=max(over, 1.0)
    )


def pipeline_of(app: flask.Flask) -> Pipeline:
    """The pipeline of an app. Raises `ConfigError` for one that `create_app` did not make."""
    pipeline: Pipeline | None = app.extensions.get(PIPELINE)
    if pipeline is None:
        raise ConfigError("this app has no pipeline: make it with pyworker.create_app")
    return pipeline


def _workload(payload: ApiPayload) -> float:
    """The payload's workload. Raises `JsonDataException` for one that would spoil every sum, such as NaN."""
    try:
        workload = float(payload.count_workload())
    except OverflowError:
        workload = math.inf
    if not 0 <= workload <= _MAX_WORKLOAD:
        raise JsonDataException({"payload": f"its workload must be between 0 and {_MAX_WORKLOAD:g}"})
    return workload
