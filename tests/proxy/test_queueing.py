"""Turns at the model: one at a time, in order of arrival, and always given back."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest

from pyworker.local.autoscaler import Autoscaler
from tests.support.http import next_request_idx
from tests.support.in_process import InProcessWorker
from tests.support.scripted import Act, ScriptedServer, chunk, head, whole
from tests.support.stack import Stack

OK = whole(b'{"ok": true}', "Content-Type: application/json")


@pytest.fixture(autouse=True)
def no_chatter() -> None:
    """werkzeug logs each request of the worker in this process."""
    logging.getLogger("werkzeug").setLevel(logging.WARNING)


def test_fifty_requests_reach_the_model_one_at_a_time_in_order_of_arrival(
    tmp_path: Path, scripted_model: ScriptedServer, local_autoscaler: Autoscaler
) -> None:
    count = 50
    gates = [threading.Event() for _ in range(count)]
    for gate in gates:
        scripted_model.once("/serial", gate, OK)
    with (
        InProcessWorker(tmp_path, scripted_model.url, local_autoscaler.url) as worker,
        ExitStack() as closing,
    ):
        clients = [closing.enter_context(worker.open("/serial", str(number))) for number in range(count)]
        assert worker.in_hand == count
        for number, (gate, client) in enumerate(zip(gates, clients, strict=True), start=1):
            scripted_model.request("/serial", number)
            # The model holds this one; whatever came after it waits.
            assert len(scripted_model.requests("/serial")) == number
            gate.set()
            assert client.answer().status == 200
    prompts = [request.json()["prompt"] for request in scripted_model.requests("/serial")]
    assert prompts == [str(number) for number in range(count)]


def test_all_serial_routes_share_one_line(
    tmp_path: Path, scripted_model: ScriptedServer, local_autoscaler: Autoscaler
) -> None:
    gate = threading.Event()
    scripted_model.once("/serial", gate, OK)
    with (
        InProcessWorker(tmp_path, scripted_model.url, local_autoscaler.url) as worker,
        worker.open("/serial", "first") as first,
        worker.open("/serial/stream", "second") as second,
    ):
        scripted_model.request("/serial")
        # A parallel route passes by.
        assert worker.post("/pass", "third").status == 200
        assert scripted_model.requests("/serial/stream") == []
        gate.set()
        assert first.answer().status == 200
        assert second.answer().status == 200


def test_the_turn_lasts_until_the_last_byte_of_a_stream(
    tmp_path: Path, scripted_model: ScriptedServer, local_autoscaler: Autoscaler
) -> None:
    gate = threading.Event()
    scripted_model.once(
        "/serial/stream", head("Transfer-Encoding: chunked"), chunk(b"one"), gate, chunk(b"two"), chunk(b"")
    )
    with (
        InProcessWorker(tmp_path, scripted_model.url, local_autoscaler.url) as worker,
        worker.open("/serial/stream", "first") as first,
    ):
        first.until(b"one")
        with worker.open("/serial", "second") as second:
            assert scripted_model.requests("/serial") == []
            gate.set()
            first.until(b"two")
            assert second.answer().status == 200


def test_parallel_requests_are_at_the_model_together(stack: Stack) -> None:
    gate = threading.Event()
    stack.model.script("/pass", gate, OK)
    with ExitStack() as closing:
        clients = [closing.enter_context(stack.open("/pass")) for _ in range(20)]
        stack.model.request("/pass", 20)
        gate.set()
        assert [client.answer().status for client in clients] == [200] * 20


def test_a_client_that_leaves_the_line_never_reaches_the_model(stack: Stack) -> None:
    gate = threading.Event()
    stack.model.once("/serial", gate, OK)
    left, stayed = next_request_idx(), next_request_idx()
    with stack.open("/serial", "first") as first:
        stack.model.request("/serial")
        second = stack.open("/serial", "second", request_idx=left)
        stack.wait_in_hand(2)
        with stack.open("/serial", "third", request_idx=stayed) as third:
            stack.wait_in_hand(3)
            second.close()
            # It has left the ledger immediately, not only when its slot would have come.
            assert stack.outcome(left) == "Cancelled"
            stack.wait_in_hand(2)
            gate.set()
            assert first.answer().status == 200
            assert third.answer().status == 200
    prompts = [request.json()["prompt"] for request in stack.model.requests("/serial")]
    assert prompts == ["first", "third"]
    [record] = stack.records(left)
    assert record.entered_queue_at > 0
    assert (record.work_started_at, record.work_completed_at) == (0, 0)
    assert stack.outcome(stayed) == "Success"
    assert len(stack.records(left)) == 1


def test_an_estimated_wait_above_the_limit_is_refused(stack: Stack) -> None:
    """The shared worker does 1000 units a second, and the route waits at most 2 seconds."""
    gate = threading.Event()
    stack.wait_in_hand(0)
    stack.model.once("/serial/limited", gate, OK)
    refused = next_request_idx()
    with stack.open("/serial/limited", "first", work=5000.0) as first:
        stack.model.request("/serial/limited")
        response = stack.post("/serial/limited", "second", request_idx=refused, work=7.0)
        assert response.status == 429
        assert response.header("Retry-After") == "3"
        assert "5.0 s" in str(response.object().pop("error"))
        assert response.object()["requests_in_hand"] == 1
        assert response.object()["estimated_wait"] == 5.0
        # A route without a limit takes it, though it has to wait as long.
        assert stack.post("/pass", "third").status == 200
        gate.set()
        assert first.answer().status == 200
    assert stack.outcome(refused) == "Rejected"
    stack.wait_for_report(lambda report: report["rej_load"] == 7.0, "the rejected workload")
    assert len(stack.model.requests("/serial/limited")) == 1
    # With the load gone the route is open again.
    assert stack.post("/serial/limited", "fourth").status == 200


def test_what_waited_too_long_is_turned_away_while_queued(stack: Stack) -> None:
    """The benchmark promised 1000 units a second, but the model is stuck."""
    stack.wait_in_hand(0)
    gate = threading.Event()
    stack.model.once("/serial/limited", gate, OK)
    refused = next_request_idx()
    with stack.open("/serial/limited", "first", work=1.0) as first:
        stack.model.request("/serial/limited")
        response = stack.post("/serial/limited", "second", request_idx=refused, work=11.0)
        assert response.status == 429
        assert response.header("Retry-After") == "1"
        assert response.object() == {
            "error": "too busy: waited 2 s in the queue, which is the limit",
            "requests_in_hand": 1,
            "estimated_wait": 0.001,
        }
        gate.set()
        assert first.answer().status == 200
    assert stack.outcome(refused) == "Rejected"
    assert len(stack.model.requests("/serial/limited")) == 1
    stack.wait_for_report(lambda report: report["rej_load"] == 11.0, "the rejected workload")
    assert stack.post("/serial/limited", "third").status == 200


def _broken_head(stack: Stack) -> None:
    stack.model.once("/serial", b"HTTP/1.1 200", Act.CLOSE)
    assert stack.post("/serial").status == 502


def _broken_body(stack: Stack) -> None:
    stack.model.once("/serial/stream", head("Transfer-Encoding: chunked"), chunk(b"one"), Act.RESET)
    assert not stack.post("/serial/stream").complete


def _handler_fails(stack: Stack) -> None:
    assert stack.post("/serial/fail").status == 500


def _no_body_is_asked_for(stack: Stack) -> None:
    stack.model.once("/serial/stream", head(status="204 No Content"))
    assert stack.post("/serial/stream").status == 204


def _client_leaves_before_the_head(stack: Stack) -> None:
    stack.model.once("/serial", Act.HANG)
    before = len(stack.model.requests("/serial"))
    with stack.open("/serial"):
        stack.model.request("/serial", before + 1)


def _client_leaves_in_mid_stream(stack: Stack) -> None:
    stack.model.once("/serial/stream", head("Transfer-Encoding: chunked"), chunk(b"one"), Act.HANG)
    with stack.open("/serial/stream") as client:
        client.until(b"one")


def _client_resets_in_mid_stream(stack: Stack) -> None:
    stack.model.once("/serial/stream", head("Transfer-Encoding: chunked"), chunk(b"one"), Act.HANG)
    client = stack.open("/serial/stream")
    client.until(b"one")
    client.reset()


@pytest.mark.parametrize(
    "failure",
    [
        _broken_head,
        _broken_body,
        _handler_fails,
        _no_body_is_asked_for,
        _client_leaves_before_the_head,
        _client_leaves_in_mid_stream,
        _client_resets_in_mid_stream,
    ],
    ids=lambda failure: failure.__name__.strip("_"),
)
def test_the_turn_is_given_back_after_every_failure(stack: Stack, failure: Callable[[Stack], None]) -> None:
    for _ in range(3):
        failure(stack)
    assert stack.post("/serial").status == 200
