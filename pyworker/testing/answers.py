"""What the model server answers to a request."""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

#: Bytes are sent, an event is waited for.
Step = bytes | threading.Event
#: A JSON value, a text, or bytes.
Body = object

_JSON = "application/json"
_EVENTS = "text/event-stream"


@dataclass(frozen=True)
class Answer:
    """One response. begin: waited for before its first byte; length: of the body in bytes, None: chunked;
    is_cut: the connection ends after the last step.
    """

    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict[str, str])
    steps: Sequence[Step] = ()
    begin: threading.Event | None = None
    length: int | None = None
    is_cut: bool = False


def whole(
    body: Body = "",
    status: int = 200,
    *,
    headers: Mapping[str, str] | None = None,
    after: threading.Event | None = None,
) -> Answer:
    """A response with a length. after: waited for before it begins."""
    data, content_type = _encoded(body)
    fields = {"Content-Type": content_type, **(headers or {})}
    return Answer(status, fields, [data], after, len(data))


def error(status: int = 500, message: str = "the model has failed") -> Answer:
    """An error as model servers send them."""
    return whole({"error": message}, status)


def stream(
    *pieces: Body | threading.Event, is_cut: bool = False, after: threading.Event | None = None
) -> Answer:
    """Server-sent events, one for each piece: a JSON value or a text. Bytes are sent as they are; an event
    (`threading.Event`) is waited for. is_cut: the connection breaks behind the last piece.
    """
    steps = [piece if isinstance(piece, threading.Event) else _event(piece) for piece in pieces]
    return Answer(200, {"Content-Type": _EVENTS}, steps, after, None, is_cut)


def cut(body: Body = "half of what was to come") -> Answer:
    """A response that promises a length and ends, with its connection, after half of it."""
    data, content_type = _encoded(body)
    return Answer(200, {"Content-Type": content_type}, [data[: len(data) // 2]], None, len(data), is_cut=True)


def silent() -> Answer:
    """Nothing at all, until the worker hangs up."""
    return Answer(begin=threading.Event())


def _encoded(body: Body) -> tuple[bytes, str]:
    if isinstance(body, bytes):
        return body, "application/octet-stream"
    if isinstance(body, str):
        return body.encode(), "text/plain; charset=utf-8"
    return json.dumps(body).encode(), _JSON


def _event(piece: Body) -> bytes:
    if isinstance(piece, bytes):
        return piece
    text = piece if isinstance(piece, str) else json.dumps(piece)
    lines = "".join(f"data: {line}\n" for line in text.split("\n"))
    return f"{lines}\n".encode()
