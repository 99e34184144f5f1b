"""The path of one request: parse, authenticate, admit, forward."""

from __future__ import annotations

import functools
import logging
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import flask

from pyworker.data_types import ApiPayload, AuthData, EndpointHandler
from pyworker.errors import (
    ClientGone,
    ConfigError,
    InvalidSession,
    JsonDataException,
    LimitReached,
    ModelTimeout,
    ModelUnreachable,
    NotReady,
    Overloaded,
    RequestError,
)
from pyworker.lifecycle.state import ModelLifecycle, ModelState
from pyworker.lifecycle.suspicion import FailureStreak
from pyworker.proxy.auth import SignatureVerifier
from pyworker.proxy.body import BodyReader
from pyworker.proxy.disconnect import DisconnectWatcher
from pyworker.proxy.envelope import Envelope, parse_envelope
from pyworker.proxy.exchange import Exchange, OpenExchanges
from pyworker.proxy.verdict import Judge, Verdict
from pyworker.reporting.ledger import Ledger, Limits
from pyworker.reporting.tracker import Kind, RequestTracker
from pyworker.reporting.wire import Outcome
from pyworker.runtime.log_limit import LogLimit
from pyworker.runtime.request_queue import Admission
from pyworker.upstream.call import Aborted
from pyworker.upstream.client import ModelClient
from pyworker.upstream.encoding import encode
from pyworker.wsgi_extensions import HELD, PRESENCE, Presence

logger = logging.getLogger(__name__)

#: The pipeline of an app is kept in `app.extensions` by this name.
PIPELINE = "pyworker.proxy.pipeline"
# The same limit as for the cost in `auth_data`.
_MAX_WORKLOAD = 1e15


@dataclass(frozen=True)
class Route:
    """A handler and the options that apply to it. max_queue_time: seconds, None for no limit."""

    handler: EndpointHandler[Any]
    admission: Admission
    max_queue_time: float | None

    @functools.cached_property
    def judge(self) -> Judge | None:
        """The handler's `find_failure`; None if it does not override it, so that no response is sampled."""
        if type(self.handler).find_failure is EndpointHandler[Any].find_failure:
            return None
        return self.handler.find_failure


class Pipeline:
    """Serves the requests of every route. Thread-safe.

    extend_session: extends the session of this id and returns its open exchanges; None if there is no such
    session of this client. max_in_hand: how many requests may be queued or working at a time.
    """

    def __init__(
        self,
        *,
        verifier: SignatureVerifier,
        lifecycle: ModelLifecycle,
        ledger: Ledger,
        extend_session: Callable[[str, AuthData], OpenExchanges | None],
        client: ModelClient,
        watcher: DisconnectWatcher,
        bodies: BodyReader,
        max_in_hand: int,
        streak: FailureStreak,
    ) -> None:
        self._verifier = verifier
        self._lifecycle = lifecycle
        self._ledger = ledger
        self._extend_session = extend_session
        self._client = client
        self._watcher = watcher
        self._max_in_hand = max_in_hand
        self._streak = streak
        self.bodies = bodies
        self.open_exchanges = OpenExchanges()
        self._fault_lines = LogLimit()

    def serve(self, route: Route, request: flask.Request) -> flask.Response:
        """The model server's response to one request. Raises a `RequestError` for every other response."""
        envelope, session = self._receive(route, request)
        # Nothing is counted or reported before this line.
        self._require_ready()
        workload = _workload(envelope.payload)
        tracker = self._admit(
            route, envelope.auth_data, workload, Kind.REQUEST if session is None else Kind.IN_SESSION
        )
        registers = [self.open_exchanges] if session is None else [self.open_exchanges, session]
        exchange = Exchange(tracker, route.admission.enter(), self._watcher, registers)
        request.environ[HELD] = exchange
        try:
            response = self._forward(route, request, envelope, exchange)
            # Runs after `exchange.close`, which sets the outcome.
            response.call_on_close(lambda: self._streak.ended(tracker.outcome))
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

    def _receive(
        self, route: Route, request: flask.Request
    ) -> tuple[Envelope[ApiPayload], OpenExchanges | None]:
        """What the client sent, once it is authenticated, and the exchanges of its session."""
        with self.bodies.reading(request) as body:
            envelope: Envelope[ApiPayload] = parse_envelope(body, route.handler.payload_cls())
            return envelope, self._authenticate(envelope)

    def authenticate(self, auth_data: AuthData) -> None:
        """Raise `Unauthorized` or `NotReady` if this client cannot be served now."""
        self._verifier.verify(auth_data)
        self._require_ready()

    def _authenticate(self, envelope: Envelope[ApiPayload]) -> OpenExchanges | None:
        """The exchanges of the session that the request belongs to; None if it belongs to none."""
        if envelope.session_id is not None:
            session = self._extend_session(envelope.session_id, envelope.auth_data)
            if session is not None:
                return session  # the signature was checked when the session was created
        self._verifier.verify(envelope.auth_data)
        if envelope.session_id is not None:
            raise InvalidSession
        return None

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

    def _forward(
        self, route: Route, request: flask.Request, envelope: Envelope[ApiPayload], exchange: Exchange
    ) -> flask.Response:
        presence: Presence | None = request.environ.get(PRESENCE)
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
        handler = route.handler
        # The payload has no name here, so that a large one is in memory once at most while the model works.
        model_response = self._client.post_encoded(
            handler.endpoint, encode(handler.generate_payload_json(envelope.take_payload())), exchange.call
        )
        exchange.hold(model_response, Verdict(model_response, route.judge))
        if exchange.call.aborted:
            raise Aborted  # the client hung up meanwhile
        return exchange.deliver(handler.generate_client_response(request, model_response))


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
