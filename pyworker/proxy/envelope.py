"""Parses the client's body: `auth_data`, payload and session id."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

import pydantic_core
from pydantic import ValidationError

from pyworker.data_types import ApiPayload, AuthData
from pyworker.errors import JsonDataException, Unprocessable
from pyworker.validation import MISSING_PARAMETER, STRICT, faults_left_out, field_faults, validate_json

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment

MISSING_PART = "field missing"
#: The header of a request without a body: `auth_data` as JSON.
AUTH_DATA_HEADER = "X-Auth-Data"

#: The type of the payload: a route's payload class, or a plain dataclass.
T = TypeVar("T")


@dataclass
class Envelope(Generic[T]):
    """One request, parsed."""

    auth_data: AuthData
    _payload: T | None
    session_id: str | None

    @property
    def payload(self) -> T:
        """The payload."""
        assert self._payload is not None, "the payload was taken"
        return self._payload

    def take_payload(self) -> T:
        """The payload, which the envelope no longer holds, so that a large one is freed once it was sent."""
        payload, self._payload = self.payload, None
        return payload


def parse_envelope(body: bytes, payload_cls: type[T]) -> Envelope[T]:
    """Parse a body in one strict pass: no NaN, no lone surrogate, bounded depth and integers.

    Raises `Unprocessable` if the body is no JSON object, and `JsonDataException` with a message for each
    field at fault, of all parts at once.
    """
    try:
        parts = validate_json(_parts(payload_cls), body)
    except ValidationError as error:
        raise _translated(error, body, payload_cls) from None
    payload = parts.payload
    own_parser = _own_parser(payload_cls)
    if own_parser is not None:
        try:
            payload = own_parser(payload)
        except JsonDataException as error:
            raise JsonDataException({"payload": error.json_msg}, more=error.more) from None
    return Envelope(parts.auth_data, payload, parts.session_id)


def auth_data_in(environ: WSGIEnvironment) -> AuthData | None:
    """The `auth_data` of a request without a body; None if it has none. Raises `Unprocessable`."""
    text: str | None = environ.get("HTTP_X_AUTH_DATA")
    if text is None:
        return None
    try:
        return AuthData.from_json_msg(parse_object(text.encode("latin-1", "replace")))
    except JsonDataException as error:
        raise JsonDataException({AUTH_DATA_HEADER: error.json_msg}, more=error.more) from None


@functools.cache
def _own_parser(payload_cls: type[Any]) -> Callable[[dict[str, Any]], Any] | None:
    """The class's own `from_json_msg`; None if it inherits that of `ApiPayload`."""
    if not issubclass(payload_cls, ApiPayload):
        return None
    own: Any = payload_cls.from_json_msg
    inherited: Any = ApiPayload.from_json_msg
    return None if own.__func__ is inherited.__func__ else own


@functools.cache
def _parts(payload_cls: type[Any]) -> type[Any]:
    """The type of the whole body. A class with its own `from_json_msg` gets a plain object."""
    return dataclasses.make_dataclass(
        "Parts",
        [
            ("auth_data", AuthData),
            ("payload", payload_cls if _own_parser(payload_cls) is None else dict[str, Any]),
            ("session_id", str | None, None),
        ],
        namespace={"__pydantic_config__": STRICT},
    )


def _translated(error: ValidationError, body: bytes, payload_cls: type[Any]) -> Unprocessable:
    fields = parse_object(body, allow_inf_nan=True)  # a field that holds NaN is reported below
    faults: dict[str, Any] = {}
    for (part, *path), fault in field_faults(error, fields):
        if path:
            faults.setdefault(part, {})[".".join(path)] = fault
        else:
            faults[part] = MISSING_PART if fault == MISSING_PARAMETER else fault
    own_parser = _own_parser(payload_cls)
    if "payload" not in faults and own_parser is not None:
        try:
            own_parser(fields["payload"])
        except JsonDataException as own:
            faults["payload"] = own.json_msg
    return JsonDataException(faults, more=faults_left_out(error))


def parse_object(body: bytes, *, allow_inf_nan: bool = False) -> dict[str, Any]:
    """Parse a JSON object. Raises `Unprocessable` with the fault and its place, without quoting the body."""
    try:
        message: object = pydantic_core.from_json(body, allow_inf_nan=allow_inf_nan)
    except ValueError as error:
        raise Unprocessable(f"invalid JSON: {_explained(str(error), body)}") from error
    if not isinstance(message, dict):
        raise Unprocessable(f"invalid JSON: expected an object, not {_KIND.get(type(message), 'a number')}")
    return cast("dict[str, Any]", message)


_KIND: Mapping[type[Any], str] = {
    list: "an array",
    str: "a string",
    bool: "true or false",
    type(None): "null",
}
# The parser's messages in plain words.
_EXPLANATIONS = {
    "invalid unicode code point": "not UTF-8",
    "lone leading surrogate in hex escape": "half a character (a lone surrogate)",
    "unexpected end of hex escape": "half a character (a lone surrogate), or an escape that is cut",
}


def _explained(problem: str, body: bytes) -> str:
    if body.startswith((b"\xff\xfe", b"\xfe\xff")):
        return "it is UTF-16; send UTF-8"
    if not body.strip():
        return "the body is empty"
    what, at, place = problem.partition(" at line ")
    return f"{_EXPLANATIONS.get(what, what)}{at}{place}"
