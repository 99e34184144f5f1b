"""System calls that do not wait: what they return if there is nothing, an end or an error."""

from __future__ import annotations

import os
import socket
import struct
import threading
import time
from collections.abc import Iterator

import pytest

from pyworker.runtime import nonblocking
from tests.support.sockets import Ends, connected, reset

LARGE = os.urandom(4 * 2**20)
LARGE_SHARE = len(LARGE) // 8


@pytest.fixture
def pair() -> Iterator[Ends]:
    with connected() as ends:
        yield ends


@pytest.mark.parametrize("size", [1, nonblocking.COPY_SIZE, nonblocking.COPY_SIZE + 1, len(LARGE)])
def test_all_is_sent_however_slowly_it_is_taken(pair: Ends, size: int) -> None:
    near, far = pair
    near.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    sending = threading.Thread(target=nonblocking.send_all, args=(near, LARGE[:size]))
    sending.start()
    found = b""
    while len(found) < size:
        found += far.recv(1000)
    sending.join()
    assert found == LARGE[:size]


def test_a_peer_that_takes_nothing_has_the_time_once(pair: Ends) -> None:
    """However many calls it is that the kernel takes a little of."""
    near, far = pair
    nowait_seconds = 0.5
    # What `set_options` does for a worker's listener: each call may wait that long.
    near.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", 0, 500_000))
    near.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    started = time.monotonic()
    with pytest.raises(TimeoutError):
        nonblocking.send_all(near, LARGE, nowait_seconds)
    assert nowait_seconds <= time.monotonic() - started < 1.8 * nowait_seconds
    assert far.recv(1)


def test_a_peer_that_takes_it_slowly_has_as_long_as_it_needs(pair: Ends) -> None:
    near, far = pair
    near.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    sending = threading.Thread(target=nonblocking.send_all, args=(near, LARGE, 0.5))
    started = time.monotonic()
    sending.start()
    pause, taken = threading.Event(), 0
    while taken < len(LARGE):
        taken += len(far.recv(LARGE_SHARE, socket.MSG_WAITALL))
        pause.wait(0.1)
    sending.join()
    assert time.monotonic() - started > 0.7
    assert taken == len(LARGE)


def test_if_the_buffer_is_full_nothing_is_sent(pair: Ends) -> None:
    near, _ = pair
    while sent := nonblocking.send(near.fileno(), LARGE):
        assert 0 < sent <= len(LARGE)
    assert nonblocking.send(near.fileno(), b"x") == 0


def test_what_there_is_to_receive(pair: Ends) -> None:
    near, far = pair
    receiver = nonblocking.Receiver(4)
    assert receiver.receive(near.fileno()) is None
    assert nonblocking.is_silent(near.fileno())
    far.sendall(b"\0hello")
    near.recv(1, socket.MSG_PEEK)  # waits until it is here
    assert not nonblocking.is_silent(near.fileno())
    assert [receiver.receive(near.fileno()) for _ in range(3)] == [b"\0hel", b"lo", None]
    far.close()
    assert near.recv(1) == b""
    assert receiver.receive(near.fileno()) == b""
    assert not nonblocking.is_silent(near.fileno()), "the end is something to read"


def test_a_reset_is_an_error_as_of_a_socket(pair: Ends) -> None:
    near, far = pair
    far.sendall(b"x")
    near.recv(1, socket.MSG_PEEK)
    reset(far)
    assert not nonblocking.is_silent(near.fileno())
    near.recv(1)
    with pytest.raises(ConnectionResetError):
        near.recv(1)
    with pytest.raises(BrokenPipeError):
        nonblocking.send(near.fileno(), b"x")
    with pytest.raises(BrokenPipeError):
        nonblocking.send_all(near, LARGE)


def test_a_descriptor_that_is_none() -> None:
    with pytest.raises(OSError, match="Bad file descriptor"):
        nonblocking.send(-1, b"x")
    with pytest.raises(OSError, match="Bad file descriptor"):
        nonblocking.Receiver(10).receive(-1)
