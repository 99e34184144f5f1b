"""No client can hold up the others: slow ones, lingering ones, and too many of them."""

from __future__ import annotations

import contextlib
import resource
import time
from collections.abc import Generator
from pathlib import Path

import pytest

from pyworker.downstream.request_reader import HEAD_SECONDS
from tests.support.hostile import (
    HEAD,
    LAST_REQUEST,
    SLOW,
    asking_for_much,
    clients,
    dripping,
    sending,
    with_half_a_handshake,
    with_small_buffer,
)
from tests.support.http import RawClient, ask
from tests.support.scripted import whole
from tests.support.stack import NewStack, Stack
from tests.support.tls import tls_variables
from tests.support.waiting import wait_until

CROWD = 600


@pytest.fixture(autouse=True)
def many_descriptors() -> Generator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 65536), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def assert_answers_in_two_seconds(stack: Stack) -> None:
    for _ in range(3):
        began = time.monotonic()
        assert ask(stack.url, "GET", "/ping").body == b"pong"
        assert stack.post("/json").status == 200
        assert time.monotonic() - began < 2


@pytest.mark.parametrize("kind", SLOW)
def test_a_crowd_of_bad_clients_does_not_slow_down_a_good_one(front: Stack, kind: str) -> None:
    connect, piece = SLOW[kind]
    front.model.script("/json", whole(b"{}"))
    with clients(front.url, CROWD, connect) as crowd, dripping(crowd if piece else [], piece):
        assert_answers_in_two_seconds(front)


def test_a_crowd_that_does_not_read_does_not_slow_down_a_good_one(front: Stack) -> None:
    """Requests in hand stay there, as the kernel takes only a part of a response for each;
    /ping and refusals have threads of their own.
    """
    front.model.script("/pass", whole(b"x" * 2**20))
    with clients(front.url, CROWD, asking_for_much(front)):
        for _ in range(3):
            began = time.monotonic()
            assert ask(front.url, "GET", "/ping").body == b"pong"
            assert front.post("/json").status == 429
            assert time.monotonic() - began < 2


def test_clients_that_send_without_reading_get_no_threads(front: Stack) -> None:
    requests = b"GET /ping HTTP/1.1\r\nHost: worker\r\n\r\n" * 2000
    with clients(front.url, 80, with_small_buffer) as crowd:
        for client in crowd:
            client.socket.settimeout(0)
            with contextlib.suppress(OSError):
                client.socket.send(requests)
        front.model.script("/json", whole(b"{}"))
        assert_answers_in_two_seconds(front)


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
def test_all_kinds_at_once_with_the_usual_number_of_threads(
    new_stack: NewStack, tmp_path: Path, tls: bool
) -> None:
    stack: Stack = new_stack(tls_variables(tmp_path) if tls else {})
    stack.start_ready()
    stack.model.script("/json", whole(b"{}"))
    with contextlib.ExitStack() as ending:
        for connect, piece in SLOW.values():
            crowd = ending.enter_context(clients(stack.url, CROWD // 4, connect))
            ending.enter_context(dripping(crowd if piece else [], piece))
        assert_answers_in_two_seconds(stack)


def test_a_head_that_drips_is_cut_off_at_its_deadline(front: Stack) -> None:
    began = time.monotonic()
    with RawClient(front.url) as client:
        client.send(HEAD)
        client.socket.settimeout(0.2)
        ended = False
        while not ended:
            assert time.monotonic() - began < HEAD_SECONDS + 5
            with contextlib.suppress(TimeoutError):
                client.send(b"X-More: of this\r\n")
                ended = client.receive()
        client.socket.settimeout(5)
        answer = client.answer()
    assert time.monotonic() - began > HEAD_SECONDS - 1
    assert (answer.status, answer.header("Connection")) == (408, "close")
    assert "in time" in answer.object()["error"]


def test_the_silent_and_those_who_leave_a_handshake_are_just_hung_up_on(front: Stack) -> None:
    with RawClient(front.url) as silent, with_half_a_handshake(front.url) as half:
        began = time.monotonic()
        assert silent.rest() == b""
        if front.url.startswith("https"):
            assert half.rest() == b""
        assert HEAD_SECONDS - 2 < time.monotonic() - began < HEAD_SECONDS + 3


def test_a_connection_that_ends_is_closed_though_its_client_keeps_it(front: Stack) -> None:
    with clients(front.url, 1, sending(LAST_REQUEST)) as [client]:
        assert client.answer().body == b"pong"
        assert client.rest() == b""  # the worker's side is closed immediately

        def closed() -> bool:
            """Writing to a socket that is closed on the other side is answered with a reset."""
            try:
                client.send(b"x")
            except OSError:
                return True
            return False

        wait_until(closed, "the lingering connection is closed")


def test_without_descriptors_the_worker_pauses_and_goes_on(new_stack: NewStack) -> None:
    stack = new_stack({"WORKER_THREADS": "40"})
    stack.start_ready()
    for pid in stack.worker.children:
        # What is open already stays open; nothing more can be opened than this.
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (45, 45))
    with clients(stack.url, 60, sending(b"GET /ping HTTP/1.1\r\nHost: w\r\n\r\n")):
        stack.worker.wait_for_log("no new connections are accepted for 1 s")
    wait_until(stack.worker.answers_ping, "the worker answers again")
    assert stack.post("/pass").status == 200
