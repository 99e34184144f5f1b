"""The poller and the threads beside gunicorn: who is let in, who makes room, what is done when."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from pyworker.client_socket import ClientSocket
from pyworker.disconnect import DisconnectWatcher
from pyworker.poller import Poller
from pyworker.thread_pool import ThreadPool, waiting
from tests.support.http import RawClient
from tests.support.waiting import wait_event, wait_until

REQUEST = b"GET / HTTP/1.1\r\n\r\n"
TOGETHER = b"GET /together HTTP/1.1\r\n\r\n"
ANSWER = b"HTTP/1.1 204 No Content\r\n\r\n"


class Front:
    """A poller on a thread of its own, with threads that answer every request at once."""

    def __init__(self, ending: ExitStack, max_connections: int) -> None:
        self.pool = ThreadPool(4, self._answer, at_once=1)
        self.poller = Poller(
            self.pool.submit,
            DisconnectWatcher().tell,
            self.pool.hasten,
            wrap_tls=None,
            max_connections=max_connections,
            max_large=1,
            max_body=2**20,
            keepalive=60,
        )
        listener = ending.enter_context(socket.create_server(("127.0.0.1", 0)))
        listener.setblocking(False)
        self.url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        wake_read, self._wake_write = os.pipe()
        ending.callback(os.close, wake_read)
        ending.callback(os.close, self._wake_write)
        self.poller.listen([listener], wake_read)
        self._stopping = False
        self.both = threading.Barrier(2)
        thread = threading.Thread(target=self._serve)
        thread.start()
        ending.callback(self.pool.close)
        ending.callback(thread.join)
        ending.callback(self._stop)

    def _serve(self) -> None:
        while not self._stopping:
            self.poller.serve(1.0)
        self.poller.drain()
        while self.poller.connections:
            self.poller.serve(0.1)
        self.poller.close()

    def _stop(self) -> None:
        self._stopping = True
        os.write(self._wake_write, b"\0")

    def _answer(self, client: ClientSocket) -> None:
        if client.framing.received == TOGETHER:
            self.both.wait(10)
        client.sock.sendall(ANSWER)
        self.poller.give_back(client, b"")


@pytest.fixture
def new_front() -> Iterator[Callable[[int], Front]]:
    with ExitStack() as ending:
        yield lambda max_connections: Front(ending, max_connections)


def test_where_it_is_full_the_one_idle_for_longest_makes_room(new_front: Callable[[int], Front]) -> None:
    front = new_front(3)
    with ExitStack() as ending:
        clients = [ending.enter_context(RawClient(front.url)) for _ in range(3)]
        for client in clients:
            client.send(REQUEST)
            assert client.head() == 204
        wait_until(lambda: repr(front.poller) == "<Poller [3 connected: 3 idle]>", "all of them idle")
        newcomer = ending.enter_context(RawClient(front.url))
        newcomer.send(REQUEST)
        assert newcomer.head() == 204
        assert clients[0].rest() == b""
        for client in clients[1:]:
            client.send(REQUEST)
            assert client.head() == 204
    wait_until(lambda: repr(front.poller) == "<Poller [0 connected]>", "nobody is left")


def test_where_all_are_in_use_a_newcomer_waits(new_front: Callable[[int], Front]) -> None:
    front = new_front(2)
    with ExitStack() as ending:
        busy = [ending.enter_context(RawClient(front.url)) for _ in range(2)]
        for client in busy:
            client.send(REQUEST[:-1])
        stages = "<Poller [2 connected: 2 sending a head]>"
        wait_until(lambda: repr(front.poller) == stages, "both are sending")
        newcomer = ending.enter_context(RawClient(front.url))
        newcomer.send(REQUEST)
        for client in busy:
            client.send(REQUEST[-1:])
            assert client.head() == 204
        assert newcomer.head() == 204


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

    pool = ThreadPool(1, work, at_once=1)
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

    pool = ThreadPool(5, work, at_once=2)
    for _ in range(4):
        pool.submit("alone")
        wait_until(lambda: "[0 of" in repr(pool), "the thread is idle")
    assert len(set(names)) == 1
    pool.submit("together")
    pool.submit("together")
    gate.wait(10)
    assert len(set(names)) == 2
    pool.close()


def test_the_next_item_is_begun_when_one_waits_for_somebody_else() -> None:
    gate, begun = threading.Event(), threading.Event()

    def work(item: str) -> None:
        if item == "waits":
            with waiting:
                gate.wait(10)
        else:
            begun.set()

    pool = ThreadPool(5, work, at_once=1)
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

    pool = ThreadPool(5, work, at_once=1)
    assert pool.hasten() == float("inf"), "nothing is late"
    pool.submit(1)
    pool.submit(2)
    wait_until(lambda: begun == [1], "the first item")
    assert repr(pool) == "<ThreadPool [1 of 5 busy, 1 waiting]>"
    wait_until(lambda: pool.hasten() == float("inf"), "the second is begun")
    wait_until(lambda: begun == [1, 2], "the second item")
    gate.set()
    wait_until(lambda: "[0 of" in repr(pool), "the threads are idle")
    pool.close()


def test_where_all_threads_are_in_use_there_is_nothing_to_hasten() -> None:
    gate = threading.Event()

    def work(_: int) -> None:
        with waiting:
            gate.wait(10)

    pool = ThreadPool(2, work, at_once=1)
    for item in range(3):
        pool.submit(item)
    wait_until(lambda: repr(pool) == "<ThreadPool [2 of 2 busy, 1 waiting]>", "both threads are in use")
    assert pool.hasten() == float("inf")
    gate.set()
    wait_until(lambda: repr(pool) == "<ThreadPool [0 of 2 busy, 0 waiting]>", "all is done")
    pool.close()


def test_those_that_wait_unnoticed_do_not_slow_down_the_others_for_good() -> None:
    gate, finished = threading.Event(), threading.Event()
    done: list[str] = []

    def work(item: str) -> None:
        if item == "stuck":
            gate.wait(10)
        done.append(item)
        if item == "last":
            finished.set()

    pool = ThreadPool(5, work, at_once=1)
    for item in ("stuck", "stuck", *["quick"] * 100, "last"):
        pool.submit(item)
    wait_until(lambda: pool.hasten() > 0 and len(done) > 0, "a quick one is done")
    wait_event(finished, "all others, without being asked again")
    gate.set()
    wait_until(lambda: "[0 of" in repr(pool), "the threads are idle")
    pool.close()


SHORT_OF_THREADS = """
import resource, threading
from pyworker.thread_pool import ThreadPool

size = 32 * 2**20
threading.stack_size(size)
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
# Room for about three stacks.
resource.setrlimit(resource.RLIMIT_AS, (used + 4 * size,) * 2)
gate, done, lock = threading.Event(), [], threading.Lock()

def work(item):
    gate.wait()
    with lock:
        done.append(item)
    if len(done) == 10:
        finished.set()

finished = threading.Event()
pool = ThreadPool(10, work, at_once=10)
for item in range(10):
    pool.submit(item)
gate.set()
assert finished.wait(20), (done, pool)
print(sorted(done))
"""


def test_where_the_system_gives_no_more_threads_those_there_are_do_all_the_work() -> None:
    done = subprocess.run(
        [sys.executable, "-c", SHORT_OF_THREADS],
        cwd=Path(__file__).resolve().parent.parent,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stdout == "[0, 1, 2, 3, 4, 5, 6, 7, 8, 9]\n", done.stderr
    assert "threads can be made; requests wait for them" in done.stderr
