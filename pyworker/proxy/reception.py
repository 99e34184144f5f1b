"""What a client has sent, once it is authenticated: in the signed envelope, or with an API key."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pyworker.data_types import ApiPayload, AuthData, Dialect, EndpointHandler
from pyworker.errors import InvalidSession, RequestError, Unauthorized
from pyworker.proxy.auth import SignatureVerifier
from pyworker.proxy.body import BodyReader
from pyworker.proxy.door import DIRECT, Door, is_enveloped, parse_plain, seems_enveloped
from pyworker.proxy.envelope import AUTH_DATA_HEADER, Envelope, auth_data_in, parse_envelope
from pyworker.proxy.open_exchanges import OpenExchanges
from pyworker.proxy.route import Route, Way
from pyworker.reporting.tracker import Kind

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment


@dataclass(frozen=True)
class Received:
    """session: the open exchanges of the session that the request belongs to; kind: how it counts."""

    envelope: Envelope[ApiPayload]
    session: OpenExchanges | None
    kind: Kind


class Reception:
    """Reads, parses and authenticates requests. Thread-safe.

    extend_session: extends the session of this id and returns its open exchanges; None if there is no such
    session of this client.
    """

    def __init__(
        self,
        verifier: SignatureVerifier,
        bodies: BodyReader,
        door: Door,
        extend_session: Callable[[str, AuthData], OpenExchanges | None],
    ) -> None:
        self._verifier = verifier
        self._door = door
        self._extend_session = extend_session
        self.bodies = bodies

    def receive(self, route: Route, environ: WSGIEnvironment) -> Received:
        """Raises a `RequestError` for a request that is malformed, or whose sender is not known."""
        way = route.way
        if way is Way.ENVELOPE and not self._verifier.unsecured:
            with self.bodies.reading(environ) as body:
                return self._opened(route, body)
        if way is Way.WITHOUT_BODY:
            return self._receive_bodiless(route.handler, environ)
        if way is Way.PLAIN:
            return self._receive_plain(route, environ)
        return self._receive_either(route, environ)

    def _opened(self, route: Route, body: bytes) -> Received:
        """What is in an envelope."""
        envelope: Envelope[ApiPayload] = parse_envelope(body, route.payload_cls)
        session = self._authenticate(envelope)
        if route.undeclared is not None:
            route.undeclared.look(body, is_enveloped=True)
        return Received(envelope, session, Kind.REQUEST if session is None else Kind.IN_SESSION)

    def _bare(self, route: Route, body: bytes, environ: WSGIEnvironment) -> Received:
        """What came without an envelope."""
        payload = parse_plain(body, environ.get("CONTENT_TYPE", ""), route.payload_cls)
        if route.undeclared is not None:
            route.undeclared.look(body, is_enveloped=False)
        return Received(self._door.envelope(payload), None, Kind.DIRECT)

    def _receive_plain(self, route: Route, environ: WSGIEnvironment) -> Received:
        """A bare body with an API key; or an envelope, whose clients send keys of their own, too."""
        if not self._door.admits(environ):
            if route.handler.is_open or self._verifier.unsecured:
                return self._receive_either(route, environ)
            try:
                with self.bodies.reading(environ) as body:
                    return self._opened(route, body)
            except RequestError as error:
                raise self._door.refusal(environ) or error from error
        with self.bodies.reading(environ, is_signed=True) as body:
            if is_enveloped(body):
                self._door.forget(environ)
                return self._opened(route, body)
            return self._bare(route, body, environ)

    def _receive_either(self, route: Route, environ: WSGIEnvironment) -> Received:
        """An envelope, which is checked as ever, or a bare body of anybody."""
        with self.bodies.reading(environ, is_signed=self._verifier.unsecured) as body:
            if seems_enveloped(body, route.payload_cls):
                return self._opened(route, body)
            if route.handler.dialect is Dialect.OPENAI:
                environ[DIRECT] = True
            return self._bare(route, body, environ)

    def _receive_bodiless(self, handler: EndpointHandler[Any], environ: WSGIEnvironment) -> Received:
        """A request without a body: API key or signature are in its header."""
        payload: ApiPayload = handler.payload_cls().from_json_msg({})
        if not self._door.admits(environ):
            auth_data = auth_data_in(environ)
            if auth_data is not None:
                self._verifier.verify(auth_data)
            elif not (handler.is_open or self._verifier.unsecured):
                raise self._door.refusal(environ) or Unauthorized(
                    f"neither an API key nor a signature in the header {AUTH_DATA_HEADER}"
                )
        return Received(self._door.envelope(payload), None, Kind.DIRECT)

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

    def __repr__(self) -> str:
        return f"<Reception {self._verifier!r} {self._door!r}>"
