"""Reading a body: whole or refused, and only from an authenticated client if it is large."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import flask
import pytest
from werkzeug.test import EnvironBuilder

from pyworker.data_types import AuthData
from pyworker.errors import BadRequest, BodyTooLarge, NotReady, Unauthorized
from pyworker.proxy.body import UNSIGNED_BYTES, BodyReader
from pyworker.runtime.limits import SMALL_BODY
from tests.support.http import RawClient
from tests.support.stack import NewStack

app = flask.Flask("test")


AUTH = AuthData("good", "http://203.0.113.7:1", "echo", 1, 2, 3)


def check(auth_data: AuthData) -> None:
    if auth_data.signature != "good":
        raise Unauthorized("the signature does not verify")


def read(stream: io.RawIOBase | io.BytesIO, length: int | str | None, limit: int, *, checked: bool) -> bytes:
    """What `BodyReader` makes of a body whose client declared `length`; None: it is sent in chunks.

    checked: Flask's own limit is set too, as in a running worker; it changes how a short body shows.
    """
    app.config["MAX_CONTENT_LENGTH"] = limit if checked else None
    environ: dict[str, Any] = {"wsgi.input": stream, "REQUEST_METHOD": "POST", "CONTENT_LENGTH": str(length)}
    if length is None:
        del environ["CONTENT_LENGTH"]
        environ.update({"HTTP_TRANSFER_ENCODING": "chunked", "wsgi.input_terminated": True})
    with app.request_context({**EnvironBuilder().get_environ(), **environ}) as context:
        reader = BodyReader(limit, check, max_unsigned=4)
        with reader.reading(context.request.environ) as body:
            return bytes(body)


class Broken(io.RawIOBase):
    """A connection that is reset while it is read."""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: object, /) -> int:
        raise ConnectionResetError(104, "Connection reset by peer")


class Unread(Broken):
    """A body that must not be touched."""

    def readinto(self, buffer: object, /) -> int:
        raise AssertionError("the body was read")


@pytest.mark.parametrize("checked", [True, False])
@pytest.mark.parametrize("length", [10, None])
def test_a_whole_body_up_to_the_limit(length: int | None, checked: bool) -> None:
    assert read(io.BytesIO(b"0123456789"), length, 10, checked=checked) == b"0123456789"


@pytest.mark.parametrize("checked", [True, False])
def test_no_more_is_read_than_was_declared(checked: bool) -> None:
    stream = io.BytesIO(b"0123456789 the next request")

    assert read(stream, 10, 100, checked=checked) == b"0123456789"
    assert stream.read() == b" the next request"


@pytest.mark.parametrize("checked", [True, False])
@pytest.mark.parametrize("length", [11, 2**31, 10**30])
def test_a_body_above_the_limit_is_refused_before_it_is_read(length: int, checked: bool) -> None:
    with pytest.raises(BodyTooLarge) as caught:
        read(Unread(), length, 10, checked=checked)

    assert caught.value.status == 413
    assert caught.value.body() == {"error": f"the body has {length} bytes; at most 10 are allowed"}


@pytest.mark.parametrize("checked", [True, False])
@pytest.mark.parametrize("length", [11, 1_000_000])
def test_a_body_in_chunks_is_refused_once_it_is_above_the_limit(length: int, checked: bool) -> None:
    stream = io.BytesIO(b"x" * length)

    with pytest.raises(BodyTooLarge) as caught:
        read(stream, None, 10, checked=checked)

    assert caught.value.body() == {"error": "the body has more than the 10 bytes that are allowed"}
    assert stream.tell() == 11, "no more is read than shows that it is too long"


@pytest.mark.parametrize("checked", [True, False])
@pytest.mark.parametrize("sent", [b"", b"012345678"])
def test_a_body_that_ends_early(sent: bytes, checked: bool) -> None:
    with pytest.raises(BadRequest) as caught:
        read(io.BytesIO(sent), 10, 100, checked=checked)

    assert caught.value.status == 400


@pytest.mark.parametrize("checked", [True, False])
@pytest.mark.parametrize("length", [10, None])
def test_a_connection_that_breaks_while_it_is_read(length: int | None, checked: bool) -> None:
    with pytest.raises(BadRequest) as caught:
        read(Broken(), length, 100, checked=checked)

    assert caught.value.body() == {"error": "the body could not be read to its end"}


@pytest.mark.parametrize("length", ["", "ten", "-1"])
def test_a_senseless_length_reads_nothing(length: str) -> None:
    assert read(io.BytesIO(b"0123456789"), length, 100, checked=True) == b""


# -- large bodies ----------------------------------------------------------------------------------------


class Body(io.RawIOBase):
    """A body that counts what was taken of it."""

    def __init__(self, beginning: bytes, size: int) -> None:
        self._beginning = io.BytesIO(beginning)
        self._left = size - len(beginning)
        self.taken = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int:
        piece = self._beginning.read(len(buffer))
        if not piece:
            piece = b"x" * min(len(buffer), self._left)
            self._left -= len(piece)
        buffer[: len(piece)] = piece
        self.taken += len(piece)
        return len(piece)


def leading(auth: AuthData = AUTH) -> bytes:
    return json.dumps({"auth_data": dataclasses.asdict(auth)})[:-1].encode() + b', "payload": {"prompt": "'


@pytest.mark.parametrize("chunked", [False, True])
def test_a_signed_body_may_be_large(chunked: bool) -> None:
    size = UNSIGNED_BYTES + 10
    body = Body(leading(), size)
    found = read(body, None if chunked else size, size, checked=True)
    assert len(found) == size
    assert found.startswith(b'{"auth_data"')


@pytest.mark.parametrize("chunked", [False, True])
def test_a_forged_body_is_not_read_on(chunked: bool) -> None:
    size = 100 * 2**20
    body = Body(leading(dataclasses.replace(AUTH, signature="forged")), size)
    with pytest.raises(Unauthorized):
        read(body, None if chunked else size, size, checked=True)
    assert body.taken <= 2 * SMALL_BODY


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize(
    "beginning",
    [
        b"",
        b"[",
        b'{"payload": {"prompt": "',
        b'{"auth_data": {"url": "',
        b'{"auth_data": 7, "payload": {"prompt": "',
        b'{"auth_data": {"signature": "good"}, "payload": {"prompt": "',
        b'{"auth_data": {"signature": "good", "url": "http://a:1", "endpoint": "e", "cost": 1, "reqnum": 12',
    ],
)
def test_who_does_not_begin_with_auth_data_gets_little_room(beginning: bytes, chunked: bool) -> None:
    small = UNSIGNED_BYTES // 2
    assert len(read(Body(beginning, small), None if chunked else small, 2**30, checked=True)) == small

    large = UNSIGNED_BYTES + SMALL_BODY
    body = Body(beginning, large)
    with pytest.raises(NotReady, match="put it before the payload"):
        read(body, None if chunked else large, 2**30, checked=True)
    assert body.taken <= UNSIGNED_BYTES + SMALL_BODY


def test_unsigned_bodies_share_the_room_and_give_it_back() -> None:
    reader = BodyReader(2**30, check, max_unsigned=4)
    half = UNSIGNED_BYTES // 2
    inside, release = threading.Barrier(3), threading.Event()

    def context(size: int) -> Any:
        environ = {"wsgi.input": Body(b"", size), "REQUEST_METHOD": "POST", "CONTENT_LENGTH": str(size)}
        return app.request_context({**EnvironBuilder().get_environ(), **environ})

    def hold() -> None:
        with context(half) as made, reader.reading(made.request.environ):
            inside.wait()
            release.wait()

    with ThreadPoolExecutor(2) as pool:
        holders = [pool.submit(hold) for _ in range(2)]
        inside.wait()
        with context(SMALL_BODY) as made, reader.reading(made.request.environ) as body:
            assert len(body) == SMALL_BODY, "what is small is never in the way"
        with context(2 * SMALL_BODY) as made, pytest.raises(NotReady), reader.reading(made.request.environ):
            pass
        release.set()
        for holder in holders:
            holder.result()
    with context(UNSIGNED_BYTES) as made, reader.reading(made.request.environ) as body:
        assert len(body) == UNSIGNED_BYTES


# -- a worker --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("beginning", ["forged", "no auth_data"])
def test_three_hundred_megabytes_of_unsigned_bodies_cost_little(new_stack: NewStack, beginning: str) -> None:
    stack = new_stack()
    stack.start_ready()
    resting = stack.worker.peak_memory
    forged = json.dumps({"auth_data": stack.auth_data(signature="Zm9yZ2Vk")})[:-1].encode()
    start = (forged + b', "payload": {"prompt": "') if beginning == "forged" else b'{"payload": {"prompt": "'
    size = 50 * 2**20

    def send(_: int) -> int:
        body = start + b"x" * (size - len(start))
        head = f"POST /pass HTTP/1.1\r\nHost: w\r\nContent-Length: {len(body)}\r\n\r\n".encode()
        with RawClient(stack.url) as client:
            with contextlib.suppress(ConnectionError):  # the response came long before the end
                client.send(head + body)
            return client.head()

    with ThreadPoolExecutor(6) as pool:
        statuses = set(pool.map(send, range(6)))
    assert statuses == ({401} if beginning == "forged" else {503})
    assert stack.worker.peak_memory - resting < 150e6
    assert stack.post("/pass").status == 200
