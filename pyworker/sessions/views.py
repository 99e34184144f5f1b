"""The views of sessions: for clients, and `/session/end` also for the model server on the loopback port."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import flask
import pydantic_core

from pyworker.data_types import AuthData
from pyworker.errors import JsonDataException, UnknownSession, Unprocessable
from pyworker.proxy.envelope import parse_envelope, parse_object
from pyworker.proxy.pipeline import Pipeline
from pyworker.sessions.store import Sessions, Terms
from pyworker.validation import STRICT, parse_fields

# Bytes. No request here is large, and some are read without a signature.
_MAX_BODY = 2**20
# A path on the model server, or a loopback URL that no parser can take for another host's.
_PATH = re.compile(r"/(?!/)[!-~]*")
_LOOPBACK_URL = re.compile(
    r"https?://(127\.[0-9.]{5,11}|\[::1\]|localhost)(?::([0-9]{1,5}))?(?:/[!-~]*)?", re.IGNORECASE
)


def is_close_route(route: str) -> bool:
    """Whether a callback to this route stays on this machine."""
    if _PATH.fullmatch(route):
        return True
    found = _LOOPBACK_URL.fullmatch(route)
    if found is None:
        return False
    host, port = found[1], found[2]
    if host.startswith("127."):
        try:
            ipaddress.IPv4Address(host)
        except ValueError:
            return False
    return port is None or 1 <= int(port) <= 65535


@dataclass(frozen=True)
class SessionRequest:
    """The body of the other routes. `session_auth` is compared with the session's later."""

    __pydantic_config__ = STRICT

    session_id: str
    session_auth: object = None

    @property
    def auth_data(self) -> AuthData | None:
        """`session_auth`, parsed; None if it is no `auth_data`."""
        try:
            return AuthData.from_json_msg(cast("Mapping[str, Any]", self.session_auth))
        except Unprocessable:
            return None


class SessionViews:
    """One method for each view. Thread-safe."""

    def __init__(self, pipeline: Pipeline, sessions: Sessions) -> None:
        self._pipeline = pipeline
        self._sessions = sessions

    def blueprint(self) -> flask.Blueprint:
        """The routes for clients."""
        blueprint = flask.Blueprint("sessions", __name__, url_prefix="/session")
        for view in (self.create, self.get, self.health, self.end):
            blueprint.add_url_rule(f"/{view.__name__}", view_func=view, methods=["POST"])
        return blueprint

    def create(self) -> flask.Response:
        """Open a session."""
        with self._pipeline.bodies.reading(flask.request.environ, _MAX_BODY) as body:
            envelope = parse_envelope(body, Terms)
            route = envelope.payload.on_close_route
            if route is not None and not is_close_route(route):
                fault = "must be a path on the model server, such as /done, or a URL on a loopback address"
                raise JsonDataException({"payload": {"on_close_route": fault}})
            self._pipeline.authenticate(envelope.auth_data)
            as_sent = pydantic_core.from_json(body)["auth_data"]
            session = self._sessions.create(envelope.auth_data, as_sent, envelope.payload)
        expiration = self._sessions.expiration(session)
        return flask.make_response(flask.jsonify(session_id=session.id, expiration=expiration), 201)

    def get(self) -> flask.Response:
        """Describe a session."""
        wanted = self._session_request()
        session = self._sessions.get(wanted.session_id, wanted.auth_data)
        return flask.jsonify(
            session_id=session.id,
            auth_data=session.raw_auth_data,
            lifetime=session.terms.lifetime,
            expiration=self._sessions.expiration(session),
            created_at=session.created_at,
            on_close_route=session.terms.on_close_route,
            on_close_payload=session.terms.on_close_payload,
        )

    def health(self) -> flask.Response:
        """Whether a session is open."""
        wanted = self._session_request()
        try:
            self._sessions.get(wanted.session_id, wanted.auth_data)
        except UnknownSession:
            return flask.jsonify(ok=False)
        return flask.jsonify(ok=True)

    def end(self) -> flask.Response:
        """Close a session."""
        wanted = self._session_request()
        self._sessions.end(wanted.session_id, wanted.auth_data)
        return flask.jsonify(ended=True, removed_session=wanted.session_id)

    def _session_request(self) -> SessionRequest:
        with self._pipeline.bodies.reading(flask.request.environ, _MAX_BODY) as body:
            return parse_fields(SessionRequest, parse_object(body))
