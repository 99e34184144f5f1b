"""Clients that nobody wants, by kind."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from collections.abc import Callable, Generator
from urllib.parse import urlsplit

from tests.support.http import RawClient, request_bytes
from tests.support.stack import Stack

HEAD = b"POST /pass HTTP/1.1\r\nHost: worker\r\n"
LAST_REQUEST = b"GET /ping HTTP/1.1\r\nHost: worker\r\nConnection: close\r\n\r\n"
#: The beginning of a TLS record: it says how long the rest will be.
HALF_HELLO = bytes.fromhex("16030102000100") + b"\x01\xfc\x03\x03"
SMALL_BUFFER = 4096

#: Makes a client of the worker at this URL.
Connect = Callable[[str], RawClient]
FORGED = json.dumps(
    {
        "auth_data": {"signature": "AAAA", "url": "http://a:1", "endpoint": "e", "cost": 1, "reqnum": 1},
        "payload": {"prompt": "x" * 1000},
    }
).encode()


def sending(data: bytes) -> Connect:
    """A client that has sent this and waits."""

    def connect(url: str) -> RawClient:
        client = RawClient(url)
        client.send(data)
        return client

    return connect


def with_half_a_handshake(url: str) -> RawClient:
    client = RawClient(url.replace("https", "http"))
    client.send(HALF_HELLO)
    return client


def asking_for_much(stack: Stack) -> Connect:
    """Signed requests whose responses nobody reads, with buffers too small for them."""

    def connect(url: str) -> RawClient:
        client = with_small_buffer(url)
        client.post("/pass", stack.envelope())
        return client

    return connect


def with_small_buffer(url: str) -> RawClient:
    parts = urlsplit(url)
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SMALL_BUFFER)
    connection.connect((parts.hostname or "", parts.port or 0))
    return RawClient(url, connection=connection)


@contextlib.contextmanager
def clients(url: str, count: int, connect: Connect) -> Generator[list[RawClient]]:
    with contextlib.ExitStack() as ending:
        yield [ending.enter_context(connect(url)) for _ in range(count)]


@contextlib.contextmanager
def dripping(crowd: list[RawClient], piece: bytes) -> Generator[None]:
    """Each of them sends a little more, again and again."""
    stop = threading.Event()

    def drip() -> None:
        while not stop.wait(0.2):
            for client in crowd:
                with contextlib.suppress(OSError):
                    client.send(piece)

    thread = threading.Thread(target=drip)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


#: How each connects, and what it sends again and again: those that cost patience.
SLOW: dict[str, tuple[Connect, bytes]] = {
    "silent": (sending(b""), b""),
    "dripping head": (sending(HEAD), b"X-More: of this\r\n"),
    "dripping body": (sending(HEAD + b"Content-Length: 1000\r\n\r\n{"), b" "),
    "dripping large body": (sending(HEAD + b"Content-Length: 10000000\r\n\r\n{"), b" "),
    "a large body that stalls": (
        sending(HEAD + b"Content-Length: 10000000\r\n\r\n" + b" " * 2**16),
        b"",
    ),
    "dripping chunks": (sending(HEAD + b"Transfer-Encoding: chunked\r\n\r\n"), b"1\r\n{\r\n"),
    "waiting to continue": (sending(HEAD + b"Content-Length: 99999\r\nExpect: 100-continue\r\n\r\n"), b""),
    "half a handshake": (with_half_a_handshake, b""),
    "a body announced": (sending(HEAD + b"Content-Length: 134217728\r\n\r\n"), b""),
    "an unsigned body that stalls": (
        sending(HEAD + b"Content-Length: 100000\r\n\r\n" + b'{"payload": {"prompt": "'.ljust(66_000)),
        b"",
    ),
    "never hanging up": (sending(LAST_REQUEST), b""),
}
#: And those that cost processor time, in proportion to what they send.
BUSY: dict[str, tuple[Connect, bytes]] = {
    "a head of blanks": (sending(HEAD + b"Expect:" + b" " * 4400 + b"\rx\r\n\r\n"), b""),
    "chunks of a byte": (
        sending(HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + b"1\r\n{\r\n" * 10_000),
        b"1\r\n{\r\n",
    ),
    "nonsense": (sending(bytes(range(256)) * 16), b""),
    "a forged signature": (sending(request_bytes("POST", "/pass", FORGED)), b""),
    "half a picture": (sending(request_bytes("POST", "/pass", b"\xff\xd8" * 30_000)), b""),
}
KINDS = {**SLOW, **BUSY}
