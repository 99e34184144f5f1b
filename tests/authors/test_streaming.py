"""Answers on their way through a worker under gunicorn, looked at byte by byte."""

from __future__ import annotations

import gzip
import itertools
import threading
import time

import pytest

from tests.support.http import next_request_idx
from tests.support.scripted import Act, Step, chunk, head, whole
from tests.support.stack import NewStack, Stack

EVENTS = "Content-Type: text/event-stream"
FIRST, SECOND = b'data: {"token": "one"}\n\n', b'data: {"token": "two"}\n\n'


def framed(framing: str, *pieces: Step) -> list[Step]:
    """A response in three framings; events between the pieces stay where they are."""
    if framing == "chunked":
        body = [chunk(piece) if isinstance(piece, bytes) else piece for piece in pieces]
        return [head(EVENTS, "Transfer-Encoding: chunked"), *body, chunk(b"")]
    if framing == "length":
        length = sum(len(piece) for piece in pieces if isinstance(piece, bytes))
        return [head(EVENTS, f"Content-Length: {length}"), *pieces]
    return [head(EVENTS, "Connection: close"), *pieces, Act.CLOSE]


FRAMINGS = ("chunked", "length", "close")


@pytest.mark.parametrize("framing", FRAMINGS)
@pytest.mark.parametrize("path", ["/stream", "/serial/stream"])
def test_a_token_arrives_while_the_model_holds_the_next(stack: Stack, framing: str, path: str) -> None:
    gate = threading.Event()
    stack.model.script(path, *framed(framing, FIRST, gate, SECOND))
    with stack.open(path) as client:
        assert client.head() == 200
        if framing == "length":
            assert client.exactly(len(FIRST)) == FIRST
            gate.set()
            assert client.exactly(len(SECOND)) == SECOND
        else:
            assert client.chunk() == FIRST
            gate.set()
            assert client.chunk() == SECOND
            assert client.chunk() == b""


@pytest.mark.parametrize("framing", ["chunked", "close"])
def test_pass_through_streams_what_has_no_known_length(stack: Stack, framing: str) -> None:
    gate = threading.Event()
    stack.model.script("/pass", *framed(framing, FIRST, gate, SECOND))
    with stack.open("/pass") as client:
        assert client.head() == 200
        assert client.chunk() == FIRST
        gate.set()
        assert client.chunk() == SECOND
        assert client.chunk() == b""


def test_the_head_arrives_before_the_first_token(stack: Stack) -> None:
    gate = threading.Event()
    stack.model.script("/stream", head(EVENTS, "Transfer-Encoding: chunked"), gate, chunk(FIRST), chunk(b""))
    with stack.open("/stream") as client:
        # gunicorn writes the head with the first piece; what matters is that the response is whole in the
        # end.
        gate.set()
        response = client.answer()
    assert (response.status, response.body, response.complete) == (200, FIRST, True)


@pytest.mark.parametrize("framing", FRAMINGS)
@pytest.mark.parametrize("path", ["/stream", "/pass"])
def test_a_large_response_is_byte_exact(stack: Stack, framing: str, path: str) -> None:
    body = bytes(range(256)) * 4096
    stack.model.script(path, *framed(framing, body))
    response = stack.post(path)
    assert response.complete
    assert response.body == body


def test_pass_through_keeps_status_headers_and_bytes(stack: Stack) -> None:
    body = b'{ "spaces":  "kept",\t"n": 1.0 }\n'
    stack.model.script(
        "/pass",
        whole(
            body,
            "Content-Type: application/vnd.test+json; charset=utf-8",
            "X-Model: seven",
            "Set-Cookie: a=1",
            "Set-Cookie: b=2",
            "ETag: W/abc",
            status="418 I'm a teapot",
        ),
    )
    response = stack.post("/pass")
    assert (response.status, response.body) == (418, body)
    assert response.header("Content-Type") == "application/vnd.test+json; charset=utf-8"
    assert response.header("X-Model") == "seven"
    assert response.header("ETag") == "W/abc"
    assert response.all_headers("Set-Cookie") == ["a=1", "b=2"]
    assert response.all_headers("Content-Length") == [str(len(body))]


@pytest.mark.parametrize("path", ["/pass", "/stream"])
def test_headers_of_the_connection_stay_behind(stack: Stack, path: str) -> None:
    stack.model.script(
        path,
        whole(
            b"body",
            "Connection: keep-alive, X-Private",
            "Keep-Alive: timeout=99",
            "X-Private: for the worker only",
            "Proxy-Authenticate: Basic",
            "Proxy-Connection: keep-alive",
            "TE: trailers",
            "Upgrade: h2c",
            "Server: secret-model/1.0",
            "X-Public: for all",
        ),
    )
    response = stack.post(path)
    assert response.body == b"body"
    assert response.header("X-Public") == "for all"
    for name in ("X-Private", "Keep-Alive", "Proxy-Authenticate", "Proxy-Connection", "TE", "Upgrade"):
        assert response.header(name) is None, name
    assert "secret-model" not in str(response.headers)
    assert response.all_headers("Connection") == ["close"]  # of this connection: the client asked for it


@pytest.mark.parametrize("path", ["/pass", "/stream"])
@pytest.mark.parametrize("framing", FRAMINGS)
def test_a_compressed_body_stays_compressed(stack: Stack, path: str, framing: str) -> None:
    packed = gzip.compress(b"a text that was compressed by the model server" * 10)
    first, *steps = framed(framing, packed)
    assert isinstance(first, bytes)
    first = first.replace(b"\r\n\r\n", b"\r\nContent-Encoding: gzip\r\n\r\n")
    stack.model.script(path, first, *steps)
    response = stack.post(path)
    assert response.header("Content-Encoding") == "gzip"
    assert response.body == packed


def test_json_is_decoded_and_written_anew(stack: Stack) -> None:
    packed = gzip.compress(b'{"a":  [1, 2.5, null]}')
    stack.model.script(
        "/json",
        whole(packed, "Content-Type: application/json", "Content-Encoding: gzip", status="201 Created"),
    )
    response = stack.post("/json")
    assert response.status == 201
    assert response.header("Content-Encoding") is None
    assert response.object() == {"a": [1, 2.5, None]}


def test_a_response_that_is_not_json_is_a_bad_gateway_for_a_json_route(stack: Stack) -> None:
    stack.model.script("/json", whole(b"<html>not json</html>", "Content-Type: text/html"))
    request_idx = next_request_idx()
    response = stack.post("/json", request_idx=request_idx)
    assert response.status == 502
    assert response.object() == {"error": "the model server's response is not JSON"}
    assert stack.outcome(request_idx) == "Error"


def test_a_response_without_a_body(stack: Stack) -> None:
    sent: list[int] = []
    cases = itertools.product(("204 No Content", "304 Not Modified"), ("/stream", "/pass", "/serial/stream"))
    for status, path in cases:
        stack.model.script(path, head("X-Model: seven", status=status))
        sent.append(next_request_idx())
        response = stack.post(path, request_idx=sent[-1])
        assert (response.status, response.body, response.complete) == (int(status[:3]), b"", True)
        assert response.header("X-Model") == "seven"
    assert [stack.outcome(request_idx) for request_idx in sent] == ["Success"] * 6


def test_a_response_of_the_model_that_blames_the_client_is_passed_on(stack: Stack) -> None:
    sent: list[int] = []
    for status in (400, 404, 422, 429):
        stack.model.script("/pass", whole(b"the model says no", status=f"{status} No"))
        sent.append(next_request_idx())
        response = stack.post("/pass", request_idx=sent[-1])
        assert (response.status, response.body) == (status, b"the model says no")
    # 429 says that it is too busy: it was no request of this worker's.
    assert [stack.outcome(request_idx) for request_idx in sent] == ["Success"] * 3 + ["Rejected"]


def test_a_fault_of_the_model_is_counted_as_an_error(stack: Stack) -> None:
    sent: list[int] = []
    for path, status in (("/pass", 500), ("/pass", 503), ("/stream", 500), ("/stream", 503)):
        stack.model.script(path, whole(b"out of memory", status=f"{status} Fault"))
        sent.append(next_request_idx())
        response = stack.post(path, request_idx=sent[-1])
        assert (response.status, response.body) == (status, b"out of memory")
    assert [stack.outcome(request_idx) for request_idx in sent] == ["Error", "Rejected"] * 2


TRUNCATED: dict[str, list[Step]] = {
    "chunked, closed between chunks": [
        head(EVENTS, "Transfer-Encoding: chunked"),
        chunk(FIRST),
        Act.CLOSE,
    ],
    "chunked, closed within a chunk": [
        head(EVENTS, "Transfer-Encoding: chunked"),
        chunk(FIRST),
        b"40\r\ntoo short",
        Act.CLOSE,
    ],
    "chunked, reset": [head(EVENTS, "Transfer-Encoding: chunked"), chunk(FIRST), Act.RESET],
    "chunked, garbage for a size": [
        head(EVENTS, "Transfer-Encoding: chunked"),
        chunk(FIRST),
        b"zz\r\nno size\r\n",
        Act.CLOSE,
    ],
    "shorter than its length": [head(EVENTS, f"Content-Length: {2**20}"), FIRST, Act.CLOSE],
    "until the end, reset": [head(EVENTS, "Connection: close"), FIRST, Act.RESET],
    "length, reset": [head(EVENTS, f"Content-Length: {2**20}"), FIRST, Act.RESET],
}


def test_a_cut_response_is_cut_for_the_client_too(stack: Stack) -> None:
    sent: dict[str, int] = {}
    paths = ("/stream", "/pass", "/serial/stream")
    for path, (case, steps) in itertools.product(paths, TRUNCATED.items()):
        request_idx = sent[f"{path}: {case}"] = next_request_idx()
        _see_it_cut(stack, path, steps, request_idx)
    assert {case: stack.outcome(idx) for case, idx in sent.items()} == dict.fromkeys(sent, "Error")
    # The worker goes on, and the capacity is back.
    stack.model.forget()
    assert [stack.post(path).status for path in paths] == [200] * 3


def _see_it_cut(stack: Stack, path: str, steps: list[Step], request_idx: int) -> None:
    gate = threading.Event()
    stack.model.script(path, *steps[:2], gate, *steps[2:])
    with stack.open(path, request_idx=request_idx) as client:
        # Where the beginning of the body is here, it cannot become an error response any more.
        assert client.head() == 200
        length = next((value for name, value in client.headers if name == "Content-Length"), None)
        assert (client.chunk() if length is None else client.exactly(len(FIRST))) == FIRST
        gate.set()
        rest = client.rest()
    if length is None:
        assert not rest.endswith(b"0\r\n\r\n"), "the response looks complete"
    else:
        assert len(FIRST) + len(rest) < int(length)


def test_a_short_body_that_breaks_off_becomes_a_bad_gateway(stack: Stack) -> None:
    """pass_through reads short bodies whole before it responds, so it can still say what happened."""
    stack.model.script("/pass", head("Content-Length: 100"), b"only this", Act.CLOSE)
    request_idx = next_request_idx()
    response = stack.post("/pass", request_idx=request_idx)
    assert response.status == 502
    assert response.object() == {
        "error": "the model server broke off in the middle of its response: the connection ended"
    }
    assert stack.outcome(request_idx) == "Error"


#: What the model server does, and what is said of it.
NO_answerER: dict[str, tuple[list[Step], str]] = {
    "closed": ([Act.CLOSE], " closed the connection before its response"),
    "reset": ([Act.RESET], " reset the connection before its response"),
    "closed within its head": (
        [b"HTTP/1.1 200 OK\r\nContent-Ty", Act.CLOSE],
        " closed the connection within the header block of its response",
    ),
    "reset within its head": (
        [b"HTTP/1.1 200 OK\r\nContent-Ty", Act.RESET],
        " reset the connection before its response",
    ),
    "garbage": (
        [b"SMTP ready\r\n\r\n", Act.CLOSE],
        "'s response is malformed: it has no proper header block",
    ),
    "a bad header": (
        [b"HTTP/1.1 200 OK\r\nno header\r\nContent-Length: 0\r\n\r\n"],
        "'s response is malformed: it has a header field that is none",
    ),
    "two lengths": (
        [head("Content-Length: 2", "Content-Length: 3"), b"abc", Act.CLOSE],
        "'s response is malformed: it has no sensible Content-Length",
    ),
    "closed before the body": (
        [head("Transfer-Encoding: chunked"), Act.CLOSE],
        " broke off in the middle of its response: the connection ended",
    ),
    "reset before the body": (
        [head("Content-Length: 1000000"), Act.RESET],
        " broke off in the middle of its response: the connection was reset",
    ),
    "a bad chunk": (
        [head("Transfer-Encoding: chunked"), b"zz\r\n", Act.HANG],
        " broke off in the middle of its response: it has a chunk with an invalid size",
    ),
}


def test_a_model_that_breaks_before_its_response_is_a_bad_gateway(stack: Stack) -> None:
    sent: dict[str, int] = {}
    paths = ("/pass", "/stream", "/serial/stream")
    for path, (case, (steps, cause)) in itertools.product(paths, NO_answerER.items()):
        stack.model.script(path, *steps)
        name = f"{path}: {case}"
        sent[name] = next_request_idx()
        response = stack.post(path, request_idx=sent[name])
        assert (name, response.status) == (name, 502)
        message = response.object()["error"]
        assert message == f"the model server{cause}", name
        # Its first line is in the log immediately; others like it are counted, and written after a while.
        assert str(message) in stack.worker.log, name
    assert {case: stack.outcome(idx) for case, idx in sent.items()} == dict.fromkeys(sent, "Error")


def test_silence_ends_after_model_timeout(new_stack: NewStack) -> None:
    stack = new_stack({"MODEL_TIMEOUT": "0.5"})
    stack.start_ready()
    stack.model.script("/serial", Act.HANG)
    silent = next_request_idx()
    started = time.monotonic()
    response = stack.post("/serial", request_idx=silent)
    assert response.status == 504
    assert response.object() == {"error": "the model server did not answer in time"}
    stack.worker.wait_for_log(f"504 request {silent}: /serial: the model server did not answer in time")
    assert time.monotonic() - started >= 0.5
    # A body read whole before the response: still in time to say so.
    stack.model.script("/serial", head("Content-Length: 100"), b"only this", Act.HANG)
    half = next_request_idx()
    response = stack.post("/serial", request_idx=half)
    assert response.status == 504
    # So is a stream before its first byte, and one with a header block that never ends.
    for steps in ([head("Transfer-Encoding: chunked"), Act.HANG], [b"HTTP/1.1 200 OK\r\n", Act.HANG]):
        stack.model.script("/stream", *steps)
        assert stack.post("/stream").status == 504
    # A stream has begun: it can only be cut.
    stack.model.script("/serial/stream", head("Transfer-Encoding: chunked"), chunk(FIRST), Act.HANG)
    cut = next_request_idx()
    response = stack.post("/serial/stream", request_idx=cut)
    assert (response.status, response.body, response.complete) == (200, FIRST, False)
    assert [stack.outcome(idx) for idx in (silent, half, cut)] == ["Error"] * 3
    # The model server saw each of them end, and the line is free.
    for request in stack.model.requests():
        # Three failures in a row made the worker ask for itself, in vain or not.
        assert request.path == "/benchmark" or request.gone.wait(1), request
    stack.model.forget()
    assert stack.post("/serial").status == 200


def test_a_model_that_does_not_listen_is_a_bad_gateway(new_stack: NewStack) -> None:
    stack = new_stack()
    stack.start_ready()
    stack.model.close()
    request_idx = next_request_idx()
    response = stack.post("/serial", request_idx=request_idx)
    assert response.status == 502
    assert response.object() == {"error": "the model server refused the connection"}
    stack.worker.wait_for_log(f"502 request {request_idx}: /serial: the model server refused the connection")
    assert stack.outcome(request_idx) == "Error"


def test_a_stream_outlives_the_requests_beside_it(stack: Stack) -> None:
    """A long stream holds no resource that the others need."""
    gate = threading.Event()
    stack.model.script("/stream", *framed("chunked", FIRST, gate, SECOND))
    clients = [stack.open("/stream") for _ in range(20)]
    try:
        for client in clients:
            assert client.head() == 200
            assert client.chunk() == FIRST
        assert stack.post("/pass").status == 200
        gate.set()
        for client in clients:
            assert client.chunk() == SECOND
            assert client.chunk() == b""
    finally:
        for client in clients:
            client.close()
