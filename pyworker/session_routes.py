"""The routes of sessions: for clients, and `/session/end` once more for the model server on this machine."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, cast

import flask
import pydantic_core
from pydantic import Field

from pyworker.data_types import AuthData
from pyworker.envelope import parse_envelope, parse_object
from pyworker.errors import JsonDataException, UnknownSession, Unprocessable
from pyworker.pipeline import Pipeline
from pyworker.sessions import Sessions, Terms
from pyworker.validation import STRICT, parse_fields

_MAX_LIFETIME = 7 * 24 * 3600.0
# Nothing here is large; what is asked without a signature least of all.
_MAX_BODY = 2**20
# A path on the model server, or a URL that cannot be read as one of another host, however it is parsed.
_PATH = re.compile(r"/(?!/)[!-~]*")
_LOOPBACK_URL = re.compile(
    r"https?://(127\.[0-9.]{5,11}|\[::1\]|localhost)(?::([0-9]{1,5}))?(?:/[!-~]*)?", re.IGNORECASE
)


@dataclass(frozen=True)
class CreateRequest:
    """The payload of `/session/create`."""

    __pydantic_config__ = STRICT

    lifetime: Annotated[float, Field(gt=0, le=_MAX_LIFETIME)] = 60.0
    on_close_route: str | None = None
    on_close_payload: dict[str, Any] | None = None

    def terms(self) -> Terms:
        """Raises `JsonDataException`."""
        if self.on_close_route is not None and not _is_close_route(self.on_close_route):
            fault = "must be a path on the model server, such as /done, or a URL on a loopback address"
            raise JsonDataException({"payload": {"on_close_route": fault}})
        return Terms(self.lifetime, self.on_close_route, self.on_close_payload)


def _is_close_route(route: str) -> bool:
    """Whether the callback cannot leave this machine by it."""
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
    """What the other routes are asked with. Whether `session_auth` is the session's shows later."""

    __pydantic_config__ = STRICT

    session_id: str
    session_auth: object = None

    @property
    def auth_data(self) -> AuthData | None:
        """None where it is no `auth_data` at all."""
        try:
            return AuthData.from_json_msg(cast("Mapping[str, Any]", self.session_auth))
        except Unprocessable:
            return None


class SessionViews:
    """The views, each a method. Thread-safe."""

    def __init__(self, pipeline: Pipeline, sessions: Sessions) -> None:
        self._pipeline = pipeline
        self._sessions = sessions

    def blueprint(self) -> flask.Blueprint:
        """Every route, for clients."""
        blueprint = flask.Blueprint("sessions", __name__, url_prefix="/session")
        for view in (self.create, self.get, self.health, self.end):
            blueprint.add_url_rule(f"/{view.__name__}", view_func=view, methods=["POST"])
        return blueprint

    def create(self) -> flask.Response:
        """Open a session for a client with a good signature."""
        with self._pipeline.bodies.reading(flask.request, _MAX_BODY) as body:
            envelope = parse_envelope(body, CreateRequest)
            terms = envelope.payload.terms()
            self._pipeline.authenticate(envelope.auth_data)
            session = self._sessions.create(envelope.auth_data, _raw_auth_data(body), terms)
        answer = flask.jsonify(session_id=session.id, expiration=self._sessions.expiration(session))
        answer.status_code = 201
        return answer

    def get(self) -> flask.Response:
        """What is known of a session."""
        asked = self._asked()
        session = self._sessions.get(asked.session_id, asked.auth_data)
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
        asked = self._asked()
        try:
            self._sessions.get(asked.session_id, asked.auth_data)
        except UnknownSession:
            return flask.jsonify(ok=False)
        return flask.jsonify(ok=True)

    def end(self) -> flask.Response:
        """Close a session."""
        asked = self._asked()
        self._sessions.end(asked.session_id, asked.auth_data)
        return flask.jsonify(ended=True, removed_session=asked.session_id)

    def _asked(self) -> SessionRequest:
        with self._pipeline.bodies.reading(flask.request, _MAX_BODY) as body:
            return parse_fields(SessionRequest, parse_object(body))


def _raw_auth_data(body: bytes) -> dict[str, Any]:
    """As it was sent, of a body that was parsed before."""
    return pydantic_core.from_json(body)["auth_data"]
