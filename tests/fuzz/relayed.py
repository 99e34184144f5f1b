"""A relayed stream, cut anywhere: what comes out is what went in, or visibly cut."""

from __future__ import annotations

import http.client
import re
import select
import socket
from collections.abc import Generator, Iterable
from contextlib import suppress
from typing import Any

import requests
from gunicorn.config import Config

from pyworker import responses
from pyworker.downstream.acceptor import Listener
from pyworker.downstream.connection import ClientSocket
from pyworker.downstream.framing import Framing
from pyworker.downstream.request import ParsedRequest
from pyworker.downstream.response import ClientResponse
from pyworker.downstream.response_writer import Delivery
from pyworker.errors import ModelBroken, ModelUnreachable
from pyworker.runtime.nonblocking import Receiver
from pyworker.upstream.call import ModelCall
from pyworker.upstream.incoming import Incoming
from pyworker.upstream.lazy_response import LazyResponse
from pyworker.upstream.response_body import Chunked
from pyworker.upstream.response_reader import ResponseReader
from pyworker.wsgi_extensions import PollableBody
from tests.fuzz.timely import timely

_REQUEST = b"POST /stream HTTP/1.1\r\nHost: w\r\nContent-Length: 0\r\n\r\n"
_HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
_SIZE = re.compile(rb"[0-9A-Fa-f]{1,16}")

#: The first byte says how large the parts are in which the rest arrives.
STREAMS = [
    b"\xff5\r\nhello\r\n3\r\nyou\r\n0\r\n\r\n",
    b"\x0a5\r\nhello\r\n5\r\nworld\r\n0\r\n\r\n",
    b"\x015;a=b\r\nhello\r\n0\r\nX: y\r\n\r\n",
    b"\x0405\r\nabcde\r\n1\r\nx\r\n0\r\n\r\nmore",
    b"\x0a5\r\nhello\r\n+5\r\nworld\r\n0\r\n\r\n",
    b"\x0a5\r\nhello\r\n5\r\nworlds\r\n0\r\n\r\n",
]


class Streams:
    """The body of a model server's response in chunks, relayed to a client."""

    def __init__(self) -> None:
        self._config: Any = Config()
        self._receiver = Receiver(2**16)

    def __call__(self, data: bytes) -> None:
        size, body = 1 + data[0] if data else 1, data[1 : 2**14]
        with timely(data):
            found, is_whole = _received(
                self._relayed([body[at : at + size] for at in range(0, len(body), size)])
            )
            expected, is_good = _read(body)
            assert expected.startswith(found), (found, expected)
            assert is_whole == is_good
            assert found == expected or not is_whole

    def _relayed(self, parts: Iterable[bytes]) -> bytes:
        """What the client receives."""
        near, model = socket.socketpair()
        ours, client = socket.socketpair()
        with near, model, ours, client:
            near.settimeout(1.0)
            delivery = self._begun(near, model, ours)
            is_parked, rest = True, iter(parts)
            for part in rest:
                model.sendall(part)
                is_parked = self._pass_on(delivery, near)
                if not is_parked:
                    break
            model.sendall(b"".join(rest))
            model.shutdown(socket.SHUT_WR)
            with suppress(OSError):
                while is_parked or not delivery.go_on():
                    is_parked = self._pass_on(delivery, near)
            ours.close()
            return b"".join(iter(lambda: client.recv(2**16), b""))

    def _begun(self, near: socket.socket, model: socket.socket, ours: socket.socket) -> Delivery:
        """Its header block has been sent, and it waits for the model server."""
        reader = ResponseReader(near, "POST", ModelCall())
        model.sendall(_HEAD)
        reader.begin()
        framing = Framing(0)
        connection = ClientSocket(ours, ("127.0.0.1", 1), Listener(ours, None), framing)
        connection.verdict = framing.feed(_REQUEST)
        request = ParsedRequest(self._config, connection)
        response = ClientResponse(request, connection, self._config, connection, lambda: False)
        response.start_response("200 OK", [])
        response.write(b"")
        passed = responses.streamed(LazyResponse(reader, requests.Response))
        assert not isinstance(passed.body, bytes)
        return Delivery(connection, response, PollableBody(_cut_visibly(passed.body), reader))

    def _pass_on(self, delivery: Delivery, near: socket.socket) -> bool:
        """Whether it is still parked once everything was relayed that has arrived."""
        while select.select([near], [], [], 0)[0]:
            if not delivery.pass_on(self._receiver):
                return False
        return True


def _cut_visibly(pieces: Iterable[bytes]) -> Generator[bytes, None, None]:
    """As a request does it."""
    try:
        yield from pieces
    except (ModelBroken, ModelUnreachable) as error:
        raise ConnectionResetError from error


def _read(data: bytes) -> tuple[bytes, bool]:
    """The body in these bytes of a model server, and whether its end is among them."""
    incoming = Incoming()
    incoming.append(data)
    body = Chunked(incoming)
    pieces: list[bytes] = []
    with suppress(http.client.HTTPException):
        while piece := body.piece(2**16):
            pieces.append(piece)
    return b"".join(pieces), body.is_complete


def _received(data: bytes) -> tuple[bytes, bool]:
    """The body that a strict client finds, and whether it is whole. AssertionError if it is malformed."""
    _, _, left = data.partition(b"\r\n\r\n")
    pieces: list[bytes] = []
    while left:
        line, separator, left = left.partition(b"\r\n")
        if not separator:
            break
        assert _SIZE.fullmatch(line), line
        size = int(line, 16)
        piece, end, left = left[:size], left[size : size + 2], left[size + 2 :]
        assert b"\r\n".startswith(end), "a chunk is longer than its size"
        if size == 0 and end == b"\r\n":
            assert not left, "bytes behind the end"
            return b"".join(pieces), True
        pieces.append(piece)
    return b"".join(pieces), False
