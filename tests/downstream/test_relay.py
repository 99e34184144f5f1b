"""Streams that wait for the model server: on one thread, exact, and not in each other's way."""

from __future__ import annotations

import contextlib
import http.client
import math
import os
import queue
import select
import socket
import threading
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

from pyworker.downstream.relay import Relays
from pyworker.runtime.nonblocking import Receiver
from pyworker.runtime.thread_pool import ThreadPool
from pyworker.upstream.call import ModelCall
from pyworker.upstream.response_reader import ResponseReader
from pyworker.wsgi_extensions import Arrival
from tests.support.http import RawClient, next_request_idx
from tests.support.process import WorkerProcess
from tests.support.scripted import Act, chunk, head, whole
from tests.support.sockets import Ends, connected, reset
from tests.support.stack import NewStack, Stack
from tests.support.waiting import DEADLINE, wait_until

HEAD = head("Transfer-Encoding: chunked")
#: More than the worker's and the client's end of a connection hold together.
MUCH = os.urandom(2**23)


def threads_of(worker: WorkerProcess) -> int:
    return len(list(Path(f"/proc/{worker.worker_pid}/task").iterdir()))


@contextlib.contextmanager
def streams(stack: Stack, path: str, count: int) -> Generator[list[RawClient]]:
    """So many that have got their first piece."""
    with contextlib.ExitStack() as closing:
        clients = [closing.enter_context(stack.open(path)) for _ in range(count)]
        for client in clients:
            assert client.head() == 200
            assert client.chunk() == b"one"
        yield clients


@pytest.fixture
def pair() -> Iterator[Ends]:
    with connected() as ends:
        yield ends


# -- in a worker -----------------------------------------------------------------------------------------


def test_streams_that_wait_need_no_threads(new_stack: NewStack) -> None:
    stack = new_stack({"WORKER_THREADS": "64"})
    stack.start_ready()
    gate = threading.Event()
    stack.model.script("/stream", HEAD, chunk(b"one"), gate, chunk(b"two"), chunk(b""))
    assert stack.post("/pass").status == 200
    before = threads_of(stack.worker)
    with contextlib.ExitStack() as closing:
        # One after the other, so that a thread may take the next when it is done with the last.
        clients = [closing.enter_context(streams(stack, "/stream", 1))[0] for _ in range(40)]
        stack.wait_in_hand(40)
        assert threads_of(stack.worker) - before < 10
        gate.set()
        for client in clients:
            assert client.chunk() == b"two"
            assert client.chunk() == b""
    stack.wait_in_hand(0)


def test_one_that_is_not_read_holds_up_no_other(front: Stack) -> None:
    gates = [threading.Event(), threading.Event()]
    front.model.script("/stream", HEAD, chunk(b"one"), gates[0], chunk(MUCH), chunk(b""))
    front.model.script("/pass", HEAD, chunk(b"one"), gates[1], chunk(b"two"), chunk(b""))
    with streams(front, "/stream", 3) as slow, streams(front, "/pass", 3) as quick:
        gates[0].set()
        # What the worker cannot get rid of stays with the model server.
        front.model.wait_for(lambda: len(front.model.requests("/stream")) == 3, "three that send much")
        gates[1].set()
        for client in quick:
            assert client.chunk() == b"two"
            assert client.chunk() == b""
        for client in slow:
            received = b""
            while piece := client.chunk():
                received += piece
            assert received == MUCH
    front.wait_in_hand(0)


def test_a_stream_that_comes_byte_by_byte_is_exact(stack: Stack) -> None:
    rest = chunk(b"two") + b"5;a=b\r\nthree\r\n0\r\nX-Sum: 1\r\n\r\n"
    gate = threading.Event()
    stack.model.script("/stream", HEAD, chunk(b"one"), gate, *(rest[i : i + 1] for i in range(len(rest))))
    with streams(stack, "/stream", 1) as [client]:
        gate.set()
        received = b""
        while piece := client.chunk():
            received += piece
        assert received == b"twothree"
        assert stack.post("/pass").status == 200


def test_a_client_that_leaves_while_its_stream_is_stuck(stack: Stack) -> None:
    gate = threading.Event()
    stack.model.script("/stream", HEAD, chunk(b"one"), gate, chunk(MUCH), Act.HANG)
    request_idx = next_request_idx()
    with stack.open("/stream", request_idx=request_idx) as client:
        client.until(b"one")
        gate.set()
        client.exactly(2**20)  # it has begun
    assert stack.outcome(request_idx) == "Cancelled"
    assert stack.model.request("/stream").gone.wait(DEADLINE)


def test_a_stream_over_a_kept_connection_is_followed_by_requests(stack: Stack) -> None:
    gate = threading.Event()
    stack.model.script("/stream", HEAD, chunk(b"one"), gate, chunk(b"two"), chunk(b""))
    stack.model.script("/pass", whole(b"later"))
    with streams(stack, "/stream", 1) as [client]:
        # The next request has arrived before the response to this one ends.
        client.post("/pass", stack.envelope())
        gate.set()
        assert client.chunk() == b"two"
        assert client.chunk() == b""
        assert client.answer().body == b"later"


# -- an answer without waiting ---------------------------------------------------------------------------

#: What arrives together, and what is made of it: None for nothing, bytes for a piece, "as it came" for chunks
#: that are passed on with their framing, "more" for all the rest.
ARRIVALS: dict[str, list[tuple[bytes, bytes | str | None]]] = {
    "a size in two": [(b"5", None), (b"\r\nhello\r\n", b"hello")],
    "the end of a size": [(b"5\r", None), (b"\nhello\r\n", b"hello")],
    "a size alone": [(b"5\r\n", None), (b"hello\r\n", b"hello")],
    "a chunk in two": [(b"5\r\nhe", b"he"), (b"llo\r\n", b"llo")],
    "the end of a chunk": [(b"5\r\nhello", b"hello"), (b"\r", None), (b"\n3\r\nyou\r\n", b"you")],
    "two chunks": [(b"5\r\nhello\r\n3\r\nyou\r\n", "as it came")],
    "a chunk and a half": [(b"5\r\nhello\r\n3\r\nyo", b"helloyo"), (b"u\r\n", b"u")],
    "an extension": [(b"5;a=b\r\nhello\r\n", b"hello")],
    "the end": [(b"5\r\nhello\r\n", "as it came"), (b"0\r\n\r\n", "more")],
    "the end in two": [(b"5\r\nhello\r\n", "as it came"), (b"0\r\n", None), (b"\r\n", "more")],
    "a piece and the end": [(b"5\r\nhello\r\n0\r\n\r\n", "more")],
    "an endless size": [(b"5" * 70000, "more")],
    "a size with a sign": [(b"+5\r\nhello\r\n", "more")],
    "a size of 17 digits": [(b"0" * 16 + b"5\r\nhello\r\n", b"hello")],
    "a chunk that is longer than its size": [(b"4\r\nhell", b"hell"), (b"o\r\n", "more")],
    "whole chunks, then one without its end": [
        (b"3\r\nyou\r\n", "as it came"),
        (b"3\r\nyou", b"you"),
        (b"x", "more"),
    ],
    "no size": [(b"5\r\nhello\r\n", "as it came"), (b"x\r\n", "more")],
}


@pytest.mark.parametrize("case", ARRIVALS)
def test_what_has_arrived_is_told_without_waiting(pair: Ends, case: str) -> None:
    near, far = pair
    answer, receiver = chunked_answer(near, far), Receiver(2**17)
    assert answer.take_in(receiver) is Arrival.NOTHING
    for data, expected in ARRIVALS[case]:
        far.sendall(data)
        arrival = answer.take_in(receiver)
        if expected is None:
            assert arrival is Arrival.NOTHING
        elif isinstance(expected, bytes):
            assert arrival is Arrival.PIECE
            assert answer.read1() == expected
            assert answer.is_drained
        elif expected == "as it came":
            assert arrival == data
            assert answer.is_drained
        else:
            assert arrival is Arrival.MORE


def test_an_end_is_for_the_one_that_may_wait(pair: Ends) -> None:
    near, far = pair
    answer = chunked_answer(near, far)
    far.shutdown(socket.SHUT_WR)
    assert answer.take_in(Receiver(100)) is Arrival.MORE
    with pytest.raises(http.client.IncompleteRead):
        answer.read1()


def test_a_reset_is_not_forgotten(pair: Ends) -> None:
    """Asked a second time, the system reports an ordinary end, which a response without a length may have."""
    near, far = pair
    far.sendall(b"HTTP/1.1 200 OK\r\n\r\none")
    answer = ResponseReader(near, "GET", ModelCall())
    answer.begin()
    assert answer.read1() == b"one"
    reset(far)
    assert select.select([near], [], [], DEADLINE)[0]
    assert answer.take_in(Receiver(100)) is Arrival.MORE
    with pytest.raises(ConnectionResetError):
        answer.read1()


def test_one_that_was_given_up_is_late(pair: Ends) -> None:
    answer = chunked_answer(*pair)
    answer.give_up_waiting()
    with pytest.raises(TimeoutError):
        answer.read1()


def chunked_answer(near: socket.socket, far: socket.socket) -> ResponseReader:
    """One that has begun."""
    far.sendall(HEAD)
    answer = ResponseReader(near, "GET", ModelCall())
    answer.begin()
    return answer


# -- the relay alone -------------------------------------------------------------------------------------


class Pipe:
    """Collects what comes through a socket, until that ends."""

    def __init__(self, near: socket.socket, timeout: float | None = None) -> None:
        self._near = near
        self.timeout = timeout
        self.deadline: float | None = None
        self.collected = b""
        self.is_late = False
        self.stays = False

    @property
    def descriptor(self) -> int:
        return self._near.fileno()

    def pass_on(self, receiver: Receiver) -> bool:
        data = receiver.receive(self.descriptor)
        self.collected += data or b""
        return data != b""

    def give_up_waiting(self) -> None:
        self.is_late = True

    def stay(self) -> None:
        self.stays = True


@pytest.fixture
def resumed() -> queue.SimpleQueue[Pipe]:
    return queue.SimpleQueue()


@pytest.fixture
def relays(resumed: queue.SimpleQueue[Pipe]) -> Iterator[Relays[Pipe]]:
    relays: Relays[Pipe] = Relays(2, resumed.put, lambda: math.inf, lambda: True)
    relays.start()
    yield relays
    relays.stop(DEADLINE)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("pyworker-relay")]
    with socket.socket() as connection:
        late = Pipe(connection)
        relays.park(late)  # by a request that ends after them
    assert late.stays


def test_what_comes_is_passed_on_until_the_end(
    relays: Relays[Pipe], resumed: queue.SimpleQueue[Pipe], pair: Ends
) -> None:
    pipe = Pipe(pair[0])
    relays.park(pipe)
    pair[1].sendall(b"one")
    wait_until(lambda: pipe.collected == b"one", "the first piece")
    assert "[1, 0 parked]" in repr(relays)
    pair[1].sendall(b"two")
    pair[1].shutdown(socket.SHUT_WR)
    assert resumed.get(timeout=DEADLINE) is pipe
    assert (pipe.collected, pipe.is_late, pipe.stays) == (b"onetwo", False, False)
    assert "[0, 0 parked]" in repr(relays)


def test_they_share_what_is_parked(relays: Relays[Pipe]) -> None:
    with contextlib.ExitStack() as closing:
        pairs = [closing.enter_context(connected()) for _ in range(6)]
        pipes = [Pipe(near) for near, _ in pairs]
        for pipe in pipes:
            relays.park(pipe)
        assert "[3, 3 parked]" in repr(relays)
        for _, far in pairs:
            far.sendall(b"one")
        wait_until(lambda: all(pipe.collected == b"one" for pipe in pipes), "a piece of each")


def test_one_relay_is_used_unless_more_are_needed(pair: Ends) -> None:
    needed = [False, False, True]
    relays: Relays[Pipe] = Relays(2, lambda _: None, lambda: math.inf, lambda: needed.pop(0))
    relays.start()
    with connected() as second, connected() as third:
        for near, _ in (pair, second, third):
            relays.park(Pipe(near))
        assert "[2, 1 parked]" in repr(relays)
        relays.stop(DEADLINE)


def test_one_that_is_silent_for_too_long_is_given_back(
    relays: Relays[Pipe], resumed: queue.SimpleQueue[Pipe], pair: Ends
) -> None:
    pipe = Pipe(pair[0], timeout=0.01)
    relays.park(pipe)
    assert resumed.get(timeout=DEADLINE) is pipe
    assert pipe.is_late


def test_each_word_moves_the_deadline(relays: Relays[Pipe], pair: Ends) -> None:
    pipe = Pipe(pair[0], timeout=3600.0)
    relays.park(pipe)
    first = pipe.deadline
    pair[1].sendall(b"one")
    assert first is not None
    wait_until(lambda: (pipe.deadline or 0) > first, "a later deadline")


def test_one_that_goes_on_does_not_wait_for_a_stuck_thread(pair: Ends) -> None:
    gate, went_on = threading.Event(), threading.Event()

    def work(item: Pipe | None) -> None:
        if item is None:
            gate.wait(DEADLINE)  # without a word to the pool that it waits
        else:
            went_on.set()

    pool: ThreadPool[Pipe | None] = ThreadPool(4, work, concurrency=1)
    pool.submit(None)
    relays: Relays[Pipe] = Relays(1, pool.submit_first, pool.nudge_stalled, lambda: True)
    relays.start()
    relays.park(Pipe(pair[0]))
    pair[1].shutdown(socket.SHUT_WR)
    try:
        assert went_on.wait(DEADLINE)
    finally:
        gate.set()
        relays.stop(DEADLINE)
        pool.close()


def test_what_cannot_be_watched_keeps_its_thread(
    relays: Relays[Pipe], resumed: queue.SimpleQueue[Pipe], tmp_path: Path
) -> None:
    """epoll refuses a file, as it does when the system's limit is reached."""
    with (tmp_path / "file").open("wb") as file:
        pipe = Pipe(file)  # pyright: ignore[reportArgumentType] - it has what is asked for: a descriptor
        relays.park(pipe)
    assert resumed.get(timeout=DEADLINE) is pipe
    assert pipe.stays
    assert "[0, 0 parked]" in repr(relays)
