"""Routes that pass the response on, past Flask's objects: the same bytes as with them, in every case."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable

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


def seen(answer: Answer) -> tuple[object, ...]:
    """What a client can tell of it, but for the time."""
    headers = [(name, value) for name, value in answer.headers if name.lower() != "date"]
    return answer.status, headers, answer.body, answer.complete


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("name", RESPONSES)
def test_both_ways_give_the_same_bytes_and_outcome(both: Stack, name: str, route: str) -> None:
    found: list[tuple[object, ...]] = []
    for way in WAYS:
        both.model.script(f"/{way}/{route}", *RESPONSES[name])
        request_idx = next_request_idx()
        answer = both.post(f"/{way}/{route}", request_idx=request_idx, work=3.0)
        found.append((*seen(answer), both.outcome(request_idx)))
    direct, objects = found
    assert direct == objects


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
def test_a_malformed_chunk_is_never_passed_on_as_if_whole(both: Stack, cut: bytes, alone: bool) -> None:
    """Also if it comes while the relay waits, and behind whole chunks in one piece."""
    gate = threading.Event()
    last = chunk(TOKENS[1])
    steps = [last, cut] if alone else [last + cut]
    both.model.script("/direct/stream", head(EVENTS, CHUNKED), chunk(TOKENS[0]), gate, *steps, Act.CLOSE)
    request_idx = next_request_idx()
    with both.open("/direct/stream", request_idx=request_idx) as client:
        client.head()
        assert client.chunk() == TOKENS[0]
        gate.set()
        rest = client.rest()
    assert not rest.endswith(b"0\r\n\r\n")
    # The beginning of a chunk that never ends may have been passed on, in one that does.
    passed = TOKENS[1] + b"hello"
    assert rest in (b"", last, last + chunk(b"hello"), chunk(passed))
    assert both.outcome(request_idx) == "Error"


def test_chunks_are_passed_on_as_they_came(both: Stack) -> None:
    """Two chunks that arrive together stay two."""
    gate = threading.Event()
    together = chunk(TOKENS[1]) + chunk(TOKENS[2])
    both.model.script("/direct/stream", head(EVENTS, CHUNKED), chunk(TOKENS[0]), gate, together, chunk(b""))
    with both.open("/direct/stream") as client:
        client.head()
        assert client.chunk() == TOKENS[0]
        gate.set()
        assert client.exactly(len(together)) == together
        assert client.rest_of_answer() == b""


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


@pytest.mark.parametrize(
    "register",
    [
        lambda app: app.before_request(lambda: None),
        lambda app: app.after_request(lambda response: response),
        lambda app: app.teardown_request(lambda _: None),
        lambda app: app.teardown_appcontext(lambda _: None),
        lambda app: app.url_value_preprocessor(lambda *_: None),
    ],
)
def test_functions_that_are_called_for_each_request_are_called(
    register: Callable[[flask.Flask], object],
) -> None:
    assert not is_direct(app_with(register))


def test_a_blueprints_functions_count_for_its_routes_alone() -> None:
    app = create_app("tests.support.both_ways", Settings(unsecured=True))
    app.blueprints["routes"].before_request_funcs.setdefault(None, []).append(lambda: None)
    app.before_request_funcs.setdefault("another", []).append(lambda: None)
    assert is_direct(app)
    app.before_request_funcs.setdefault("routes", []).append(lambda: None)
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
