"""Cached header blocks: compared to the last byte, and never taken for another."""

from __future__ import annotations

import io
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from gunicorn.config import Config
from gunicorn.http.errors import NoMoreData, ParseException

from pyworker.downstream.acceptor import Listener
from pyworker.downstream.connection import ClientSocket
from pyworker.downstream.framing import Framing, Verdict
from pyworker.downstream.head_cache import MAX_CACHED_HEAD, MAX_CACHED_HEADS, CachedHead, HeadCache

LIMIT = 10**6
BEFORE = b"POST /generate HTTP/1.1\r\nHost: w\r\nContent-Length: "
AFTER = b"\r\nAccept: */*\r\n\r\n"


def known(before: bytes = BEFORE, after: bytes = AFTER) -> CachedHead:
    return CachedHead(before, after, "POST", (1, 1), closes=False, environ={})


@pytest.mark.parametrize("body", [b"", b"x", b"x" * 100, AFTER, b"\r\n\r\n", bytes(range(256)) * 100])
def test_the_body_behind_a_known_head(body: bytes) -> None:
    assert known().body_in(BEFORE + b"%d" % len(body) + AFTER + body) == body


OTHERS = {
    "nothing": b"",
    "half a head": BEFORE,
    "no digit": BEFORE + AFTER,
    "another path": BEFORE.replace(b"generate", b"generatf") + b"2" + AFTER + b"ab",
    "another field": BEFORE + b"2" + AFTER.replace(b"*/*", b"*/+") + b"ab",
    "one more field": BEFORE + b"2\r\nX: y" + AFTER + b"ab",
    "a second length": BEFORE + b"2\r\nContent-Length: 3" + AFTER + b"ab",
    "chunks as well": BEFORE + b"2\r\nTransfer-Encoding: chunked" + AFTER + b"ab",
    "a space": BEFORE + b" 2" + AFTER + b"ab",
    "a space behind": BEFORE + b"2 " + AFTER + b"ab",
    "a sign": BEFORE + b"+2" + AFTER + b"ab",
    "an underscore": BEFORE + b"0_2" + AFTER + b"ab",
    "a digit that is none in ASCII": BEFORE + "²".encode("latin-1") + AFTER + b"ab",
    "a line feed": BEFORE + b"2" + AFTER.replace(b"\r\n", b"\n") + b"ab",
    "endless digits": BEFORE + b"0" * 20 + b"2" + AFTER + b"ab",
    "a byte too few": BEFORE + b"2" + AFTER + b"a",
    "a byte too many": BEFORE + b"2" + AFTER + b"abc",
}


@pytest.mark.parametrize("received", OTHERS.values(), ids=OTHERS)
def test_anything_else_is_left_to_the_parser(received: bytes) -> None:
    assert known().body_in(received) is None


def test_only_a_request_that_comes_in_one_piece_is_compared() -> None:
    request = BEFORE + b"5" + AFTER + b"hello"
    framing = Framing(LIMIT, known().body_in)
    assert framing.feed(request) is Verdict.WHOLE
    assert (framing.known_body, framing.received) == (b"hello", request)
    for cut in range(1, len(request)):
        framing = Framing(LIMIT, known().body_in)
        assert framing.feed(request[:cut]) is Verdict.MORE
        assert framing.feed(request[cut:]) is Verdict.WHOLE
        assert framing.known_body is None


@pytest.mark.parametrize(
    ("request_bytes", "around"),
    [
        (BEFORE + b"5" + AFTER + b"hello", (BEFORE, AFTER)),
        (BEFORE + b"0" + AFTER, (BEFORE, AFTER)),
        (b"GET / HTTP/1.1\r\nHost: w\r\n\r\n", None),
        (b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", None),
        (BEFORE + b"2\r\nExpect: 100-continue" + AFTER + b"ab", None),
        (BEFORE + b"2\r\nContent-Length: 2" + AFTER + b"ab", None),
        (BEFORE + b"2\r\nExpect: more" + AFTER + b"ab", None),
    ],
)
def test_which_heads_can_be_known(request_bytes: bytes, around: tuple[bytes, bytes] | None) -> None:
    framing = Framing(LIMIT)
    framing.feed(request_bytes)
    assert framing.around_length == around


class Clients:
    """Requests of connections that one cache serves."""

    def __init__(self, ending: ExitStack) -> None:
        config: Any = Config()
        config.set("forwarded_allow_ips", "")
        self.cache = HeadCache(config, lambda: False)
        self._listening = ending.enter_context(socket.create_server(("127.0.0.1", 0)))
        self._ending = ending
        self.listener = Listener(self._listening, None)

    def send(self, request: bytes) -> tuple[ClientSocket, Any, dict[str, Any]]:
        """On a connection of its own: that, with the response to be and the environ."""
        theirs = self._ending.enter_context(socket.create_connection(self._listening.getsockname()))
        ours, address = self._listening.accept()
        self._ending.enter_context(ours)
        client = ClientSocket(ours, address, self.listener, Framing(LIMIT))
        client.verdict = client.framing.feed(request)
        assert theirs.getsockname() == address
        return client, *self.cache.begin(client)


@pytest.fixture
def clients() -> Iterator[Clients]:
    with ExitStack() as ending:
        yield Clients(ending)


def test_a_cached_header_block_serves_other_connections(clients: Clients) -> None:
    """What the app gets is what a parser would have made of the request."""
    first, parsed, environ = clients.send(BEFORE + b"5" + AFTER + b"first")
    second, cached, other = clients.send(BEFORE + b"6" + AFTER + b"second")
    assert repr(clients.cache) == "<HeadCache [1]>"
    assert second.head is first.head is cached.request
    assert parsed.request is not cached.request
    assert environ.pop("wsgi.input").read() == b"first"
    assert isinstance(other["wsgi.input"], io.BytesIO)
    assert other.pop("wsgi.input").read() == b"second"
    own = {
        "gunicorn.socket": second.sock,
        "REMOTE_PORT": str(second.address[1]),
        "CONTENT_LENGTH": "6",
        "pyworker.presence": second.presence,
    }
    environ.pop("pyworker.leave_line")
    assert other == {**environ, **own}


@pytest.mark.parametrize("received", OTHERS.values(), ids=OTHERS)
def test_a_request_that_differs_is_parsed_on_a_new_connection_too(clients: Clients, received: bytes) -> None:
    clients.send(BEFORE + b"5" + AFTER + b"first")
    try:
        _, response, _ = clients.send(received)
    except (ParseException, NoMoreData, StopIteration):
        return
    assert not isinstance(response.request, CachedHead)


def test_few_header_blocks_are_kept_and_no_long_ones(clients: Clients) -> None:
    def is_cached(before: bytes, after: bytes = AFTER) -> bool:
        request = before + b"0" + after
        clients.send(request)
        return isinstance(clients.send(request)[1].request, CachedHead)

    assert is_cached(BEFORE)
    assert not is_cached(BEFORE, b"\r\nX: ".ljust(MAX_CACHED_HEAD, b"x") + AFTER)
    for number in range(MAX_CACHED_HEADS):
        assert is_cached(BEFORE.replace(b"generate", b"%d" % number))
    assert repr(clients.cache) == "<HeadCache [1]>", "the cache has begun anew"
