"""A request to a worker and its reply, over sockets or through Flask's test client."""

from __future__ import annotations

import contextlib
import http.client
import json
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol
from urllib.parse import urlsplit

import flask
from werkzeug.datastructures import Headers

from pyworker.testing.model import DEADLINE

_PIECE = 64 * 1024


@dataclass(frozen=True)
class Reply:
    """A whole reply. is_complete: False if it was cut; request_idx: 0 if the request was not signed."""

    status: int
    headers: Headers
    body: bytes
    is_complete: bool = True
    request_idx: int = 0

    def json(self) -> Any:
        """The body, parsed."""
        return json.loads(self.body)

    @property
    def text(self) -> str:
        """The body as text."""
        return self.body.decode("utf-8", "replace")


@dataclass
class OpenReply:
    """A reply whose body is still to come. is_complete: False once it turned out to be cut."""

    status: int
    headers: Headers
    pieces: Iterator[bytes] = field(repr=False)
    request_idx: int = 0
    is_complete: bool = True

    def rest(self) -> Reply:
        """All that is still to come."""
        body = b"".join(self.pieces)
        return Reply(self.status, self.headers, body, self.is_complete, self.request_idx)


@dataclass(frozen=True)
class Call:
    """A request as it is sent. request_idx: 0 if it is not signed."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes | None
    request_idx: int


class Caller(Protocol):
    """Sends requests to one worker."""

    def open(self, call: Call) -> contextlib.AbstractContextManager[OpenReply]:
        """Send one. Leaving the context hangs up."""
        ...

    def hang_up(self, call: Call) -> contextlib.AbstractContextManager[None]:
        """Send one without waiting for the reply. Leaving the context hangs up."""
        ...


class OverSockets:
    """To a worker that listens somewhere."""

    def __init__(self, url: str) -> None:
        self._address = urlsplit(url).netloc

    @contextmanager
    def hang_up(self, call: Call) -> Generator[None]:
        with contextlib.closing(self._send(call)):
            yield

    @contextmanager
    def open(self, call: Call) -> Generator[OpenReply]:
        with contextlib.closing(self._send(call)) as connection, connection.getresponse() as response:
            reply = OpenReply(response.status, Headers(response.getheaders()), iter(()), call.request_idx)
            reply.pieces = self._pieces(response, reply)
            yield reply

    def _send(self, call: Call) -> http.client.HTTPConnection:
        connection = http.client.HTTPConnection(self._address, timeout=DEADLINE)
        try:
            connection.request(call.method, call.path, call.body, dict(call.headers))
        except OSError:
            connection.close()
            raise
        return connection

    def _pieces(self, response: http.client.HTTPResponse, reply: OpenReply) -> Iterator[bytes]:
        got, length = 0, response.length
        try:
            while piece := response.read1(_PIECE):
                got += len(piece)
                yield piece
        except (http.client.HTTPException, ConnectionError, ValueError):
            reply.is_complete = False
        if length is not None and got < length:
            reply.is_complete = False


class Within:
    """To an app of this process, through Flask's test client: nobody can hang up before the reply begins."""

    def __init__(self, app: flask.Flask) -> None:
        self._app = app

    def hang_up(self, call: Call) -> contextlib.AbstractContextManager[None]:
        raise RuntimeError(f"{call.path}: without sockets a client cannot hang up: use running(…, live=True)")

    @contextmanager
    def open(self, call: Call) -> Generator[OpenReply]:
        response = self._app.test_client().open(
            call.path, method=call.method, headers=dict(call.headers), data=call.body, buffered=False
        )
        try:
            headers = Headers(list(response.headers))
            reply = OpenReply(response.status_code, headers, iter(()), call.request_idx)
            reply.pieces = self._pieces(response.iter_encoded(), reply)
            yield reply
        finally:
            response.close()

    def _pieces(self, body: Iterator[bytes], reply: OpenReply) -> Iterator[bytes]:
        try:
            yield from body
        except Exception:  # noqa: BLE001  whatever ends the body early, the client sees it cut
            reply.is_complete = False
