"""No client can hold up the others: slow ones, lingering ones, and too many of them."""

from __future__ import annotations

import contextlib
import resource
import time
from collections.abc import Generator
from pathlib import Path

import pytest

from pyworker.poller import HEAD_SECONDS
from tests.support.http import RawClient, ask
from tests.support.stack import NewStack, Stack
from tests.support.waiting import wait_until

HEAD = b"POST /pass HTTP/1.1\r\nHost: worker\r\n"
LAST_REQUEST = b"GET /ping HTTP/1.1\r\nHost: worker\r\nConnection: close\r\n\r\n"


@contextlib.contextmanager
def clients(url: str, count: int, data: bytes) -> Generator[list[RawClient]]:
    """So many connections that have sent `data` and wait."""
    with contextlib.ExitStack() as ending:
        opened = [ending.enter_context(RawClient(url)) for _ in range(count)]
        for client in opened:
            client.send(data)
        yield opened


def assert_answers_in_two_seconds(stack: Stack) -> None:
    began = time.monotonic()
    assert ask(stack.url, "GET", "/ping").body == b"pong"
    assert stack.post("/pass").status == 200
    assert time.monotonic() - began < 2


@pytest.mark.parametrize(
    "data",
    [
        b"",
        HEAD,
        HEAD + b"Content-Length: 100\r\n\r\n{",
        b"GET /ping HTTP/1.1\r\nHost: w\r\nConnection: close\r\n\r\n",
    ],
    ids=["silent", "half a head", "half a body", "never hanging up"],
)
def test_a_crowd_of_bad_clients_does_not_slow_down_a_good_one(stack: Stack, data: bytes) -> None:
    with clients(stack.url, 150, data):
        assert_answers_in_two_seconds(stack)
        assert_answers_in_two_seconds(stack)
    assert_answers_in_two_seconds(stack)


def test_a_head_that_drips_is_cut_off_at_its_deadline(stack: Stack) -> None:
    began = time.monotonic()
    with RawClient(stack.url) as client:
        client.send(HEAD)
        client.socket.settimeout(0.2)
        ended = False
        while not ended:
            assert time.monotonic() - began < HEAD_SECONDS + 5
            try:
                client.send(b"X-More: of this\r\n")
                ended = client.socket.recv(100) == b""
            except TimeoutError:
                continue
            except ConnectionError:
                ended = True
    assert time.monotonic() - began > HEAD_SECONDS - 1


def test_a_connection_that_ends_is_closed_though_its_client_keeps_it(stack: Stack) -> None:
    with clients(stack.url, 1, LAST_REQUEST) as [client]:
        assert client.answer().body == b"pong"
        assert client.rest() == b""  # the worker's side is closed at once

        def closed() -> bool:
            """Writing to a socket that is closed on the other side is answered with a reset."""
            try:
                client.send(b"x")
            except ConnectionError:
                return True
            return False

        wait_until(closed, "the lingering connection is closed")


def test_without_descriptors_the_worker_pauses_and_goes_on(new_stack: NewStack) -> None:
    stack = new_stack({"WORKER_THREADS": "40"})
    stack.start_ready()
    for pid in _children(stack):
        # What is open already stays open; nothing more can be opened than this.
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (45, 45))
    with clients(stack.url, 60, b"GET /ping HTTP/1.1\r\nHost: w\r\n\r\n"):
        stack.worker.wait_for_log("no new clients for 1 s")
    wait_until(stack.worker.answers_ping, "the worker answers again")
    assert stack.post("/pass").status == 200


def _children(stack: Stack) -> list[int]:
    """The worker process of gunicorn's master."""
    master = stack.worker.pid
    return [int(pid) for pid in Path(f"/proc/{master}/task/{master}/children").read_text("ascii").split()]
