"""The stream behind the page: who gets it, what is in it, when it ends, and what it costs."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from pyworker.runtime.server_sent_events import read
from tests.support.http import RawClient, ask, request_bytes
from tests.support.scripted import whole
from tests.support.stack import INFO_LINE, NewStack, Stack
from tests.support.waiting import wait_until

JSON = "Content-Type: application/json"
HTML = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"
SECTIONS = {"status", "minute", "requests", "lines"}


class Watching:
    """A client of the stream."""

    def __init__(self, client: RawClient) -> None:
        self.client = client
        client.send(request_bytes("GET", "/status/events", b""))
        self.status = client.head()
        self.events = read(self._chunks())

    def _chunks(self) -> Iterator[bytes]:
        while chunk := self.client.chunk():
            yield chunk

    def until(self, section: str, condition: Callable[[Any], object]) -> Any:
        """The first value of this section that fulfils the condition."""
        return next(value for name, value in self.events if name == section and condition(value))


# -- the page itself -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        (HTML, "text/html; charset=utf-8"),
        ("text/html", "text/html; charset=utf-8"),
        ("*/*", "application/json"),
        ("", "application/json"),
        ("application/json", "application/json"),
        ("application/json, text/html;q=0.5", "application/json"),
        ("text/html;q=0", "application/json"),
        ("a/b;q=;;,,text", "application/json"),
    ],
)
def test_a_browser_gets_the_page_and_all_others_json(stack: Stack, accept: str, kind: str) -> None:
    answer = ask(stack.url, "GET", "/status", headers={"Accept": accept} if accept else None)
    assert (answer.status, answer.header("Content-Type")) == (200, kind)
    assert answer.header("Vary") == "Accept"
    if kind != "application/json":
        policy = answer.header("Content-Security-Policy") or ""
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert str(stack.worker.port).encode() not in answer.body
        for elsewhere in (b"src=", b"@import", b"url("):
            assert elsewhere not in answer.body


# -- the stream ------------------------------------------------------------------------------------------


def test_all_sections_come_at_first_and_each_again_when_it_changes(stack: Stack) -> None:
    with RawClient(stack.url) as client:
        watching = Watching(client)
        assert watching.status == 200
        assert ("Content-Type", "text/event-stream") in client.headers
        first = [next(watching.events)[0] for _ in SECTIONS]
        assert set(first) == SECTIONS

        answer = ask(stack.url, "POST", "/pass", stack.envelope(), {"X-Request-Id": "of-the-stream"})
        assert answer.status == 200
        found = watching.until("requests", lambda one: one[-1]["request_id"] == "of-the-stream")
        assert found[-1]["status"] == 200
        minute = watching.until("minute", lambda one: any(one["succeeded"]))
        assert {len(values) for values in minute.values()} == {60}
        status = watching.until("status", lambda one: one["last_minute"]["outcomes"])
        assert status["state"] == "ready"


def test_a_stream_without_chunks(stack: Stack) -> None:
    with RawClient(stack.url) as client:
        client.send(b"GET /status/events HTTP/1.0\r\nHost: worker\r\n\r\n")
        assert client.head() == 200
        assert b"event: " in client.until(b"\n\n")
        assert client.until(b"event: status")


def test_streams_are_bounded_and_hold_no_thread(new_stack: NewStack) -> None:
    stack = new_stack({"WORKER_THREADS": "17"})
    stack.start_ready()
    with ExitStack() as ending:
        streams = [Watching(ending.enter_context(RawClient(stack.url))) for _ in range(4)]
        assert [stream.status for stream in streams] == [200] * 4
        for stream in streams:
            stream.until("status", lambda _: True)
        refused = ask(stack.url, "GET", "/status/events")
        assert (refused.status, refused.header("Retry-After")) == (429, "10")
        assert "4 pages watch this worker already" in refused.object()["error"]

        def state() -> str:
            stack.worker.show_state()
            return stack.worker.log.rpartition("<ThreadPool ")[2]

        wait_until(lambda: state().startswith("[0 of") and "[4 parked]" in state(), "streams without threads")
        streams[0].client.close()
        with RawClient(stack.url) as late:
            wait_until(lambda: ask(stack.url, "HEAD", "/status/events").status == 200, "a free place")
            assert Watching(late).status == 200


def test_status_answers_while_every_thread_waits(front: Stack) -> None:
    gate = threading.Event()
    front.model.script("/pass", gate, whole(b"{}", JSON))
    most = status(front)["queue"]["most_in_hand"]
    clients = [front.open("/pass") for _ in range(most)]
    try:
        wait_until(lambda: status(front)["queue"]["requests_in_hand"] == most, "all of them")
        assert front.post("/pass").status == 429
        took: list[float] = []
        for _ in range(10):
            before = time.monotonic()
            assert ask(front.url, "GET", "/status").status == 200
            took.append(time.monotonic() - before)
        assert min(took) < 0.1
        with RawClient(front.url) as client:
            shown = Watching(client).until("status", lambda one: one["last_refusals"])
            assert "too busy" in shown["last_refusals"][0]["reason"]
        gate.set()
        assert [client.answer().status for client in clients] == [200] * most
    finally:
        gate.set()
        for client in clients:
            client.close()


def test_a_stream_tells_the_drain_and_ends_with_it(new_stack: NewStack) -> None:
    stack = new_stack()
    stack.start_ready()
    gate = threading.Event()
    stack.model.script("/pass", gate, whole(b"{}", JSON))
    with RawClient(stack.url) as viewer, stack.open("/pass") as client:
        watching = Watching(viewer)
        watching.until("status", lambda one: one["queue"]["requests_running"] == 1)
        stack.worker.terminate()
        watching.until("status", lambda one: one["state"] == "draining")
        gate.set()
        assert client.answer().status == 200
        assert watching.until("status", lambda one: one["queue"]["requests_in_hand"] == 0)
        assert list(watching.events) is not None, "it ends in the ordinary way"
    assert stack.worker.wait() == 0
    assert "drain timeout" not in stack.worker.log


def status(stack: Stack) -> Any:
    return ask(stack.url, "GET", "/status").object()


def test_a_client_that_does_not_read_disturbs_nobody(new_stack: NewStack) -> None:
    stack = new_stack()
    stack.start_ready()
    with RawClient(stack.url) as deaf, RawClient(stack.url) as other:
        assert Watching(deaf).status == 200
        watching = Watching(other)
        long = "x" * 250
        for number in range(20):
            stack.worker.say(f"{INFO_LINE} {number} {long}")
        watching.until("lines", lambda one: json.dumps(one).count(long) >= 19)
        assert stack.post("/pass").status == 200
    stack.worker.stop()
