"""Reading requests, in step with a strict server whatever comes; and the end of a worker."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import threading
import time
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.support.http import RawClient, ask, next_request_idx, request_bytes
from tests.support.ports import free_port
from tests.support.scripted import Act, chunk, head, whole
from tests.support.stack import NewStack, Stack
from tests.support.tls import tls_variables
from tests.support.waiting import DEADLINE, wait_until

PING = b"GET /ping HTTP/1.1\r\nHost: worker\r\n\r\n"
LAST_PING = b"GET /ping HTTP/1.1\r\nHost: worker\r\nConnection: close\r\n\r\n"
POST = b"POST /pass HTTP/1.1\r\nHost: worker\r\n"
STREAM = head("Transfer-Encoding: chunked")


@pytest.fixture(params=["plain", "tls"])
def tls(request: pytest.FixtureRequest, tmp_path: Path) -> Mapping[str, str]:
    """The variables of a worker over plain TCP, and of one over TLS."""
    return tls_variables(tmp_path) if request.param == "tls" else {}


def statuses(client: RawClient) -> list[int]:
    """Of all responses until the connection ends."""
    found = client.rest()
    return [int(status) for status in re.findall(rb"(?:^|\n|\}|pong)HTTP/1\.[01] (\d{3}) ", found)]


# -- in pieces and in a row ------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [2, 10])
def test_requests_in_one_segment_are_answered_in_order(front: Stack, count: int) -> None:
    front.model.script("/pass", whole(b"{}"))
    post = request_bytes("POST", "/pass", front.envelope())
    with RawClient(front.url) as client:
        client.send((PING + post) * (count // 2))
        for _ in range(count // 2):
            assert client.answer().body == b"pong"
            assert client.answer().status == 200
        client.send(LAST_PING)
        assert client.answer().header("Connection") == "close"
        assert client.rest() == b""


def test_requests_in_a_row_byte_by_byte(front: Stack) -> None:
    front.model.script("/pass", whole(b"{}"))
    post = request_bytes("POST", "/pass", front.envelope("x"))
    with RawClient(front.url) as client:
        for byte in PING + post + PING:
            client.send(bytes([byte]))
        assert [client.answer().status for _ in range(3)] == [200] * 3


def test_a_head_that_comes_again_brings_a_body_of_its_own(front: Stack) -> None:
    front.model.script("/pass", whole(b"{}"))
    prompts = ["one", "two and a half", "", "three" * 1000, "one"]
    with RawClient(front.url) as client:
        for prompt in prompts:
            client.send(request_bytes("POST", "/pass", front.envelope(prompt)))
            assert client.answer().status == 200
    received = [json.loads(request.body)["prompt"] for request in front.model.requests("/pass")]
    assert received == prompts


@pytest.mark.parametrize(
    ("found", "changed", "status"),
    [
        (b"Host:", b"Host :", 400),
        (b"Content-Length:", b"Content-Length: 1\r\nContent-Length:", 400),
        (b"Content-Length: ", b"Content-Length: +", 400),
        (b"POST /pass", b"POST /pasz", 404),
        (b"POST", b"PUT", 405),
        (b"Host:", b"Connection: close\r\nHost:", 200),
    ],
)
def test_a_head_that_differs_from_the_last_one_is_parsed(
    front: Stack, found: bytes, changed: bytes, status: int
) -> None:
    front.model.script("/pass", whole(b"{}"))
    usual = request_bytes("POST", "/pass", front.envelope())
    assert found in usual
    with RawClient(front.url) as client:
        for _ in range(3):
            client.send(usual)
            assert client.answer().status == 200
        client.send(usual.replace(found, changed, 1))
        assert client.answer().status == status
        if status in (200, 400):
            assert client.rest() == b""
        else:
            client.send(usual)
            assert client.answer().status == 200


def test_a_request_that_comes_while_the_one_before_is_answered(front: Stack) -> None:
    gate = threading.Event()
    front.model.once("/pass", gate, whole(b"first"))
    front.model.once("/pass", whole(b"second"))
    post = request_bytes("POST", "/pass", front.envelope())
    with RawClient(front.url) as client:
        client.send(post)
        front.model.request("/pass")
        client.send(post[:10])
        # Seen by the event loop once it has served another client.
        assert ask(front.url, "GET", "/ping").body == b"pong"
        gate.set()
        assert client.answer().body == b"first"
        client.send(post[10:])
        assert client.answer().body == b"second"


def test_a_request_cut_anywhere(front: Stack) -> None:
    front.model.script("/pass", whole(b"{}"))
    post = request_bytes("POST", "/pass", front.envelope("x"))
    with RawClient(front.url) as client:
        for cut in range(1, len(post), 7):
            client.send(post[:cut])
            client.send(post[cut:] + PING[: cut % len(PING)])
            assert client.answer().status == 200
            client.send(PING[cut % len(PING) :])
            assert client.answer().body == b"pong"


@pytest.mark.parametrize("size", [1, 60_000, 70_000, 3_000_000])
@pytest.mark.parametrize("chunked", [False, True], ids=["counted", "chunked"])
def test_a_body_of_any_size_and_the_request_behind_it(front: Stack, size: int, chunked: bool) -> None:
    front.model.script("/pass", whole(b"{}"))
    body = front.envelope("x" * size)
    if chunked:
        pieces = [body[at : at + 50_000] for at in range(0, len(body), 50_000)]
        request = POST + b"Transfer-Encoding: chunked\r\n\r\n"
        request += b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in [*pieces, b""])
    else:
        request = request_bytes("POST", "/pass", body)
    with RawClient(front.url) as client:
        client.send(request + PING)
        assert client.answer().status == 200
        assert client.answer().body == b"pong"
    assert len(front.model.request("/pass").json()["prompt"]) == size


@pytest.mark.parametrize("framing", ["counted", "chunked"])
def test_large_requests_that_are_read_do_not_hold_up_others(front: Stack, framing: str) -> None:
    """A quarter of the threads may read the rest of large bodies; the model may be asked by all."""
    front.model.script("/pass", gate := threading.Event(), whole(b"{}"))
    body = front.envelope("x" * 100_000)
    chunked = POST + b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
    data = chunked if framing == "chunked" else request_bytes("POST", "/pass", body)
    with contextlib.ExitStack() as ending:
        crowd = [ending.enter_context(RawClient(front.url)) for _ in range(40)]
        for client in crowd:
            client.send(data)
        front.wait_in_hand(40)
        gate.set()
        assert [client.answer().status for client in crowd] == [200] * 40


def test_a_client_that_waits_for_100_continue(front: Stack) -> None:
    front.model.script("/pass", whole(b"{}"))
    for size in (10, 200_000):
        body = front.envelope("x" * size)
        with RawClient(front.url) as client:
            client.send(POST + b"Expect: 100-continue\r\nContent-Length: %d\r\n\r\n" % len(body))
            assert client.head() == 100
            client.send(body + LAST_PING)
            assert client.answer().status == 200
            assert client.answer().body == b"pong"


def test_a_refused_client_gets_no_100_continue(front: Stack) -> None:
    with RawClient(front.url) as client:
        client.send(POST + b"Expect: 100-continue\r\nContent-Length: 999999999999\r\n\r\n")
        answer = client.answer()
        assert (answer.status, answer.header("Connection")) == (413, "close")
        assert client.rest() == b""


def test_a_body_that_the_app_does_not_read_is_passed_over(front: Stack) -> None:
    """The small one is here already; with the rest of a large one the connection ends."""
    with RawClient(front.url) as client:
        client.send(request_bytes("POST", "/ping", b"GET /pass HTTP/1.1\r\n\r\n") + PING)
        assert client.answer().status == 405
        assert client.answer().body == b"pong"
        client.send(b"POST /ping HTTP/1.1\r\nHost: w\r\nContent-Length: 900000\r\n\r\n" + b"x" * 70_000)
        answer = client.answer()
        assert (answer.status, answer.header("Connection")) == (405, "close")
        client.send(PING)
        assert client.rest() == b""


def test_half_a_close_after_the_request_counts_as_gone(front: Stack) -> None:
    front.model.script("/pass", Act.HANG)
    index = next_request_idx()
    with RawClient(front.url) as client:
        client.post("/pass", front.envelope(request_idx=index))
        front.model.request("/pass")
        socket.socket.shutdown(client.socket, socket.SHUT_WR)
        assert front.outcome(index) == "Cancelled"


# -- two readings of one request -------------------------------------------------------------------------

HIDDEN = b"GET /ping HTTP/1.1\r\nHost: hidden\r\n\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n\r\n"

REFUSED = {
    "length and chunks": POST + b"Content-Length: 5\r\n" + CHUNKED + b"0\r\n\r\n" + HIDDEN,
    "chunks and length": POST + b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n" + HIDDEN,
    "two lengths": POST + b"Content-Length: 0\r\nContent-Length: 36\r\n\r\n" + HIDDEN,
    "two equal lengths": POST + b"Content-Length: 3\r\nContent-Length: 3\r\n\r\nabc" + HIDDEN,
    "a list of lengths": POST + b"Content-Length: 3, 3\r\n\r\nabc" + HIDDEN,
    "a length with a plus": POST + b"Content-Length: +3\r\n\r\nabc" + HIDDEN,
    "a length with a minus": POST + b"Content-Length: -3\r\n\r\nabc" + HIDDEN,
    "a length with an underscore": POST + b"Content-Length: 3_6\r\n\r\n" + HIDDEN,
    "a length in hexadecimal": POST + b"Content-Length: 0x3\r\n\r\nabc" + HIDDEN,
    "an empty length": POST + b"Content-Length: \r\n\r\n" + HIDDEN,
    "a length in other digits": POST + b"Content-Length: \xb2\r\n\r\nab" + HIDDEN,
    "a coding with a vertical tab": POST + b"Transfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n" + HIDDEN,
    "an unknown coding": POST + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n" + HIDDEN,
    "a quoted coding": POST + b'Transfer-Encoding: "chunked"\r\n\r\n0\r\n\r\n' + HIDDEN,
    "chunked twice": POST + b"Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n" + HIDDEN,
    "chunked in two fields": POST
    + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "identity after chunked": POST + b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n" + HIDDEN,
    "identity": POST + b"Transfer-Encoding: identity\r\nContent-Length: 3\r\n\r\nabc" + HIDDEN,
    "chunks in HTTP/1.0": b"POST /pass HTTP/1.0\r\nHost: w\r\n" + CHUNKED + b"0\r\n\r\n" + HIDDEN,
    "bare line feeds": b"GET /ping HTTP/1.1\nHost: worker\n\n" + HIDDEN,
    "one bare line feed": b"GET /ping HTTP/1.1\r\nHost: worker\nX: y\r\n\r\n" + HIDDEN,
    "a bare line feed before the end": b"GET /ping HTTP/1.1\r\nHost: worker\r\n\n" + HIDDEN,
    "a folded field": POST + b"X: y\r\n Content-Length: 3\r\n\r\nabc" + HIDDEN,
    "a folded length": POST + b"Content-Length:\r\n 3\r\n\r\nabc" + HIDDEN,
    "a space before the colon": POST + b"Content-Length : 3\r\n\r\nabc" + HIDDEN,
    "a tab before the colon": POST + b"Transfer-Encoding\t: chunked\r\n\r\n0\r\n\r\n" + HIDDEN,
    "a space before the first field": b"GET /ping HTTP/1.1\r\n Host: worker\r\n\r\n" + HIDDEN,
    "a zero byte in a field": POST + b"X: a\x00b\r\n\r\n" + HIDDEN,
    "a return in a field": POST + b"X: a\rContent-Length: 3\r\n\r\nabc" + HIDDEN,
    "two hosts": b"GET /ping HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n" + HIDDEN,
    "no version": b"GET /ping\r\n\r\n" + HIDDEN,
    "another version": b"GET /ping HTTP/2.0\r\n\r\n" + HIDDEN,
    "a space too many": b"GET  /ping HTTP/1.1\r\nHost: w\r\n\r\n" + HIDDEN,
    "two empty lines first": b"\r\n\r\n" + HIDDEN,
    "another expectation": POST + b"Expect: 200-ok\r\nContent-Length: 3\r\n\r\nabc" + HIDDEN,
    "a TLS handshake": bytes.fromhex("160301020001000001fc0303") + HIDDEN,
}

BROKEN_CHUNKS = {
    "a sign": b"+0\r\n\r\n",
    "an underscore": b"1_0\r\n0123456789abcdef\r\n0\r\n\r\n",
    "a prefix": b"0x1\r\na\r\n0\r\n\r\n",
    "a space before": b" 1\r\na\r\n0\r\n\r\n",
    "no size": b"\r\n\r\n",
    "only an extension": b";a=b\r\n\r\n",
    "a return in an extension": b"1;a\rb\r\na\r\n0\r\n\r\n",
    "a line feed in an extension": b"1;a\nb\r\na\r\n0\r\n\r\n",
    "an extension that is none": b"1;=\r\na\r\n0\r\n\r\n",
    "a chunk that is too long": b"1\r\nab\r\n0\r\n\r\n",
    "a chunk that ends with a line feed": b"1\r\na\n0\r\n\r\n",
    "a line feed behind a size": b"1\na\r\n0\r\n\r\n",
    "an enormous size": b"ffffffffffffffffffff\r\na\r\n0\r\n\r\n",
    "a length among the trailers": b"0\r\nContent-Length: 5\r\n\r\n",
    "a coding among the trailers": b"0\r\nTransfer-Encoding: chunked\r\n\r\n",
}


@pytest.mark.parametrize("data", REFUSED.values(), ids=REFUSED)
def test_what_could_be_read_in_two_ways_is_refused_once(front: Stack, data: bytes) -> None:
    with RawClient(front.url) as client:
        client.send(data)
        [status] = statuses(client)
        assert status in (400, 417, 501)
    with RawClient(front.url) as client:
        for byte in data:
            with contextlib.suppress(OSError):  # it may be refused before its end
                client.send(bytes([byte]))
        assert len(statuses(client)) <= 1


@pytest.mark.parametrize("data", BROKEN_CHUNKS.values(), ids=BROKEN_CHUNKS)
@pytest.mark.parametrize("path", [b"/pass", b"/ping"], ids=["read", "not read"])
def test_broken_chunks_end_the_connection(front: Stack, path: bytes, data: bytes) -> None:
    with RawClient(front.url) as client:
        client.send(b"POST " + path + b" HTTP/1.1\r\nHost: worker\r\n" + CHUNKED + data + HIDDEN)
        assert statuses(client) == ([400] if path == b"/pass" else [405])


GET = b"GET /ping HTTP/1.1\r\nHost: w\r\n"

UNUSUAL: dict[str, tuple[bytes, list[int]]] = {
    "an empty line": (b"\r\n" + LAST_PING, [200]),
    "an empty line between": (PING + b"\r\n" + LAST_PING, [200, 200]),
    "absolute form": (b"GET http://elsewhere/ping HTTP/1.1\r\nHost: worker\r\n\r\n" + LAST_PING, [200, 200]),
    "HTTP/1.0": (b"GET /ping HTTP/1.0\r\n\r\n" + HIDDEN, [200]),
    "HTTP/1.0 kept alive": (b"GET /ping HTTP/1.0\r\nConnection: keep-alive\r\n\r\n" + LAST_PING, [200, 200]),
    "an underscore": (GET + b"Content_Length: 5\r\n\r\n" + LAST_PING, [200, 200]),
    "a body of GET": (GET + b"Content-Length: 5\r\n\r\nhello" + LAST_PING, [200, 200]),
    "extension and trailer": (
        GET + CHUNKED + b'3 ; a = "b;c"\r\nabc\r\n0\r\nX: y\r\n\r\n' + LAST_PING,
        [200, 200],
    ),
    "CONNECT": (b"CONNECT worker:80 HTTP/1.1\r\nHost: w\r\n\r\n" + HIDDEN, [404]),
    "an upgrade": (GET + b"Upgrade: h2c\r\nConnection: Upgrade\r\n\r\n" + LAST_PING, [200, 200]),
}


@pytest.mark.parametrize(("data", "expected"), UNUSUAL.values(), ids=UNUSUAL)
def test_what_is_unusual_is_answered_in_step(front: Stack, data: bytes, expected: list[int]) -> None:
    with RawClient(front.url) as client:
        client.send(data)
        assert statuses(client) == expected


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"GET /" + b"x" * 100_000, 414),
        (b"GET /ping HTTP/1.1\r\nX: " + b"y" * 100_000, 431),
        (b"GET /ping HTTP/1.1\r\n" + b"X: y\r\n" * 500 + b"\r\n", 431),
    ],
    ids=["line", "field", "fields"],
)
def test_a_head_beyond_its_bounds(front: Stack, data: bytes, status: int) -> None:
    with RawClient(front.url) as client:
        client.send(data)
        assert client.answer().status == status


# -- counting --------------------------------------------------------------------------------------------


def test_the_count_of_connections_is_right_after_a_storm_of_ugly_ends(front: Stack) -> None:
    front.model.script("/stream", STREAM, chunk(b"one"), Act.HANG)
    front.model.script("/pass", STREAM, chunk(b"one"), Act.RESET)
    ugly = [
        b"",
        b"\r\n",
        b"GET",
        PING[:-2],
        PING,
        PING * 3,
        LAST_PING,
        b"\x16\x03",
        POST + CHUNKED + b"5\r\nab",
    ]
    for _ in range(5):
        for data in ugly:
            for end in (RawClient.close, RawClient.reset):
                client = RawClient(front.url)
                client.send(data)
                end(client)
        for path in ("/stream", "/pass"):
            with front.open(path) as client:
                client.until(b"one")
                client.reset()
        if front.url.startswith("https"):
            with RawClient(front.url.replace("https", "http")) as client:
                client.send(PING)
    with RawClient(front.url) as kept:
        kept.send(PING)
        assert kept.answer().body == b"pong"

        def counted() -> str:
            front.worker.show_state()
            return front.worker.log

        wait_until(lambda: "<EventLoop [1 connected: 1 idle]>" in counted(), "one connection", DEADLINE)


# -- the end ---------------------------------------------------------------------------------------------


def test_a_drain_answers_what_is_being_sent_and_nobody_else(
    new_stack: NewStack, tls: Mapping[str, str]
) -> None:
    stack = new_stack({"DRAIN_TIMEOUT": "20", **tls})
    stack.start_ready()
    stack.model.script("/pass", gate := threading.Event(), whole(b"{}"))
    body = stack.envelope()
    with (
        RawClient(stack.url) as idle,
        RawClient(stack.url) as sending,
        RawClient(stack.url) as silent,
        stack.open("/pass") as held,
    ):
        idle.send(PING)
        assert idle.answer().header("Connection") == "keep-alive"
        sending.send(POST + b"Content-Length: %d\r\n\r\n" % len(body) + body[:10])
        stack.wait_in_hand(1)
        stack.worker.terminate()
        assert idle.rest() == b""
        assert silent.rest() == b""
        with pytest.raises(OSError):  # noqa: PT011
            RawClient(stack.url).close()
        sending.send(body[10:])
        answer = sending.answer()
        assert (answer.status, answer.header("Connection")) == (503, "close")
        gate.set()
        answer = held.answer()
        assert (answer.status, answer.header("Connection")) == (200, "close")
    assert stack.worker.wait() == 0


@pytest.mark.parametrize("to_master", [True, False], ids=["to the master", "to the worker"])
def test_a_second_sigterm_hurries(new_stack: NewStack, tls: Mapping[str, str], to_master: bool) -> None:
    stack = new_stack({"DRAIN_TIMEOUT": "40", **tls})
    stack.start_ready()
    stack.model.script("/stream", STREAM, chunk(b"one"), Act.HANG)
    stack.model.script("/serial", Act.HANG)
    streamed, thinking = next_request_idx(), next_request_idx()
    with (
        stack.open("/stream", request_idx=streamed) as client,
        stack.open("/serial", request_idx=thinking) as second,
        RawClient(stack.url) as half,
    ):
        half.send(PING[:10])
        client.until(b"one")
        stack.wait_in_hand(2)
        [worker] = stack.worker.children
        stack.worker.terminate()
        stack.worker.wait_for_log("draining: requests in hand have 40 s")
        pause = threading.Event()
        pause.wait(0.5)  # nearer together they count as one stop
        assert stack.worker.is_alive
        began = time.monotonic()
        if to_master:
            stack.worker.terminate()
        else:
            with contextlib.suppress(ProcessLookupError):
                os.kill(worker, signal.SIGTERM)
        assert second.answer().status == 503
        assert not client.rest().endswith(b"0\r\n\r\n")
        assert stack.worker.wait() == 0
        assert time.monotonic() - began < 3
    assert [stack.outcome(index) for index in (streamed, thinking)] == ["Error"] * 2


def test_one_stop_that_reaches_the_whole_group_is_no_second_one(new_stack: NewStack) -> None:
    stack = new_stack({"DRAIN_TIMEOUT": "20"})
    stack.start_ready()
    stack.model.script("/pass", gate := threading.Event(), whole(b"{}"))
    with stack.open("/pass") as held:
        stack.wait_in_hand(1)
        for pid in [*stack.worker.children, stack.worker.pid]:
            os.kill(pid, signal.SIGTERM)
        stack.worker.wait_for_log("draining")
        assert not ask_again(stack)
        gate.set()
        assert held.answer().status == 200
    assert stack.worker.wait() == 0


def test_the_loopback_port_stays_open_during_a_drain(new_stack: NewStack) -> None:
    port = free_port()
    stack = new_stack({"DRAIN_TIMEOUT": "20", "WORKER_HTTP_PORT": str(port)})
    stack.start_ready()
    stack.model.script("/pass", gate := threading.Event(), whole(b"{}"))
    with stack.open("/pass") as held:
        stack.wait_in_hand(1)
        stack.worker.terminate()
        stack.worker.wait_for_log("draining")
        wait_until(lambda: not ask_again(stack), "the clients' port is closed")
        for _ in range(2):
            answer = ask(f"http://127.0.0.1:{port}", "POST", "/session/end", b"{}")
            assert (answer.status, "session_id" in answer.object()) == (422, True)
        gate.set()
        assert held.answer().status == 200
    assert stack.worker.wait() == 0


def ask_again(stack: Stack) -> bool:
    """Whether a new client is served."""
    with contextlib.suppress(OSError, EOFError):
        return ask(stack.url, "GET", "/ping").status == 200
    return False


def test_the_garbage_collector_passes_over_what_stays(front: Stack) -> None:
    """A look through all of it would stop every request for its time."""
    assert int(ask(front.url, "GET", "/frozen").body) > 10_000
