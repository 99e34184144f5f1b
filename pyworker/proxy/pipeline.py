"""The path of one request: parse, authenticate, admit, forward."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, TypeVar

import flask
import requests

from pyworker.contract.handlers import named
from pyworker.data_types import WITHOUT_BODY, ApiPayload, AuthData
from pyworker.errors import (
    ClientGone,
    ConfigError,
    ModelTimeout,
    ModelUnreachable,
    Overloaded,
    RequestError,
)
from pyworker.jobs import Job, JobCall, JobHandler
from pyworker.lifecycle.suspicion import FailureStreak
from pyworker.proxy.admission import AdmissionControl
from pyworker.proxy.auth import SignatureVerifier
from pyworker.proxy.cancellation import Cancellation
from pyworker.proxy.disconnect import DisconnectWatcher
from pyworker.proxy.envelope import Envelope
from pyworker.proxy.exchange import Exchange
from pyworker.proxy.history import History, reason_of, status_of, trace_of
from pyworker.proxy.open_exchanges import OpenExchanges
from pyworker.proxy.reception import Reception
from pyworker.proxy.route import Route as Route
from pyworker.proxy.verdict import NO_WORK, JobVerdict, ResponseVerdict
from pyworker.reporting.wire import Outcome
from pyworker.responses import Passed, checked, response_of
from pyworker.runtime.budget import Budget
from pyworker.runtime.log_limit import LogLimit
from pyworker.telemetry.recorder import Recorder
from pyworker.upstream.call import Aborted, ModelCall
from pyworker.upstream.client import NOTHING_LEFT_OUT, ModelClient
from pyworker.upstream.encoding import encode_payload
from pyworker.upstream.faults import error_of
from pyworker.wsgi_extensions import HELD, PRESENCE, Presence

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment

Responded = TypeVar("Responded")

logger = logging.getLogger(__name__)

#: The pipeline of an app is kept in `app.extensions` by this name.
PIPELINE = "pyworker.proxy.pipeline"


class Pipeline:
    """Serves the requests of every route. Thread-safe."""

    def __init__(
        self,
        *,
        verifier: SignatureVerifier,
        admission: AdmissionControl,
        reception: Reception,
        client: ModelClient,
        watcher: DisconnectWatcher,
        streak: FailureStreak,
        recorder: Recorder,
    ) -> None:
        self._verifier = verifier
        self._admission = admission
        self._reception = reception
        self._client = client
        self._watcher = watcher
        self._streak = streak
        self._recorder = recorder
        #: Also for the routes of sessions.
        self.bodies = reception.bodies
        self.open_exchanges = OpenExchanges()
        self._fault_lines = LogLimit()

    def serve(self, route: Route, request: flask.Request) -> flask.Response:
        """The model server's response to one request. Raises a `RequestError` for every other response."""
        handler, environ = route.handler, request.environ
        path = handler.endpoint
        if route.target is not None and not isinstance(handler, JobHandler):
            path = route.target.path(environ, request.view_args or {})

        def respond(exchange: Exchange, envelope: Envelope[ApiPayload]) -> flask.Response:
            if isinstance(handler, JobHandler):
                return self._perform(handler, request, envelope, exchange)
            kept = {"payload": envelope.payload} if route.takes_payload else {}
            model_response = self._forward(route, path, envelope, exchange, environ)
            made = handler.generate_client_response(request, model_response, **kept)
            response = checked(made, lambda: f"{named(handler)}.generate_client_response")
            return exchange.deliver(response, is_head=request.method == "HEAD")

        if route.places is None:
            return self._serve(route, environ, respond)
        return self._serve_open(route, route.places, environ, respond)

    def serve_passing(
        self, route: Route, passing: Callable[[requests.Response], Passed], environ: WSGIEnvironment
    ) -> tuple[Passed, Iterable[bytes]] | flask.Response:
        """The same for a route that passes the response on: what it is, and the body to iterate.

        A response without a body is still an object, which knows what its header block must not hold.
        """
        path = route.handler.endpoint if route.target is None else route.target.path(environ, {})

        def respond(
            exchange: Exchange, envelope: Envelope[ApiPayload]
        ) -> tuple[Passed, Iterable[bytes]] | flask.Response:
            passed = passing(self._forward(route, path, envelope, exchange, environ))
            if passed.status in (204, 304):
                return exchange.deliver(response_of(passed))
            return passed, exchange.pass_on(passed)

        return self._serve(route, environ, respond)

    def _serve_open(
        self,
        route: Route,
        places: Budget,
        environ: WSGIEnvironment,
        respond: Callable[[Exchange, Envelope[ApiPayload]], flask.Response],
    ) -> flask.Response:
        """As `_serve`, for a route that anybody may call."""
        if not places.take():
            error = Overloaded(
                "too busy: as many requests without a signature are in hand as are allowed",
                requests_in_hand=self._admission.in_hand,
                estimated_wait=self._admission.estimated_wait(),
            )
            History(route.handler.endpoint, environ, self._recorder).refuse(error.status, error.message)
            raise error
        try:
            response = self._serve(route, environ, respond)
        except BaseException:
            places.give_back()
            raise
        exchange: Exchange = environ[HELD]
        exchange.call_at_end(places.give_back)
        return response

    def _serve(
        self,
        route: Route,
        environ: WSGIEnvironment,
        respond: Callable[[Exchange, Envelope[ApiPayload]], Responded],
    ) -> Responded:
        history = History(route.handler.endpoint, environ, self._recorder)
        try:
            received = self._reception.receive(route, environ)
            envelope, session = received.envelope, received.session
            # Nothing is counted or reported before this line.
            tracker = self._admission.admit(
                envelope.auth_data, envelope.payload, received.kind, route.max_queue_time
            )
        except RequestError as error:
            history.refuse(error.status, error.reason)
            raise
        history.stopwatch.admit()
        registers = [self.open_exchanges] if session is None else [self.open_exchanges, session]
        call = JobCall() if isinstance(route.handler, JobHandler) else ModelCall()
        exchange = Exchange(tracker, route.admission.enter(), self._watcher, registers, call)
        environ[HELD] = exchange
        try:
            self._await_slot(route, environ, exchange)
            history.stopwatch.start()
            response = respond(exchange, envelope)
            history.stopwatch.respond()
            exchange.call_at_end(lambda: self._ended(exchange, history))
            return response
        except BaseException as error:
            exchange.fail()
            self._streak.ended(tracker.outcome, error)
            told = _told(exchange, error)
            history.end(tracker, status_of(told), reason_of(told))
            if told is not error:
                raise told from error
            if isinstance(error, (ModelUnreachable, ModelTimeout)):
                self._log_fault(error, exchange.tracker.request_idx, route.handler.endpoint)
            raise

    def _ended(self, exchange: Exchange, history: History) -> None:
        self._streak.ended(exchange.tracker.outcome)
        history.end(exchange.tracker, exchange.status, exchange.problem, exchange.events)

    def _log_fault(self, error: RequestError, request_idx: int, endpoint: str) -> None:
        text = error.message
        if (more := self._fault_lines.suffix(text)) is not None:
            logger.warning("%d request %d: %s: %s%s", error.status, request_idx, endpoint, text, more)

    def authenticate(self, auth_data: AuthData) -> None:
        """Raise `Unauthorized` or `NotReady` if this client cannot be served now."""
        self._verifier.verify(auth_data)
        self._admission.require_ready()

    def _await_slot(self, route: Route, environ: WSGIEnvironment, exchange: Exchange) -> None:
        """Wait for the request's turn; from here on the client is watched."""
        presence: Presence | None = environ.get(PRESENCE)
        if presence is not None:
            exchange.watch(presence)
        if not exchange.slot.wait(route.max_queue_time):
            exchange.tracker.end(Outcome.REJECTED)
            raise self._admission.too_late(route.max_queue_time)
        if exchange.call.aborted:
            raise Aborted
        exchange.tracker.start_work()

    def _forward(
        self,
        route: Route,
        path: str,
        envelope: Envelope[ApiPayload],
        exchange: Exchange,
        environ: WSGIEnvironment,
    ) -> requests.Response:
        handler, target = route.handler, route.target
        payload = envelope.take_payload()
        hidden = handler.hidden_events(payload)
        bodiless = handler.method in WITHOUT_BODY
        body, content_type = (b"", "") if bodiless else encode_payload(handler, payload)
        if route.on_cancel is not None:
            exchange.tell_if_cancelled(Cancellation(self._client, handler.endpoint, route.on_cancel, payload))
        # A large payload is in memory once at most while the model works.
        del payload
        trace = trace_of(environ)
        if target is not None and target.left_out:
            trace = [*trace, *target.headers(environ)]
        model_response = self._client.forward(
            path,
            body,
            exchange.call,
            method=handler.method,
            content_type=content_type,
            timeout=handler.timeout,
            trace=trace,
            left_out=NOTHING_LEFT_OUT if target is None else target.left_out,
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
        silence = self._client.timeout if handler.timeout is None else handler.timeout
        job = Job(self._client, call, silence, request)
        exchange.hold(None, JobVerdict(job))
        call.begin()
        try:
            response = handler.run(envelope.take_payload(), job, lambda: named(handler))
        except RequestError as error:
            if error.status < 500:  # the client's fault, not the model server's
                exchange.tracker.end(Outcome.SUCCESS, work=NO_WORK)
            raise
        except requests.exceptions.RequestException as error:
            raise error_of(error) or error from error
        exchange.slot.release()  # the model server is done, however slowly the client reads
        return exchange.deliver(response)


def pipeline_of(app: flask.Flask) -> Pipeline:
    """The pipeline of an app. Raises `ConfigError` for one that `create_app` did not make."""
    pipeline: Pipeline | None = app.extensions.get(PIPELINE)
    if pipeline is None:
        raise ConfigError("this app has no pipeline: make it with pyworker.create_app")
    return pipeline


def _told(exchange: Exchange, error: BaseException) -> BaseException:
    """What the client is told: the error itself, unless that only follows from the end of the request."""
    if exchange.gone and isinstance(error, Exception):
        return ClientGone("the client hung up")
    if exchange.aborted is not None and isinstance(error, Exception):
        return exchange.aborted.error()
    return error
