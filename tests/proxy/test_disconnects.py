"""A client that hangs up: the model stops working for it, the books are right, the capacity is back."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import ExitStack

from tests.support.http import RawClient, next_request_idx
from tests.support.scripted import Act, Received, chunk, head, whole
from tests.support.stack import Stack

#: Seconds until the model server must know; what was measured is a few milliseconds.
SOON = 1.0
HEAD = head("Transfer-Encoding: chunked")

#: The two ways in which a client's connection ends.
LEAVES: tuple[Callable[[RawClient], None], ...] = (RawClient.close, RawClient.reset)


def _assert_stopped(request: Received) -> None:
    assert request.gone.wait(SOON), "the model still works for a client that is gone"


def _assert_cancelled_once(stack: Stack, *request_indices: int) -> None:
    """Each has one record. A later request is reported later: by then a second record would be there too."""
    for request_idx in request_indices:
        assert stack.outcome(request_idx) == "Cancelled"
    later = next_request_idx()
    assert stack.post("/pass", request_idx=later).status == 200
    assert stack.outcome(later) == "Success"
    assert [len(stack.records(request_idx)) for request_idx in request_indices] == [1] * len(request_indices)
    stack.wait_in_hand(0)


def test_gone_while_the_model_thinks(stack: Stack) -> None:
    sent: list[int] = []
    for number, leave in enumerate(LEAVES, start=1):
        for path in ("/pass", "/json", "/stream", "/serial"):
            stack.model.once(path, Act.HANG)
            sent.append(next_request_idx())
            client = stack.open(path, request_idx=sent[-1])
            request = stack.model.request(path, number)
            leave(client)
            _assert_stopped(request)
    _assert_cancelled_once(stack, *sent)


def test_gone_in_mid_stream(stack: Stack) -> None:
    sent: list[int] = []
    for number, leave in enumerate(LEAVES, start=1):
        for path in ("/pass", "/stream", "/serial/stream"):
            stack.model.once(path, HEAD, chunk(b"one"), Act.HANG)
            sent.append(next_request_idx())
            client = stack.open(path, request_idx=sent[-1])
            client.until(b"one")
            leave(client)
            _assert_stopped(stack.model.request(path, number))
    _assert_cancelled_once(stack, *sent)


def test_gone_while_the_body_is_read_whole(stack: Stack) -> None:
    stack.model.once("/json", head("Content-Length: 100"), b"[1, 2,", Act.HANG)
    request_idx = next_request_idx()
    client = stack.open("/json", request_idx=request_idx)
    request = stack.model.request("/json")
    client.close()
    _assert_stopped(request)
    _assert_cancelled_once(stack, request_idx)


def test_gone_while_waiting_in_line(stack: Stack) -> None:
    gate = threading.Event()
    stack.model.once("/serial", gate, whole(b"{}"))
    stack.model.script("/serial", Act.HANG)
    request_idx = next_request_idx()
    with stack.open("/serial") as first:
        stack.model.request("/serial")
        waiting = stack.open("/serial", request_idx=request_idx)
        stack.wait_in_hand(2)
        waiting.close()
        assert stack.outcome(request_idx) == "Cancelled"
        gate.set()
        assert first.answer().status == 200
    assert len(stack.model.requests("/serial")) == 1
    _assert_cancelled_once(stack, request_idx)


def test_many_leave_at_once(stack: Stack) -> None:
    stack.model.script("/stream", HEAD, chunk(b"one"), Act.HANG)
    sent = [next_request_idx() for _ in range(40)]
    with ExitStack() as closing:
        for request_idx in sent:
            closing.enter_context(stack.open("/stream", request_idx=request_idx)).until(b"one")
    for request in stack.model.requests("/stream"):
        _assert_stopped(request)
    _assert_cancelled_once(stack, *sent)


def test_the_others_do_not_notice(stack: Stack) -> None:
    gate = threading.Event()
    stack.model.script("/stream", HEAD, chunk(b"one"), gate, chunk(b"two"), chunk(b""))
    with stack.open("/stream") as stays:
        stays.until(b"one")
        leaves = stack.open("/stream")
        leaves.until(b"one")
        leaves.close()
        _assert_stopped(stack.model.request("/stream", 2))
        gate.set()
        assert b"two" in stays.rest_of_answer()


def test_a_client_that_leaves_after_the_last_byte_was_served(stack: Stack) -> None:
    body = b"x" * 200_000
    stack.model.script("/pass", whole(body))
    stack.model.script("/stream", HEAD, chunk(body), chunk(b""))
    sent: list[int] = []
    for _ in range(10):
        sent.append(next_request_idx())
        with stack.open("/pass", request_idx=sent[-1]) as client:
            assert client.head() == 200
            client.exactly(len(body))
    assert [stack.outcome(request_idx) for request_idx in sent] == ["Success"] * len(sent)


def test_a_client_that_leaves_within_its_own_request(stack: Stack) -> None:
    """Nothing of it was understood yet, so nothing is counted."""
    body = stack.envelope()
    for cut in (0, 1, len(body) // 2, len(body) - 1):
        with RawClient(stack.url) as client:
            client.send(f"POST /pass HTTP/1.1\r\nHost: w\r\nContent-Length: {len(body)}\r\n\r\n".encode())
            client.send(body[:cut])
    assert stack.post("/json").status == 200
    assert stack.model.requests("/pass") == []


def test_the_log_tells_of_it(stack: Stack) -> None:
    stack.model.once("/pass", Act.HANG)
    request_idx = next_request_idx()
    with stack.open("/pass", request_idx=request_idx):
        request = stack.model.request("/pass")
    _assert_stopped(request)
    stack.worker.wait_for_log(f"499 request {request_idx}: the client hung up")
