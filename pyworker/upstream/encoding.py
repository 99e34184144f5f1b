"""Encodes payloads for the model server: as strict JSON, where NaN and infinity are errors, or as a form."""

from __future__ import annotations

import json
import math
import secrets
from collections.abc import Collection, Mapping
from typing import Any, cast

import pydantic_core
from urllib3.fields import RequestField
from urllib3.filepost import encode_multipart_formdata

from pyworker.data_types import ApiPayload, EndpointHandler, Form
from pyworker.errors import Unprocessable

# Values of a large payload that are checked one by one before its encoded text is searched instead: enough
# for a picture or prompt among its settings, at little cost beside encoding them.
_MAX_CHECKED = 1000
_LARGE = 64 * 1024
#: The Content-Type of a payload that is not a form.
JSON = "application/json"
_STRICT = json.JSONEncoder(allow_nan=False)


def encode(payload: object) -> bytes:
    """The payload as JSON, without a second copy of a large one.

    Raises `Unprocessable` for a number or text that JSON cannot represent.
    """
    try:
        encoded = pydantic_core.to_json(payload)
        # Searching 10 MB takes longer than encoding them.
        if len(encoded) > _LARGE and _is_surely_finite(payload):
            return encoded
        if b"NaN" in encoded or b"Infinity" in encoded:
            # The word may be in a text: only the strict encoder can tell.
            return _STRICT.encode(payload).encode()
        return encoded
    except ValueError as error:
        raise Unprocessable("the payload holds something that JSON cannot carry") from error


def encode_payload(handler: EndpointHandler[Any], payload: ApiPayload) -> tuple[bytes, str]:
    """The body that the handler makes of a payload, and its Content-Type. Raises `Unprocessable`."""
    form = handler.generate_payload_multipart(payload)
    if form is not None:
        return encode_form(form)
    return encode(handler.generate_payload_json(payload)), JSON


def encode_form(form: Form) -> tuple[bytes, str]:
    """The form as multipart/form-data, and its Content-Type with the boundary."""
    parts = [_part(name, text.encode()) for name, text in form.fields]
    for name, upload in form.uploads:
        parts.append(_part(name, upload.data, upload.filename, upload.content_type or None))
    # Random, so that no client can send a file that holds it.
    return encode_multipart_formdata(parts, boundary=secrets.token_hex(16))


def _part(
    name: str, data: bytes, filename: str | None = None, content_type: str | None = None
) -> RequestField:
    part = RequestField(name, data, filename)
    part.make_multipart(content_type=content_type)
    return part


def _is_surely_finite(payload: object) -> bool:
    """Whether all numbers are finite; also False if there are too many values to check."""
    left: list[Any] = [payload]
    for _ in range(_MAX_CHECKED):
        if not left:
            return True
        value = left.pop()
        if isinstance(value, float):
            if not math.isfinite(value):
                return False
        elif isinstance(value, Mapping | list | tuple):
            inner = cast("Collection[Any]", value.values() if isinstance(value, Mapping) else value)
            if len(left) + len(inner) > _MAX_CHECKED:
                return False
            left += inner
        elif value is not None and not isinstance(value, str | int):
            return False
    return False
