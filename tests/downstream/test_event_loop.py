"""The event loop and the threads beside gunicorn: what is accepted, what is closed, what is done when."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from pyworker.downstream.acceptor import Listener
from pyworker.downstream.connection import ClientSocket, Stage
from pyworker.downstream.framing import Framing
from pyworker.downstream.ranking import Ranking
from pyworker.runtime.thread_pool import ThreadPool, waiting
from tests.support.front import HELD, REQUEST, TOGETHER, Front
from tests.support.http import RawClient
from tests.support.process import ROOT
from tests.support.waiting import wait_event, wait_until


@pytest.fixture
def new_front() -> Iterator[Callable[[int], Front]]:
    with ExitStack() as ending:
        yield lambda max_connections: Front(ending, max_connections)


def test_when_full_the_connection_idle_longest_is_closed(new_front: Callable[[int], Front]) -> None:
    front = new_front(3)
    with ExitStack() as ending:
        clients = [ending.enter_context(RawClient(front.url)) for _ in range(3)]
        wait_for_stages(front, "[3 connected: 3 sending a header block]>")
        for number, client in enumerate(clients, start=1):
            client.send(REQUEST)
            assert client.head() == 204
            # It has its response a moment before it counts as idle.
            wait_for_stages(front, f"{number} idle]>")
        another = ending.enter_context(RawClient(front.url))
        another.send(REQUEST)
        assert another.head() == 204
        assert clients[0].rest() == b""
        for client in clients[1:]:
            client.send(REQUEST)
            assert client.head() == 204
    wait_until(lambda: repr(front.event_loop) == "<EventLoop [0 connected]>", "no connection is left")


def test_when_all_are_in_use_a_new_connection_waits(new_front: Callable[[int], Front]) -> None:
    front = new_front(2)
    with ExitStack() as ending:
        busy = [ending.enter_context(RawClient(front.url)) for _ in range(2)]
        for client in busy:
            client.send(HELD)
        stages = "<EventLoop [2 connected: 2 in the pool]>"
        wait_until(lambda: repr(front.event_loop) == stages, "both have a thread")
        another = ending.enter_context(RawClient(front.url))
        another.send(REQUEST)
        front.release.set()
        for client in busy:
            assert client.head() == 204
        assert another.head() == 204


def test_of_those_that_are_sending_the_one_that_sent_least_for_longest_makes_room(
    new_front: Callable[[int], Front],
) -> None:
    front = new_front(3)
    head = b"POST / HTTP/1.1\r\nContent-Length: 60000\r\n\r\n"
    with ExitStack() as ending:
        half_a_head, little, much = [ending.enter_context(RawClient(front.url)) for _ in range(3)]
        half_a_head.send(REQUEST[:-1])
        wait_until(lambda: "3 sending a header block" in repr(front.event_loop), "all are connected")
        little.send(head)
        wait_until(lambda: "1 sending a body" in repr(front.event_loop), "the head of a request")
        much.send(head + b"x" * 59_000)
        wait_until(lambda: "2 sending a body" in repr(front.event_loop), "most of a body")
        for _ in range(2):
            another = ending.enter_context(RawClient(front.url))
            another.send(REQUEST)
            assert another.head() == 204
        assert half_a_head.rest() == b""
        assert little.rest() == b""
        much.send(b"x" * 1000)
        assert much.head() == 204


def wait_for_stages(front: Front, end: str) -> None:
    wait_until(lambda: repr(front.event_loop).endswith(end), end)


NewClient = Callable[[float, int], ClientSocket]


@pytest.fixture
def new_client() -> Iterator[NewClient]:
    """Connections that entered their stage at some time, and the bytes sent since."""
    with ExitStack() as ending:

        def make(since: float, sent: int) -> ClientSocket:
            ours, theirs = map(ending.enter_context, socket.socketpair())
            client = ClientSocket(ours, "", Listener(ours, None), Framing(2**20))
            client.framing.feed(b"POST / HTTP/1.1\r\nContent-Length: 1000000\r\n\r\n".ljust(sent, b"x"))
            client.since = since
            del theirs
            return client

        yield make


def test_bytes_that_came_make_up_for_time(new_client: NewClient) -> None:
    ranking = Ranking()
    clients = [new_client(100.0, 60_000), new_client(100.5, 100), new_client(101.0, 100)]
    for client in clients:
        ranking.add(client)
    for client in (clients[1], clients[0], clients[2]):
        assert ranking.lowest() is client
        assert ranking.lowest() is client, "until it is removed"
        ranking.remove(client)
    assert ranking.lowest() is None


def test_a_connection_in_use_is_not_closed_to_make_room(new_client: NewClient) -> None:
    ranking = Ranking()
    busy, idle = new_client(100.0, 100), new_client(200.0, 100)
    busy.stage = Stage.WORKING
    for client in (busy, idle):
        ranking.add(client)
    assert ranking.lowest() is idle
    idle.stage = Stage.WORKING
    assert ranking.lowest() is None
    busy.stage, busy.since = Stage.IDLE, time.monotonic()
    assert ranking.lowest() is busy


def test_a_ranking_keeps_no_removed_connection_alive(new_client: NewClient) -> None:
    ranking = Ranking()
    client = new_client(100.0, 100)
    for _ in range(1000):
        ranking.add(client)
        ranking.remove(client)
    removed = weakref.ref(client)
    del client
    assert removed() is None
    assert ranking.lowest() is None


def test_a_request_that_waits_unnoticed_does_not_hold_up_the_next(new_front: Callable[[int], Front]) -> None:
    front = new_front(2)
    with ExitStack() as ending:
        clients = [ending.enter_context(RawClient(front.url)) for _ in range(2)]
        for client in clients:
            client.send(TOGETHER)  # neither is answered without the other
        assert [client.head() for client in clients] == [204, 204]


def test_threads_take_what_waits_in_its_order() -> None:
    done: list[int] = []
    gate, finished = threading.Event(), threading.Event()

    def work(item: int) -> None:
        if item == 1:
            gate.wait()
        done.append(item)
        if item == 2:
            raise ValueError("a fault of the work")
        if item == 10:
            finished.set()

    pool = ThreadPool(1, work, concurrency=1)
    assert repr(pool) == "<ThreadPool [0 of 1 busy, 0 waiting]>"
    for item in range(1, 11):
        pool.submit(item)
    assert repr(pool) == "<ThreadPool [1 of 1 busy, 9 waiting]>"
    gate.set()
    wait_event(finished, "the last item")
    assert done == list(range(1, 11))
    wait_until(lambda: repr(pool) == "<ThreadPool [0 of 1 busy, 0 waiting]>", "the thread is idle")
    pool.close()


def test_threads_are_made_when_they_are_needed_and_used_again() -> None:
    names: list[str] = []
    gate = threading.Barrier(3)

    def work(item: str) -> None:
        names.append(threading.current_thread().name)
        if item == "together":
            gate.wait(10)

    pool = ThreadPool(5, work, concurrency=2)
    for _ in range(4):
        pool.submit("alone")
        wait_until(lambda: "[0 of" in repr(pool), "the thread is idle")
    assert len(set(names)) == 1
    pool.submit("together")
    pool.submit("together")
    gate.wait(10)
    assert len(set(names)) == 2
    pool.close()


def test_the_next_item_is_begun_when_one_waits_for_something_else() -> None:
    gate, begun = threading.Event(), threading.Event()

    def work(item: str) -> None:
        if item == "waits":
            with waiting:
                gate.wait(10)
        else:
            begun.set()

    pool = ThreadPool(5, work, concurrency=1)
    pool.submit("waits")
    pool.submit("next")
    wait_event(begun, "the next item")
    gate.set()
    wait_until(lambda: "[0 of" in repr(pool), "the threads are idle")
    pool.close()


def test_an_item_is_not_begun_while_another_runs_unless_that_takes_too_long() -> None:
    gate = threading.Event()
    begun: list[int] = []

    def work(item: int) -> None:
        begun.append(item)
        gate.wait(10)

    pool = ThreadPool(5, work, concurrency=1)
    assert pool.nudge_stalled() == float("inf"), "nothing is late"
    pool.submit(1)
    pool.submit(2)
    wait_until(lambda: begun == [1], "the first item")
    assert repr(pool) == "<ThreadPool [1 of 5 busy, 1 waiting]>"
    wait_until(lambda: pool.nudge_stalled() == float("inf"), "the second is begun")
    wait_until(lambda: begun == [1, 2], "the second item")
    gate.set()
    wait_until(lambda: "[0 of" in repr(pool), "the threads are idle")
    pool.close()


def test_nothing_is_nudged_when_all_threads_are_in_use() -> None:
    gate = threading.Event()

    def work(_: int) -> None:
        with waiting:
            gate.wait(10)

    pool = ThreadPool(2, work, concurrency=1)
    for item in range(3):
        pool.submit(item)
    wait_until(lambda: repr(pool) == "<ThreadPool [2 of 2 busy, 1 waiting]>", "both threads are in use")
    assert pool.nudge_stalled() == float("inf")
    gate.set()
    wait_until(lambda: repr(pool) == "<ThreadPool [0 of 2 busy, 0 waiting]>", "all is done")
    pool.close()


def test_stalled_items_do_not_slow_down_the_others_for_good() -> None:
    gate, finished = threading.Event(), threading.Event()
    done: list[str] = []

    def work(item: str) -> None:
        if item == "stuck":
            gate.wait(10)
        done.append(item)
        if item == "last":
            finished.set()

    pool = ThreadPool(5, work, concurrency=1)
    for item in ("stuck", "stuck", *["quick"] * 100, "last"):
        pool.submit(item)
    wait_until(lambda: pool.nudge_stalled() > 0 and len(done) > 0, "a quick one is done")
    wait_event(finished, "all others, without being asked again")
    gate.set()
    wait_until(lambda: "[0 of" in repr(pool), "the threads are idle")
    pool.close()


SHORT_OF_THREADS = """
import resource, select, threading, time
from pyworker.downstream.acceptor import Listener
from pyworker.downstream.connection import ClientSocket, Stage
from pyworker.downstream.framing import Framing
from pyworker.downstream.ranking import Ranking
from pyworker.runtime.thread_pool import ThreadPool

size = 32 * 2**20
threading.stack_size(size)
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
# Room for about three stacks.
resource.setrlimit(resource.RLIMIT_AS, (used + 4 * size, resource.RLIM_INFINITY))
gate, done, lock = threading.Event(), [], threading.Lock()

def work(item):
    gate.wait()
    with lock:
        done.append(item)
    if len(done) in (10, 15):
        finished.set()

finished = threading.Event()
pool = ThreadPool(10, work, concurrency=10)
for item in range(10):
    pool.submit(item)
gate.set()
assert finished.wait(20), (done, pool)
few = pool._count
# There is room again: the pool is as before.
resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY,) * 2)
gate.clear()
finished.clear()
for item in range(10, 20):
    pool.submit(item)
deadline = time.monotonic() + 20
while pool._count < 10 and time.monotonic() < deadline:
    select.select([], [], [], min(pool.nudge_stalled(), 0.1))
print(few < 10, pool._count)
gate.set()
"""


def test_where_the_system_gives_no_more_threads_the_others_do_the_work_until_it_does_again() -> None:
    done = subprocess.run(
        [sys.executable, "-c", SHORT_OF_THREADS],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stdout == "True 10\n", done.stderr
    assert "thread creation failed: requests wait for the " in done.stderr
