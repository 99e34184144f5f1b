"""Routes that pass the response on, past Flask's objects: the same bytes as with them, in every case."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from typing import Any

import flask
import pytest
from werkzeug.test import EnvironBuilder

from pyworker import create_app
from pyworker.config import Settings
from pyworker.errors import NotReady
from pyworker.proxy.direct import DirectRoutes
from pyworker.proxy.pipeline import pipeline_of
from tests.support.both_ways import server
from tests.support.http import Answer, ask, next_request_idx
from tests.support.scripted import Act, Step, chunk, head, whole
from tests.support.stack import Stack

AUTH = {"signature": "", "url": "", "endpoint": "", "cost": 1, "reqnum": 1}
EVENTS = "Content-Type: text/event-stream"
JSON = "Content-Type: application/json"
CHUNKED = "Transfer-Encoding: chunked"
TOKENS = [b"data: %d\n\n" % number for number in range(20)]

#: The model server's response.
RESPONSES: dict[str, list[Step]] = {
    "whole": [whole(b'{"a": 1}', JSON)],
    "empty": [whole(b"", JSON)],
    "no content": [b"HTTP/1.1 204 No Content\r\nX-A: 1\r\n\r\n"],
    "not modified": [b"HTTP/1.1 304 Not Modified\r\nETag: x\r\nContent-Type: text/plain\r\n\r\n"],
    "reset content": [whole(b"", status="205 Reset Content")],
    "a client's fault": [whole(b"no", "X-A: 1", "X-A: 2", status="418 Teapot")],
    "an unknown status": [whole(b"hm", status="299 Hm")],
    "too busy": [whole(b"busy", "Retry-After: 7", status="429 Busy")],
    "a fault": [whole(b"oops", status="500 Oops")],
    "a redirect": [whole(b"", "Location: https://example.com/", status="302 Found")],
    "headers of the connection": [whole(b"x", "Connection: X-B", "X-B: 1", "Keep-Alive: 5", "Server: s")],
    "cookies": [whole(b"x", "Set-Cookie: a=1", "Set-Cookie: b=2")],
    "chunked": [head(EVENTS, CHUNKED), *map(chunk, TOKENS), chunk(b"")],
    "chunked in one": [head(EVENTS, CHUNKED) + b"".join(map(chunk, TOKENS)) + chunk(b"")],
    "trailers": [head(EVENTS, CHUNKED), chunk(b"a"), b"0\r\nX-T: 1\r\n\r\n"],
    "extensions": [head(EVENTS, CHUNKED), b"1;x=y\r\na\r\n", chunk(b"")],
    "until the end": [head(EVENTS), *TOKENS, Act.CLOSE],
    "large": [whole(b"x" * 1_000_000, JSON)],
    "cut": [head("Content-Length: 100"), b"x" * 50, Act.CLOSE],
    "cut and large": [head("Content-Length: 1000000"), b"x" * 50, Act.CLOSE],
    "cut chunks": [head(EVENTS, CHUNKED), *map(chunk, TOKENS), Act.CLOSE],
    "reset chunks": [head(EVENTS, CHUNKED), chunk(TOKENS[0]), Act.RESET],
    "malformed chunks": [head(EVENTS, CHUNKED), chunk(TOKENS[0]), b"zz\r\nhello\r\n", Act.CLOSE],
    "nothing": [Act.CLOSE],
    "nothing behind the head": [head(CHUNKED), Act.CLOSE],
    "garbage": [b"garbage\r\n\r\n", Act.CLOSE],
}
ROUTES = ("pass", "stream", "serial")
WAYS = ("direct", "objects")


#: Headers whose values differ from one request to the next.
_CHANGING = ("date", "x-request-id", "server-timing")


def seen(answer: Answer) -> tuple[object, ...]:
    """What a client can tell of it, but for the times and the request's id."""
    headers = [(name, "" if name.lower() in _CHANGING else value) for name, value in answer.headers]
    return answer.status, headers, answer.body, answer.complete


@pytest.mark.parametrize("route", ROUTES)
def test_both_ways_give_the_same_bytes_and_outcome(both: Stack, route: str) -> None:
    found: dict[str, dict[str, tuple[object, ...]]] = {}
    indices: dict[tuple[str, str], int] = {}
    for way in WAYS:
        found[way] = {}
        for name, steps in RESPONSES.items():
            both.model.once(f"/{way}/{route}", *steps)
            indices[way, name] = next_request_idx()
            answer = both.post(f"/{way}/{route}", request_idx=indices[way, name], work=3.0)
            found[way][name] = seen(answer)
    assert found["direct"] == found["objects"]
    outcomes = {key: both.outcome(request_idx) for key, request_idx in indices.items()}
    assert {outcomes["direct", name] for name in RESPONSES} == {"Success", "Error", "Rejected"}
    for name in RESPONSES:
        assert outcomes["direct", name] == outcomes["objects", name], name


BODIES: dict[str, bytes] = {
    "no JSON": b"{",
    "nothing": b"",
    "no payload": b'{"auth_data": {}}',
    "a wrong field": b'{"payload": {"prompt": 7}}',
    "half a character": b'{"payload": {"prompt": "\\ud800"}}',
}


@pytest.mark.parametrize("name", BODIES)
def test_both_ways_refuse_alike(both: Stack, name: str) -> None:
    direct, objects = (ask(both.url, "POST", f"/{way}/pass", BODIES[name]) for way in WAYS)
    assert seen(direct) == seen(objects)
    assert direct.status == 422


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS", "PUT", "DELETE"])
def test_other_methods_are_alike(both: Stack, method: str) -> None:
    direct, objects = (ask(both.url, method, f"/{way}/pass") for way in WAYS)
    assert seen(direct) == seen(objects)


@pytest.mark.parametrize("path", ["/pass/", "//pass", "/pass?a=b", "/p%61ss", "/pass%2F", "/nowhere"])
def test_paths_are_alike(both: Stack, path: str) -> None:
    direct, objects = (ask(both.url, "POST", f"/{way}{path}", both.envelope()) for way in WAYS)
    assert seen(direct) == seen(objects)


@pytest.mark.parametrize("way", WAYS)
def test_a_client_that_hangs_up_in_mid_stream_ends_the_call(both: Stack, way: str) -> None:
    both.model.script(f"/{way}/stream", head(EVENTS, CHUNKED), chunk(TOKENS[0]), Act.HANG)
    request_idx = next_request_idx()
    with both.open(f"/{way}/stream", request_idx=request_idx) as client:
        client.until(TOKENS[0])
    assert both.model.request(f"/{way}/stream").gone.wait(10)
    assert both.outcome(request_idx) == "Cancelled"


@pytest.mark.parametrize("cut", [b"5\r\nhello", b"5\r\nhelloX\r\n", b"g\r\n", b"5 5\r\n", b"-1\r\n", b"\r\n"])
@pytest.mark.parametrize("alone", [True, False])
@pytest.mark.parametrize("behind", [b"", chunk(b"more") + chunk(b"")], ids=["", "before good ones"])
def test_a_malformed_chunk_is_never_passed_on_as_if_whole(
    both: Stack, cut: bytes, alone: bool, behind: bytes
) -> None:
    """Also if it comes while the relay waits, and between whole chunks in one piece."""
    cut += behind
    gate = threading.Event()
    last = chunk(TOKENS[1])
    later = threading.Event()
    steps = [last, later, cut] if alone else [last + cut]
    both.model.script("/direct/stream", head(EVENTS, CHUNKED), chunk(TOKENS[0]), gate, *steps, Act.CLOSE)
    request_idx = next_request_idx()
    with both.open("/direct/stream", request_idx=request_idx) as client:
        client.head()
        assert client.chunk() == TOKENS[0]
        gate.set()
        if alone:
            assert client.chunk() == TOKENS[1]
            later.set()
        rest = client.rest()
    assert not rest.endswith(b"0\r\n\r\n")
    # The beginning of a chunk that never ends may have been passed on, in one that does.
    before = [] if alone else [TOKENS[1]]
    allowed = [before, [*before, b"hello"], [TOKENS[1] + b"hello"]]
    assert rest.lower() in [b"".join(map(chunk, chunks)) for chunks in allowed]
    assert both.outcome(request_idx) == "Error"


def test_chunks_are_passed_on_as_they_came(both: Stack) -> None:
    """Two chunks that arrive together stay two."""
    gate = threading.Event()
    together = chunk(TOKENS[1]) + chunk(TOKENS[2])
    end = threading.Event()
    both.model.script(
        "/direct/stream", head(EVENTS, CHUNKED), chunk(TOKENS[0]), gate, together, end, chunk(b"")
    )
    with both.open("/direct/stream") as client:
        client.head()
        assert client.chunk() == TOKENS[0]
        gate.set()
        assert client.exactly(len(together)) == together
        end.set()
        assert client.chunk() == b""


# -- what an author registers ----------------------------------------------------------------------------


def app_with(register: Callable[[flask.Flask], object]) -> flask.Flask:
    app = create_app("tests.support.both_ways", Settings(unsecured=True))
    register(app)
    return app


def is_direct(app: flask.Flask, path: str = "/direct/pass") -> bool:
    direct: DirectRoutes | None = getattr(app, "direct", None)
    assert direct is not None
    return direct.find(EnvironBuilder(path, method="POST").get_environ()) is not None


def test_routes_that_make_a_response_of_their_own_take_the_long_way() -> None:
    app = app_with(lambda _: None)
    assert is_direct(app)
    assert not is_direct(app, "/objects/pass")
    assert not is_direct(app, "/ping")


#: Each registers a function that Flask calls for each request.
REGISTERING: dict[str, Callable[[flask.Flask], object]] = {
    "before_request": lambda app: app.before_request(nothing),
    "after_request": lambda app: app.after_request(unchanged),
    "teardown_request": lambda app: app.teardown_request(ignored),
    "teardown_appcontext": lambda app: app.teardown_appcontext(ignored),
    "url_value_preprocessor": lambda app: app.url_value_preprocessor(unused),
}


def nothing() -> None: ...


def ignored(_error: BaseException | None) -> None: ...


def unused(_endpoint: str | None, _values: dict[str, Any] | None) -> None: ...


def unchanged(response: flask.Response) -> flask.Response:
    return response


@pytest.mark.parametrize("name", REGISTERING)
def test_functions_that_are_called_for_each_request_are_called(name: str) -> None:
    assert not is_direct(app_with(REGISTERING[name]))


def test_a_blueprints_functions_count_for_its_routes_alone() -> None:
    app = create_app("tests.support.both_ways", Settings(unsecured=True))
    app.blueprints["routes"].before_request_funcs.setdefault(None, []).append(nothing)
    app.before_request_funcs.setdefault("another", []).append(nothing)
    assert is_direct(app)
    app.before_request_funcs.setdefault("routes", []).append(nothing)
    assert not is_direct(app)


def test_an_error_handler_of_an_author_is_called() -> None:
    def handle(error: Exception) -> tuple[str, int]:
        return f"mine: {error}", 599

    client = app_with(lambda app: app.register_error_handler(NotReady, handle)).test_client()
    body = {"auth_data": AUTH, "payload": {"prompt": "x"}}
    for way in WAYS:
        response = client.post(f"/{way}/pass", json=body)
        assert (response.status_code, response.text[:5]) == (599, "mine:")


def test_a_view_that_an_author_wraps_takes_the_long_way() -> None:
    backend = server.create_backend(Settings(unsecured=True))
    view = backend.create_handler(server.DirectPass(path="/wrapped"))

    @functools.wraps(view)
    def wrapped() -> flask.Response:
        return view()

    app = flask.Flask(__name__)
    app.add_url_rule("/wrapped", view_func=wrapped, methods=["POST"])
    app.add_url_rule("/plain", "plain", view_func=view, methods=["POST"])
    app.add_url_rule("/rule/<name>", "rule", view_func=view, methods=["POST"])
    direct = DirectRoutes(
        app, pipeline_of(create_app("hello_world", Settings(unsecured=True))), backend.views
    )
    found = {
        path: direct.find(EnvironBuilder(path, method="POST").get_environ()) is not None
        for path in ("/wrapped", "/plain", "/rule/a")
    }
    assert found == {"/wrapped": False, "/plain": True, "/rule/a": False}
