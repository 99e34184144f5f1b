"""A call that no client waits for any more: its slot is held until the model server has ended it, and a
response that is cut looks cut."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.http import RawClient, ask, next_request_idx
from tests.support.scripted import Act, Deaf, ScriptedServer, Step, chunk, head, whole
from tests.support.stack import NewStack, Stack
from tests.support.tls import tls_model
from tests.support.waiting import wait_until

HEAD = head("Transfer-Encoding: chunked")
OK = whole(b'{"ok": true}', "Content-Type: application/json")
SERIAL = ("/serial", "/serial/stream")


def calls(stack: Stack) -> int:
    """How many requests of serial routes have reached the model server."""
    return sum(len(stack.model.requests(path)) for path in SERIAL)


def open_in_session(stack: Stack, path: str) -> tuple[RawClient, Callable[[], object]]:
    """A request in a session, and what ends the session."""
    auth = stack.auth_data()
    body = json.dumps({"auth_data": auth, "payload": {}}).encode()
    session_id = ask(stack.url, "POST", "/session/create", body).object()["session_id"]
    client = RawClient(stack.url)
    envelope = {"auth_data": auth, "payload": {"prompt": "x"}, "session_id": session_id}
    client.post(path, json.dumps(envelope).encode())
    ending = json.dumps({"session_id": session_id, "session_auth": auth}).encode()
    return client, lambda: ask(stack.url, "POST", "/session/end", ending)


def open_alone(stack: Stack, path: str) -> tuple[RawClient, Callable[[], object]]:
    client = stack.open(path)
    return client, client.close


#: What the model server has said when the client hangs up.
SAID: dict[str, tuple[str, list[Step]]] = {
    "nothing": ("/serial", []),
    "its header block": ("/serial/stream", [HEAD]),
    "a piece": ("/serial/stream", [HEAD, chunk(b"one")]),
    "a piece of a length": ("/serial/stream", [head("Content-Length: 6"), b"one"]),
}


@pytest.mark.parametrize("opening", [open_alone, open_in_session])
@pytest.mark.parametrize("said", SAID)
def test_the_next_one_waits_until_the_model_is_done_with_the_first(
    stack: Stack, said: str, opening: Callable[[Stack, str], tuple[RawClient, Callable[[], object]]]
) -> None:
    path, steps = SAID[said]
    gate = threading.Event()
    rest = {"nothing": OK, "a piece of a length": b"two"}.get(said, chunk(b"two") + chunk(b""))
    stack.model.once(path, *steps, Deaf(gate), rest)
    client, leave = opening(stack, path)
    with client:
        first = stack.model.request(path)
        if b"one" in b"".join(step for step in steps if isinstance(step, bytes)):
            client.until(b"one")
        with stack.open("/serial", "the next") as second:
            stack.wait_in_hand(2)  # a session counts as one, whatever is in it
            leave()
            # It is reported, and yet the model server is still at it.
            stack.wait_in_hand(1)
            assert stack.post("/pass").status == 200
            assert calls(stack) == 1
            gate.set()
            assert second.answer().status == 200
    assert calls(stack) == 2
    assert first is stack.model.request(path)


@pytest.mark.parametrize("steps", [[], [HEAD, chunk(b"one")]], ids=["before", "within"])
def test_a_model_that_notices_frees_the_turn_at_once(stack: Stack, steps: list[Step]) -> None:
    stack.model.once("/serial/stream", *steps, Act.HANG)
    started = time.monotonic()
    with stack.open("/serial/stream") as client:
        request = stack.model.request("/serial/stream")
        if steps:
            client.until(b"one")
    assert request.gone.wait(1)
    assert stack.post("/serial").status == 200
    assert time.monotonic() - started < 5


def test_a_parallel_route_waits_for_nobody(stack: Stack) -> None:
    gate = threading.Event()
    stack.model.script("/pass", Deaf(gate), OK)
    request_idx = next_request_idx()
    with stack.open("/pass", request_idx=request_idx):
        stack.model.request("/pass")
    assert stack.outcome(request_idx) == "Cancelled"
    stack.wait_in_hand(0)
    gate.set()


def test_a_drain_ends_the_wait_at_its_own_deadline(new_stack: NewStack) -> None:
    stack = new_stack({"DRAIN_TIMEOUT": "0.5"})
    stack.start_ready()
    gate = threading.Event()
    stack.model.once("/serial", Deaf(gate), OK)
    request_idx = next_request_idx()
    with stack.open("/serial", request_idx=request_idx):
        stack.model.request("/serial")
    assert stack.outcome(request_idx) == "Cancelled"
    started = time.monotonic()
    stack.worker.terminate()
    assert stack.worker.wait() == 0
    assert time.monotonic() - started < 8
    gate.set()


@pytest.mark.soak
def test_a_model_that_never_ends_a_call_holds_the_queue_for_half_a_minute(stack: Stack) -> None:
    gate = threading.Event()
    stack.model.once("/serial", Deaf(gate), OK)
    with stack.open("/serial"):
        stack.model.request("/serial")
    started = time.monotonic()
    with RawClient(stack.url, timeout=60) as second:
        second.post("/serial", stack.envelope())
        assert second.answer().status == 200
    assert 25 < time.monotonic() - started < 40
    gate.set()


# -- what is cut looks cut -------------------------------------------------------------------------------

#: None of them says how long it is, or all of it is chunked for the client.
ENDLESS: dict[str, list[Step]] = {
    "until the end": [head(), b"one"],
    "chunked": [HEAD, chunk(b"one")],
}


@pytest.mark.parametrize("path", ["/stream", "/serial/stream"])
@pytest.mark.parametrize("steps", ENDLESS)
def test_a_response_that_is_cut_for_a_half_closed_client_looks_cut(
    stack: Stack, steps: str, path: str
) -> None:
    stack.model.script(path, *ENDLESS[steps], Act.HANG)
    with stack.open(path) as client:
        client.until(b"one\r\n")
        client.socket.shutdown(socket.SHUT_WR)
        rest = client.rest()
    assert b"0\r\n\r\n" not in rest, "the response looks complete"


@pytest.mark.parametrize("path", ["/stream", "/serial/stream"])
@pytest.mark.parametrize("steps", ENDLESS)
def test_a_response_that_is_cut_by_the_end_of_its_session_looks_cut(
    stack: Stack, steps: str, path: str
) -> None:
    stack.model.script(path, *ENDLESS[steps], Act.HANG)
    client, end = open_in_session(stack, path)
    with client:
        client.until(b"one\r\n")
        end()
        assert b"0\r\n\r\n" not in client.rest(), "the response looks complete"


def test_a_response_that_is_cut_by_a_drain_looks_cut(new_stack: NewStack) -> None:
    stack = new_stack({"DRAIN_TIMEOUT": "0.5"})
    stack.start_ready()
    for number, steps in enumerate(ENDLESS.values()):
        stack.model.script(f"/{('stream', 'serial/stream')[number]}", *steps, Act.HANG)
    with stack.open("/stream") as one, stack.open("/serial/stream") as other:
        one.until(b"one\r\n")
        other.until(b"one\r\n")
        stack.worker.terminate()
        assert b"0\r\n\r\n" not in one.rest() + other.rest(), "the response looks complete"
        assert stack.worker.wait() == 0


def test_to_a_client_of_http_1_0_a_cut_is_a_reset(stack: Stack) -> None:
    """It would take the end of the connection for the end of the response."""
    stack.model.script("/stream", HEAD, chunk(b"one"), Act.CLOSE)
    body = stack.envelope()
    with RawClient(stack.url) as client:
        client.send(b"POST /stream HTTP/1.0\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        client.until(b"one")
        with pytest.raises(ConnectionResetError):
            client.receive()


# -- the same over TLS -----------------------------------------------------------------------------------


def test_a_model_server_behind_tls(new_stack: NewStack, tmp_path: Path) -> None:
    """Streams, slots, hang-ups and a drain; nothing differs from a plain one."""
    tls = tls_model(tmp_path)
    with ScriptedServer(context=tls.context) as model:
        variables = {"MODEL_SERVER_URL": model.url, "MODEL_CA_FILE": str(tls.ca_file), "DRAIN_TIMEOUT": "0.5"}
        stack = new_stack(variables)
        stack.model = model
        stack.start_ready()
        assert ask(stack.url, "GET", "/healthcheck").status == 200, "the probe trusts the same file"
        gate, deaf = threading.Event(), threading.Event()
        model.once("/stream", HEAD, chunk(b"one"), gate, chunk(b"two"), chunk(b""))
        with stack.open("/stream") as client:
            client.until(b"one\r\n")
            gate.set()
            client.until(b"two\r\n")
            client.until(b"0\r\n\r\n")
        model.once("/serial/stream", HEAD, chunk(b"one"), Deaf(deaf), chunk(b"two"), chunk(b""))
        with stack.open("/serial/stream") as client:
            client.until(b"one")
        with stack.open("/serial") as second:
            stack.wait_in_hand(1)
            assert stack.post("/pass", "x" * 100_000).status == 200
            assert model.requests("/serial") == []
            deaf.set()
            assert second.answer().status == 200
        for request in model.requests():
            assert request.header("Transfer-Encoding") is None
        model.script("/stream", HEAD, chunk(b"one"), Act.HANG)
        with stack.open("/stream") as client:
            client.until(b"one")
            leaving = model.request("/stream", 2)
        assert leaving.gone.wait(2), "the model still works for a client that is gone"
        model.script("/stream", head(), b"one", Act.HANG)
        with stack.open("/stream") as client:
            client.until(b"one\r\n")
            stack.worker.terminate()
            assert b"0\r\n\r\n" not in client.rest(), "the response looks complete"
            assert stack.worker.wait() == 0
        assert model.request("/stream", 3).gone.wait(2)
        wait_until(lambda: model.open_connections == 0, "every connection closed")
