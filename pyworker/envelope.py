"""The client's body, read and taken apart: who signed it, what is meant for the model, which session."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar, cast

import flask
import pydantic_core
from werkzeug.exceptions import ClientDisconnected

from pyworker.data_types import MISSING_PART, AuthData, JsonDataException, Payload
from pyworker.errors import BadRequest, BodyTooLarge, Unprocessable

T = TypeVar("T")

_NOT_AN_OBJECT = "must be an object"


@dataclass(frozen=True)
class Envelope(Generic[Payload]):
    """One request as its client sent it."""

    auth_data: AuthData
    payload: Payload
    session_id: str | None


def read_body(request: flask.Request, limit: int) -> bytes:
    """The whole body. Raises `BodyTooLarge`, or `BadRequest` where it ended early."""
    declared = request.content_length
    if declared is not None and declared > limit:
        raise BodyTooLarge(f"the body has {declared} bytes; at most {limit} are allowed")
    try:
        body = request.get_data(cache=False)
    except (OSError, ClientDisconnected) as error:
        raise BadRequest("the body could not be read to its end") from error
    if declared is not None and len(body) != declared:
        raise BadRequest(f"the body ended after {len(body)} of {declared} bytes")
    return body


def parse_json_object(body: bytes) -> Mapping[str, Any]:
    """Strict JSON: no NaN, no lone surrogate, bounded depth and integers. Raises `Unprocessable`."""
    try:
        decoded: object = pydantic_core.from_json(body, allow_inf_nan=False)
    except ValueError as error:
        raise Unprocessable("invalid JSON") from error
    if not isinstance(decoded, dict):
        raise Unprocessable("invalid JSON")
    return cast("Mapping[str, Any]", decoded)


def parse_envelope(message: Mapping[str, Any], payload_cls: type[Payload]) -> Envelope[Payload]:
    """Raises `JsonDataException` with a message for each field at fault, of both parts at once."""
    faults: dict[str, str | Mapping[str, object]] = {}
    auth_data = _part(message, "auth_data", AuthData.from_json_msg, faults)
    payload = _part(message, "payload", payload_cls.from_json_msg, faults)
    session_id: object = message.get("session_id")
    if session_id is not None and not isinstance(session_id, str):
        faults["session_id"] = "must be a string or null"
        session_id = None
    if auth_data is None or payload is None or faults:
        raise JsonDataException(faults)
    return Envelope(auth_data, payload, session_id)


def _part(
    message: Mapping[str, Any],
    name: str,
    parse: Callable[[Mapping[str, Any]], T],
    faults: dict[str, str | Mapping[str, object]],
) -> T | None:
    if name not in message:
        faults[name] = MISSING_PART
        return None
    part = message[name]
    if not isinstance(part, dict):
        faults[name] = _NOT_AN_OBJECT
        return None
    try:
        return parse(cast("Mapping[str, Any]", part))
    except JsonDataException as error:
        faults[name] = error.json_msg
        return None
