"""Header blocks and bodies without sense, by clients without a signature and with one."""

from __future__ import annotations

import json
import re
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from pyworker.downstream.acceptor import Listener
from pyworker.downstream.connection import ClientSocket
from pyworker.downstream.event_loop import EventLoop
from pyworker.downstream.request_reader import BODY_SECONDS
from pyworker.local.signing import Signer
from pyworker.runtime.thread_pool import ThreadPool
from tests.support.front import REQUEST, Front
from tests.support.http import RawClient, ask
from tests.support.scripted import whole
from tests.support.stack import NewStack, Stack
from tests.support.waiting import DEADLINE, wait_until

POST = b"POST /pass HTTP/1.1\r\nHost: worker\r\n"
MIB = 2**20

NewFront = Callable[[int], Front]


@pytest.fixture
def new_front() -> Iterator[NewFront]:
    with ExitStack() as ending:
        yield lambda max_connections: Front(ending, max_connections)


# -- heads -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "field",
    [
        b"Expect:" + b" " * 4400 + b"\rx",
        b"Content-Length:" + b"\t " * 2200 + b"\rx",
        b"Transfer-Encoding:" + b" " * 4400 + b"\rx",
        b"Expect: a" + b" " * 4400 + b"b\rc",
        b"Expect" + b" " * 4400 + b"x",
        b"X: y\r\n folded",
        b"Host: worker",
    ],
    ids=lambda field: repr(field[:18]),
)
def test_a_head_without_sense_is_refused_at_once(front: Stack, field: bytes) -> None:
    began = time.monotonic()
    with RawClient(front.url) as client:
        client.send(POST + field + b"\r\n\r\n")
        answer = client.answer()
    assert answer.status == 400
    assert answer.object()["error"].startswith("the request cannot be parsed: ")
    assert time.monotonic() - began < 5, "it took minutes"
    assert ask(front.url, "GET", "/ping").status == 200


def test_http_1_1_needs_a_host(front: Stack) -> None:
    with RawClient(front.url) as client:
        client.send(b"GET /ping HTTP/1.1\r\n\r\n")
        answer = client.answer()
    assert answer.status == 400
    assert answer.object() == {
        "error": "the request cannot be parsed: a request of HTTP/1.1 needs a Host field"
    }
    with RawClient(front.url) as client:
        client.send(b"GET /ping HTTP/1.0\r\n\r\n")
        assert client.answer().body == b"pong"


@pytest.mark.parametrize(
    ("fields", "kept"),
    [
        (b"", True),
        (b"Connection: TE\r\n", True),
        (b"Connection: TE, close\r\n", False),
        (b"Connection: CLOSE,TE\r\n", False),
        (b"Connection: keep-alive\r\nConnection: close\r\n", False),
        (b"Connection: close\r\nConnection: keep-alive\r\n", False),
        (b"Connection: keep-alive, Upgrade\r\n", True),
    ],
)
def test_connection_is_a_list_and_close_wins(front: Stack, fields: bytes, kept: bool) -> None:
    with RawClient(front.url) as client:
        for _ in range(2):  # the second head is known
            client.send(b"GET /ping HTTP/1.1\r\nHost: w\r\n" + fields + b"\r\n")
            answer = client.answer()
            assert answer.header("Connection") == ("keep-alive" if kept else "close")
            if not kept:
                assert client.rest() == b""
                break


# -- bodies ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("coding", ["gzip", "zstd", "br", "GZip", "identity, gzip"])
@pytest.mark.parametrize("path", ["/pass", "/session/create", "/session/get"])
def test_a_body_with_a_coding_is_not_supported(stack: Stack, path: str, coding: str) -> None:
    answer = ask(stack.url, "POST", path, b"\x1f\x8b\x08\x00", {"Content-Encoding": coding})
    assert answer.status == 415
    assert coding.lower() in answer.object()["error"]


def test_the_coding_identity_is_none(stack: Stack) -> None:
    answer = ask(stack.url, "POST", "/pass", stack.envelope(), {"Content-Encoding": "identity"})
    assert answer.status == 200


@pytest.mark.parametrize("padding", [0, 200_000])
def test_a_byte_order_mark_is_skipped(stack: Stack, padding: int) -> None:
    body = b"\xef\xbb\xbf" + stack.envelope("x" * padding)
    assert ask(stack.url, "POST", "/pass", body).status == 200


@pytest.mark.parametrize("cost", ["256.0", "7"])
def test_a_cost_written_as_text(stack: Stack, cost: str) -> None:
    body = json.dumps({"auth_data": stack.auth_data(cost=cost), "payload": {"prompt": "x"}}).encode()
    assert ask(stack.url, "POST", "/pass", body).status == 200
    assert ask(stack.url, "POST", "/session/create", body.replace(b'"prompt": "x"', b"")).status == 201


# -- time and memory for what came -----------------------------------------------------------------------


def encrypted(url: str, data: bytes) -> tuple[socket.socket, bytes]:
    """A connection over TLS, and the data in records of one byte each, not sent yet."""
    parts = urlsplit(url)
    connection = socket.create_connection((parts.hostname or "", parts.port or 0), DEADLINE)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    came, goes = ssl.MemoryBIO(), ssl.MemoryBIO()
    session = context.wrap_bio(came, goes)
    while True:
        try:
            session.do_handshake()
            break
        except ssl.SSLWantReadError:
            connection.sendall(goes.read())
            came.write(connection.recv(65536))
    connection.sendall(goes.read())
    for at in range(len(data)):
        session.write(data[at : at + 1])
    return connection, goes.read()


@pytest.mark.parametrize(
    "beginning", [POST + b"X: ", POST + b"Content-Length: 100000000\r\n\r\n"], ids=["head", "body"]
)
@pytest.mark.parametrize("shared_front", ["tls"], indirect=True)
def test_records_of_one_byte_do_not_hold_up_the_others(front: Stack, beginning: bytes) -> None:
    front.model.script("/json", whole(b"{}"))
    with ExitStack() as ending:
        made = [encrypted(front.url, beginning + b"x" * 60_000) for _ in range(8)]
        for connection, _ in made:
            ending.enter_context(connection)
            connection.settimeout(60)
        threads = [threading.Thread(target=connection.sendall, args=(data,)) for connection, data in made]
        for thread in threads:
            thread.start()
        slowest = 0.0
        while any(thread.is_alive() for thread in threads):
            began = time.monotonic()
            assert ask(front.url, "GET", "/ping").body == b"pong"
            slowest = max(slowest, time.monotonic() - began)
        for thread in threads:
            thread.join()
        assert front.post("/json").status == 200
    assert slowest < 2


@pytest.mark.parametrize("shared_front", ["plain"], indirect=True)
def test_an_announced_length_buys_no_time(front: Stack) -> None:
    """It waits for half a minute, as its deadline does."""
    with ExitStack() as ending:
        clients = [ending.enter_context(RawClient(front.url, timeout=60)) for _ in range(2)]
        began = time.monotonic()
        clients[0].send(POST + b"Content-Length: 134217728\r\n\r\n")
        # Its first 64 KiB came, so that it waits with a thread.
        clients[1].send(POST + b"Content-Length: 134217728\r\n\r\n" + b" " * 2**16)
        for client in clients:
            assert client.answer().status in (400, 408)
            assert time.monotonic() - began < BODY_SECONDS + 15


def test_a_full_table_of_those_that_announce_much_leaves_room(new_front: NewFront) -> None:
    front = new_front(40)
    with ExitStack() as ending:
        for _ in range(40):
            staller = ending.enter_context(RawClient(front.url))
            staller.send(b"POST / HTTP/1.1\r\nContent-Length: 1000000\r\n\r\n")
        wait_until(lambda: "40 sending a body" in repr(front.event_loop), "a full table")
        for _ in range(30):
            with RawClient(front.url) as another:
                another.send(REQUEST)
                assert another.head() == 204


def test_unfinished_requests_have_one_bound_of_memory(new_stack: NewStack) -> None:
    stack = new_stack()
    stack.start_ready()
    stack.model.script("/json", whole(b"{}"))
    before = stack.worker.peak_memory
    piece = POST + b"Content-Length: 65000\r\n\r\n" + b"x" * 60_000
    with ExitStack() as ending:
        for _ in range(1200):
            client = ending.enter_context(RawClient(stack.url))
            client.send(piece)
        assert stack.post("/json").status == 200
        assert stack.post("/json", "x" * 500_000).status == 200
    assert stack.worker.peak_memory - before < 60 * MIB
    stack.worker.wait_for_log("to make room for others")


@pytest.mark.parametrize("beginning", [b" ", b'{"payload": {"prompt": "'])
def test_unsigned_bodies_that_stall_leave_signed_ones_their_threads(front: Stack, beginning: bytes) -> None:
    front.model.script("/json", whole(b"{}"))
    stalling = POST + b"Content-Length: 100000\r\n\r\n" + beginning.ljust(66_000)
    with ExitStack() as ending:
        for _ in range(80):
            client = ending.enter_context(RawClient(front.url))
            client.send(stalling)
        for _ in range(3):
            began = time.monotonic()
            assert front.post("/json", "x" * 500_000).status == 200
            assert time.monotonic() - began < 5, "it waited for half a minute"


# -- what is kept of whom --------------------------------------------------------------------------------


def test_a_signature_with_a_megabyte_of_nothing_is_refused(stack: Stack) -> None:
    good = stack.auth_data()
    padded = {**good, "signature": good["signature"] + "!" * 500_000}
    body = json.dumps({"auth_data": padded, "payload": {"prompt": "x"}}).encode()
    assert ask(stack.url, "POST", "/pass", body).status == 401


def test_a_session_outlives_its_key_for_requests_of_any_size(new_stack: NewStack) -> None:
    stack = new_stack()
    stack.start_ready()
    auth = stack.auth_data()
    envelope = {"auth_data": auth, "payload": {}}
    created = ask(stack.url, "POST", "/session/create", json.dumps(envelope).encode())
    session_id = created.object()["session_id"]
    stack.autoscaler.signer = Signer.generate()
    wait_until(lambda: stack.post("/pass").status == 200, "the new key", timeout=DEADLINE)
    for size in (10, 300_000):
        body = {"auth_data": auth, "payload": {"prompt": "x" * size}}
        assert ask(stack.url, "POST", "/pass", json.dumps(body).encode()).status == 401
        in_session = json.dumps({**body, "session_id": session_id}).encode()
        assert ask(stack.url, "POST", "/pass", in_session).status == 200, size


def test_a_client_that_vanished_is_found_out_by_keepalive(front: Stack) -> None:
    with RawClient(front.url) as client:
        client.send(b"GET /ping HTTP/1.1\r\nHost: w\r\n\r\n")
        assert client.answer().body == b"pong"
        ours, theirs = client.socket.getsockname()[1], urlsplit(front.url).port or 0
        wait_until(lambda: keepalive_due(theirs, ours), "the kernel's keepalive timer of the worker's socket")


def keepalive_due(port: int, peer_port: int) -> bool:
    """Whether the socket between these ports waits for its keepalive timer (kind 02), and at most 60 s."""
    for line in Path("/proc/net/tcp").read_text("ascii").splitlines()[1:]:
        fields = line.split()
        if (ends_with(fields[1], port), ends_with(fields[2], peer_port)) == (True, True):
            kind, _, jiffies = fields[5].partition(":")
            return kind == "02" and int(jiffies, 16) <= 60 * 100
    return False


def ends_with(address: str, port: int) -> bool:
    return re.fullmatch(f"[0-9A-F]{{8}}:{port:04X}", address) is not None


# -- descriptors -----------------------------------------------------------------------------------------


def test_an_event_of_a_closed_connection_is_not_taken_for_one_of_its_successor() -> None:
    """In one batch of events: a new connection, which takes the place of an idle one, and the idle one's
    end.
    """
    taken: list[ClientSocket] = []
    pool = ThreadPool[ClientSocket](1, taken.append, concurrency=1)
    event_loop = EventLoop(
        pool.submit,
        lambda _: None,
        pool.nudge_stalled,
        max_connections=1,
        max_large=1,
        max_body=MIB,
        keepalive=60,
    )
    with socket.create_server(("127.0.0.1", 0)) as listener, ExitStack() as ending:
        wake, _ = (ending.enter_context(each) for each in socket.socketpair())
        event_loop.wake_by(wake.fileno())
        event_loop.listen([Listener(listener, None)])
        old = ending.enter_context(socket.create_connection(listener.getsockname()))
        wait_until(lambda: event_loop.serve(0.01) or not event_loop.is_drained, "the first connection")
        new = ending.enter_context(socket.create_connection(listener.getsockname()))
        new.sendall(REQUEST)
        old.close()
        wait_until(lambda: event_loop.serve(0.01) or taken, "the request of the second one")
        assert [client.presence.is_gone for client in taken] == [False]
        event_loop.close()
        taken[0].close()
    pool.close()
