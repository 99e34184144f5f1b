"""Encodes payloads for the model server as strict JSON: NaN and infinity are errors."""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Mapping
from typing import Any, cast

import pydantic_core

from pyworker.errors import Unprocessable

# Values of a large payload that are checked one by one before its encoded text is searched instead: enough
# for a picture or prompt among its settings, at little cost beside encoding them.
_MAX_CHECKED = 1000
_LARGE = 64 * 1024
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
