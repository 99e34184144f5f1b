"""Many of everything: nothing grows, nothing is lost. `pytest -m soak --soak-size 1` is the full length."""

from __future__ import annotations

import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest

from pyworker.config import raise_descriptor_limit
from tests.support.http import RawClient, next_request_idx
from tests.support.scripted import Act, chunk, head
from tests.support.stack import NewStack, Stack
from tests.support.waiting import wait_until

CHUNKED = head("Transfer-Encoding: chunked", "Content-Type: text/event-stream")
CLIENTS = 16
#: Of a run of full length.
REQUESTS = 100_000
ABANDONED = 10_000
MEGABYTE = 1e6


class Usage:
    """What the worker's process holds at a moment."""

    def __init__(self, stack: Stack) -> None:
        folder = Path(f"/proc/{stack.worker.worker_pid}")
        status = dict(
            line.split(":", 1) for line in (folder / "status").read_text("utf-8").splitlines() if ":" in line
        )
        self.memory = int(status["VmRSS"].split()[0]) * 1024
        self.threads = int(status["Threads"])
        self.descriptors = len(list((folder / "fd").iterdir()))

    def __repr__(self) -> str:
        return (
            f"<Usage {self.memory / MEGABYTE:.1f} MB, {self.threads} threads, {self.descriptors} descriptors>"
        )


def serve(stack: Stack, count: int) -> None:
    """So many requests by CLIENTS clients, each on a connection of its own."""

    def client(number: int) -> None:
        with RawClient(stack.url) as connection:
            for _ in range(number, count, CLIENTS):
                connection.post("/pass", stack.envelope(request_idx=next_request_idx()))
                assert connection.answer().status == 200

    with ThreadPoolExecutor(CLIENTS) as pool:
        list(pool.map(client, range(CLIENTS)))


def abandon(stack: Stack, count: int) -> None:
    """So many streams whose clients leave after the first token, in the ordinary way or with a reset."""

    def client(number: int) -> None:
        connection = stack.open("/stream", request_idx=next_request_idx())
        connection.until(b"one")
        if number % 2:
            connection.close()
        else:
            connection.reset()

    with ThreadPoolExecutor(CLIENTS) as pool:
        list(pool.map(client, range(count)))


def wait_until_idle(stack: Stack, records: int) -> Counter[str]:
    """Until so many records arrived in all; how often each outcome is in them."""
    fleet = stack.autoscaler.fleet
    found = fleet.wait_for(lambda fleet: sum(fleet.finished_counts.values()) >= records, 60)
    assert found, f"of {records} records came {fleet.finished_counts}"
    stack.wait_in_hand(0)
    return Counter(fleet.finished_counts)


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_nothing_grows(new_stack: NewStack, soak_size: float) -> None:
    requests, abandoned = int(REQUESTS * soak_size), int(ABANDONED * soak_size)
    stack = new_stack()
    stack.start_ready()
    stack.model.script("/stream", CHUNKED, chunk(b"one"), Act.HANG)
    serve(stack, 500)
    abandon(stack, 100)
    warmed_up = wait_until_idle(stack, 600)
    before = Usage(stack)

    serve(stack, requests)
    abandon(stack, abandoned)
    outcomes = wait_until_idle(stack, 600 + requests + abandoned)

    assert outcomes - warmed_up == {"Success": requests, "Cancelled": abandoned}
    # Connections that have just ended may still be on their way out.
    wait_until(lambda: Usage(stack).descriptors <= before.descriptors + CLIENTS, "descriptors as before")
    after = Usage(stack)
    # The pool keeps as many threads as it ever needed: a client that left is noticed a moment later.
    assert after.threads <= before.threads + 5 * CLIENTS, (before, after)
    assert after.memory - before.memory < 15 * MEGABYTE, (before, after)
    assert "Traceback" not in stack.worker.log


@pytest.mark.soak
def test_at_sigterm_three_hundred_streams_end_whole(new_stack: NewStack) -> None:
    raise_descriptor_limit()
    stack = new_stack({"DRAIN_TIMEOUT": "30"})
    stack.start_ready()
    gate = threading.Event()
    stack.model.script("/stream", CHUNKED, chunk(b"one"), gate, chunk(b"two"), chunk(b""))
    indices = [next_request_idx() for _ in range(300)]
    with ExitStack() as closing:
        clients = [closing.enter_context(stack.open("/stream", request_idx=index)) for index in indices]
        for client in clients:
            assert client.head() == 200
            assert client.chunk() == b"one"
        stack.worker.terminate()
        stack.wait_draining()
        gate.set()
        for client in clients:
            assert client.chunk() == b"two"
            assert client.chunk() == b"", "a stream was cut"
    began = time.monotonic()
    assert stack.worker.wait() == 0
    assert time.monotonic() - began < 10
    assert Counter(stack.outcome(index) for index in indices) == {"Success": 300}
