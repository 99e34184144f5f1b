"""`/healthcheck`: any number of clients, one probe of the model server at a time."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest

from pyworker.backend import Backend
from pyworker.config import Settings
from pyworker.errors import NotReady
from pyworker.lifecycle.healthcheck import MAX_AGE, MAX_WAITING, SharedHealth
from pyworker.lifecycle.probe import HealthProbe, ProbeFailed
from pyworker.worker import Worker
from tests.support.echo_worker.server import EchoHandler
from tests.support.http import RawClient, ask, request_bytes
from tests.support.scripted import Act, ScriptedServer, whole
from tests.support.stack import NewStack
from tests.support.waiting import DEADLINE, wait_until

PATH = "/health"
CROWD = 300


@pytest.fixture
def shared(scripted_model: ScriptedServer) -> Iterator[SharedHealth]:
    shared = SharedHealth(HealthProbe(scripted_model.url + PATH))
    yield shared
    shared.close()


def outcome(shared: SharedHealth) -> str:
    try:
        return (shared.get().body or b"").decode()
    except (NotReady, ProbeFailed) as error:
        return str(error)


def test_one_probe_answers_all_who_wait(scripted_model: ScriptedServer, shared: SharedHealth) -> None:
    gate = threading.Event()
    scripted_model.script(PATH, gate, whole(b"fine"))
    with ThreadPoolExecutor(MAX_WAITING + 5) as pool:
        first = pool.submit(outcome, shared)
        scripted_model.request(PATH)
        others = [pool.submit(outcome, shared) for _ in range(MAX_WAITING + 4)]
        # The rest is told at once, so that waiting never takes every thread.
        wait_until(lambda: sum(other.done() for other in others) == 4, "the refusals")
        assert f"[{MAX_WAITING} waiting]" in repr(shared)
        gate.set()
        answers = [future.result(DEADLINE) for future in (first, *others)]
    assert answers.count("fine") == MAX_WAITING + 1
    assert sum("too many clients wait" in answer for answer in answers) == 4
    assert len(scripted_model.requests(PATH)) == 1


def test_a_probe_takes_as_long_as_the_worker_allows(scripted_model: ScriptedServer, tmp_path: Path) -> None:
    scripted_model.script(PATH, Act.HANG)
    settings = Settings(unsecured=True, state_dir=tmp_path, model_server_url=scripted_model.url)
    handler = EchoHandler(path="/pass")
    backend = Backend(
        scripted_model.url, None, False, handler, health_endpoint=PATH, health_timeout=0.3, settings=settings
    )
    worker = Worker(backend, settings)
    try:
        assert "/health did not answer in 0.3 s" in outcome(worker.model.shared_health)
    finally:
        worker.close()


def test_an_answer_serves_for_a_second(scripted_model: ScriptedServer, shared: SharedHealth) -> None:
    began = time.monotonic()
    while time.monotonic() - began < MAX_AGE / 2:
        assert outcome(shared) == '{"ok": true}'
    assert len(scripted_model.requests(PATH)) == 1
    scripted_model.script(PATH, whole(b"another"))
    wait_until(lambda: outcome(shared) == "another", "a new answer")
    assert time.monotonic() - began < MAX_AGE + 1


def test_a_failure_is_shared_as_well(shared: SharedHealth, scripted_model: ScriptedServer) -> None:
    scripted_model.script(PATH, Act.RESET)
    for _ in range(10):
        assert "cannot be reached" in outcome(shared)
    assert len(scripted_model.requests(PATH)) == 1


def test_close_wakes_everybody(scripted_model: ScriptedServer, shared: SharedHealth) -> None:
    scripted_model.script(PATH, Act.HANG)
    with ThreadPoolExecutor(4) as pool:
        futures = [pool.submit(outcome, shared) for _ in range(4)]
        wait_until(lambda: "[3 waiting]" in repr(shared), "three who wait for the first")
        shared.close()
        assert {future.result(2) for future in futures} == {"the worker is shutting down"}
    assert outcome(shared) == "the worker is shutting down"


def test_a_crowd_while_the_health_hangs_harms_nobody_and_ends_at_sigterm(new_stack: NewStack) -> None:
    stack = new_stack({"WORKER_THREADS": "64"})
    stack.start_ready()
    stack.model.script("/healthcheck", Act.HANG)
    with ExitStack() as closing:
        clients = [closing.enter_context(RawClient(stack.url)) for _ in range(CROWD)]
        for client in clients:
            client.send(request_bytes("GET", "/healthcheck", b""))
        stack.model.request("/healthcheck")
        slowest = 0.0
        for _ in range(20):
            began = time.monotonic()
            assert ask(stack.url, "GET", "/ping").status == 200
            slowest = max(slowest, time.monotonic() - began)
        assert slowest < 1
        assert stack.post("/pass").status == 200
        assert len(stack.model.requests("/healthcheck")) == 1
        for client in clients[: CROWD // 2]:
            client.close()
        began = time.monotonic()
        stack.worker.terminate()
        assert stack.worker.wait() == 0
        assert time.monotonic() - began < 6
    assert "Traceback" not in stack.worker.log


def test_a_body_that_is_too_long_is_a_note_with_the_status(new_stack: NewStack) -> None:
    stack = new_stack()
    stack.worker.start()
    stack.model.script("/healthcheck", whole(b"x" * 2**20, status="503 Busy"))
    answer = ask(stack.url, "GET", "/healthcheck")
    assert answer.status == 503
    assert "too long" in answer.object()["note"]
