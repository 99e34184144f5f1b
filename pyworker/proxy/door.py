"""Clients of the OpenAI API: who may call, what they send in place of the envelope, and errors in its
shape.
"""

from __future__ import annotations

import hashlib
import hmac
import itertools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

from werkzeug.http import parse_options_header

from pyworker.data_types import ApiPayload, AuthData, OpenPayload
from pyworker.errors import (
    JsonDataException,
    RequestError,
    Unauthorized,
    Unprocessable,
    UnsupportedCoding,
)
from pyworker.proxy.envelope import Envelope, parse_object
from pyworker.proxy.forms import FORM_DATA, parse_form

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment

#: Set in the environ of a request of such a client.
DIRECT = "pyworker.direct"
_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
}


class Door:
    """Knows the keys by their SHA-256. Without any it is closed. Thread-safe."""

    def __init__(self, digests: Sequence[str]) -> None:
        """digests: in hexadecimal."""
        self._digests = [digest.lower() for digest in digests]
        # What a request is called in the log. The indices of the autoscaler are not negative.
        self._numbers = itertools.count(-1, -1)

    def admits(self, environ: WSGIEnvironment) -> bool:
        """Whether the request has one of the keys. Takes the same time for any key."""
        key = _key_of(environ) if self._digests else ""
        if not key:
            return False
        digest = hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()
        is_known = False
        for known in self._digests:
            is_known |= hmac.compare_digest(digest, known)
        if is_known:
            environ[DIRECT] = True
        return is_known

    def forget(self, environ: WSGIEnvironment) -> None:
        """The request came in an envelope: its errors are those of any other."""
        environ.pop(DIRECT, None)

    def refusal(self, environ: WSGIEnvironment) -> Unauthorized | None:
        """The error for a request with an unknown key that is not signed either; None if it has no key."""
        if not self._digests or not _key_of(environ):
            return None
        environ[DIRECT] = True
        return Unauthorized("the API key is not known to this worker")

    def envelope(self, payload: ApiPayload | None) -> Envelope[ApiPayload]:
        """An envelope around what such a client has sent."""
        auth_data = AuthData("", "", "", 0, next(self._numbers))
        return Envelope(auth_data, payload, None)

    def __repr__(self) -> str:
        return f"<Door [{len(self._digests)} keys]>"


def _key_of(environ: WSGIEnvironment) -> str:
    scheme, _, key = environ.get("HTTP_AUTHORIZATION", "").partition(" ")
    # The second is how clients of Anthropic's API send it, which engines serve too.
    return key.strip() if scheme.lower() == "bearer" else environ.get("HTTP_X_API_KEY", "")


def is_enveloped(body: bytes) -> bool:
    """Whether a client with a key has sent an envelope all the same, as clients of the fleet do."""
    return b'"auth_data"' in body and isinstance(parse_object(body).get("auth_data"), dict)


def seems_enveloped(body: bytes, payload_cls: type[ApiPayload]) -> bool:
    """Whether this is an envelope rather than a bare payload: it has both of its parts, or one of them that
    is no field of the payload.
    """
    if b'"auth_data"' not in body and b'"payload"' not in body:
        return False
    try:
        found = {"auth_data", "payload"} & parse_object(body).keys()
    except Unprocessable:
        return False
    return len(found) == 2 or bool(found - getattr(payload_cls, "__dataclass_fields__", {}).keys())


def parse_plain(body: bytes, content_type: str, payload_cls: type[ApiPayload]) -> ApiPayload:
    """The payload of a body that is a JSON object or a form. Raises `Unprocessable`, or `UnsupportedCoding`
    for a form that the route does not take.
    """
    mimetype, options = parse_options_header(content_type)
    if mimetype.lower() == FORM_DATA:
        if not issubclass(payload_cls, OpenPayload):
            raise UnsupportedCoding("this route takes JSON, no form")
        return payload_cls.from_form(parse_form(body, options))
    return payload_cls.from_json_msg(parse_object(body))


def openai_error(status: int, message: str, error: Exception | None = None) -> Mapping[str, object]:
    """An error body as OpenAI's API has it: message, type, the parameter at fault, code."""
    parameter: str | None = None
    figures: Mapping[str, object] = {}
    if isinstance(error, JsonDataException):
        names = list(error.json_msg)
        parameter = names[0] if names else None
        details = "; ".join(f"{name}: {_text(fault)}" for name, fault in error.json_msg.items())
        message = f"{message} ({details})" if details else message
    elif isinstance(error, RequestError):
        figures = {name: value for name, value in error.body().items() if name != "error"}
    kind = _TYPES.get(status, "server_error" if status >= 500 else "invalid_request_error")
    code = "invalid_api_key" if status == 401 else None
    return {"error": {**figures, "message": message, "type": kind, "param": parameter, "code": code}}


def _text(fault: object) -> str:
    if isinstance(fault, dict):
        faults = cast("Mapping[str, Any]", fault)
        return ", ".join(f"{name}: {_text(inner)}" for name, inner in faults.items())
    return str(fault)
