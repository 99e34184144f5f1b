"""Requests that fail in a row are a suspicion: a model that died without a word does not stay ready."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from pyworker.errors import ModelUnreachable
from pyworker.lifecycle.suspicion import FAILURES, FailureStreak
from pyworker.reporting.wire import Outcome
from tests.support.scripted import ScriptedServer, whole
from tests.support.stack import NewStack, Stack
from tests.support.waiting import wait_until

FAULT = whole(b"a fault", status="500 Fault")


@pytest.fixture
def reasons() -> list[str]:
    return []


def test_so_many_failures_without_a_success(reasons: list[str]) -> None:
    streak = FailureStreak(reasons.append)
    for _ in range(FAILURES - 1):
        streak.ended(Outcome.ERROR)
    streak.ended(Outcome.SUCCESS)
    for _ in range(FAILURES - 1):
        streak.ended(Outcome.ERROR)
    assert reasons == []
    streak.ended(Outcome.CANCELLED)
    streak.ended(Outcome.REJECTED)
    streak.ended(None)
    assert (reasons, streak.failures) == ([], FAILURES - 1)
    streak.ended(Outcome.ERROR, ModelUnreachable("nobody listens"))
    assert reasons == [f"{FAILURES} requests in a row failed, the last one: nobody listens"]
    for _ in range(FAILURES):
        streak.ended(Outcome.ERROR, RuntimeError("a prompt that is nobody's business"))
    assert reasons[1:] == [f"{2 * FAILURES} requests in a row failed, the last one: RuntimeError"]


def test_many_threads_at_once(reasons: list[str]) -> None:
    streak = FailureStreak(reasons.append)
    with ThreadPoolExecutor(8) as pool:
        for _ in range(FAILURES * 100):
            pool.submit(streak.ended, Outcome.ERROR)
    assert len(reasons) == 100
    assert streak.failures == FAILURES * 100


def fail_in_a_row(stack: Stack) -> None:
    for _ in range(FAILURES):
        assert stack.post("/pass").status >= 500


def wait_errored(stack: Stack, text: str) -> None:
    stack.wait_for_report(lambda report: text in report["error_msg"], f"an error that says {text!r}")
    answer = stack.post("/pass")
    assert answer.status == 503
    assert "errored" in answer.object()["error"]


def wait_ready_again(stack: Stack) -> None:
    wait_until(lambda: stack.post("/pass").status == 200, "a worker that serves again")
    wait_until(
        lambda: stack.reports[-1]["max_perf"] > 0 and not stack.reports[-1]["error_msg"], "a report of that"
    )


@pytest.mark.parametrize("health", ["", "/health"])
def test_a_model_that_died_without_a_word(new_stack: NewStack, health: str) -> None:
    with ScriptedServer() as model:
        stack = new_stack({"MODEL_SERVER_URL": model.url, "MODEL_HEALTH_ENDPOINT": health})
        stack.start_ready()
    fail_in_a_row(stack)
    wait_errored(stack, "cannot be reached")
    assert f"{FAILURES} requests in a row failed" in stack.worker.log
    with ScriptedServer(port=model.port):
        wait_ready_again(stack)
        stack.worker.stop()


def test_a_model_that_listens_and_serves_nothing(new_stack: NewStack) -> None:
    stack = new_stack()
    stack.start_ready()
    stack.model.default = (FAULT,)
    fail_in_a_row(stack)
    wait_errored(stack, "/benchmark: status 500: a fault")
    stack.model.default = (whole(b"fine"),)
    wait_ready_again(stack)


def test_requests_at_fault_do_not_take_a_healthy_model_down(new_stack: NewStack) -> None:
    stack = new_stack()
    stack.start_ready()
    stack.model.script("/pass", FAULT)
    fail_in_a_row(stack)
    stack.model.request("/benchmark")
    for _ in range(FAILURES):
        assert stack.post("/pass").status == 500
    assert stack.post("/json").status == 200
    assert {report["error_msg"] for report in stack.reports} == {""}
