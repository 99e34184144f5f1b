"""Routes, and their responses as the engines write them: JSON and server-sent events."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping

import flask

View = Callable[[], flask.Response]
DONE = "data: [DONE]\n\n"


def route(app: flask.Flask, path: str, view: View, method: str = "POST") -> None:
    """Serve `path` with this view; its endpoint has the path's name."""
    app.add_url_rule(path, path, view, methods=[method])


def compact(value: object) -> str:
    """JSON without blanks."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


def data(value: object) -> str:
    """An event without a name."""
    return f"data: {compact(value)}\n\n"


def named(value: Mapping[str, object]) -> str:
    """An event that is named by its `type`."""
    return f"event: {value['type']}\n{data(value)}"


def stream(pieces: Iterable[str]) -> flask.Response:
    """The response that sends events as they come."""
    response = flask.Response(pieces, content_type="text/event-stream; charset=utf-8")
    response.headers["Cache-Control"] = "no-cache"
    return response


def whole(value: object, status: int = 200) -> flask.Response:
    """The response with this JSON, its keys in the order given."""
    return flask.Response(compact(value), status, content_type="application/json")
