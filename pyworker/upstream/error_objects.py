"""Error objects that model servers send with status 200, found in a sample of the body. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import cast

from pyworker.runtime.sample import EVENT_STREAM, ResponseSample

_DONE = b"[DONE]"
_UNNAMED = "the model server names no cause"


def error_in(response: ResponseSample) -> str:
    """The message, if the body or the last event of a stream is an error object; else empty.

    An error object is a JSON object with a non-empty top-level `error`. Bodies with a content coding, and
    JSON bodies larger than a sample, are not examined.
    """
    if response.content_type.partition(";")[0].strip().lower() == EVENT_STREAM:
        return _message(_last_event(response))
    return _message(response.beginning) if response.is_whole else ""


def _message(text: bytes) -> str:
    """The message of an error object; empty for all other texts."""
    if not text.lstrip().startswith(b"{"):
        return ""
    try:
        value: object = json.loads(text)
    except (ValueError, RecursionError):
        return ""
    error = cast("Mapping[str, object]", value).get("error") if isinstance(value, dict) else None
    if not error:
        return ""
    if isinstance(error, dict):
        error = cast("Mapping[str, object]", error).get("message") or _UNNAMED
    return error if isinstance(error, str) else _UNNAMED


def _last_event(response: ResponseSample) -> bytes:
    """The data of the last event but `[DONE]`."""
    lines = response.end.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
    if not response.is_whole:
        del lines[0]  # its beginning was not sampled
    last = b""
    data: list[bytes] = []
    for line in [*lines, b""]:  # the last event may lack its empty line
        if line.startswith(b"data:"):
            data.append(line[5:].removeprefix(b" "))
        elif not line and data:
            event, data = b"\n".join(data), []
            last = last if event.strip() == _DONE else event
    return last
