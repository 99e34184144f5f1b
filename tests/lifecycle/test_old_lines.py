"""The log is read as it is: lines of an earlier run of the model neither make it loaded nor errored."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyworker.data_types import LogAction
from pyworker.lifecycle.log_tail import LogTailer
from pyworker.lifecycle.old_lines import LOOK_INTERVAL, PATIENCE, OldLines
from pyworker.lifecycle.state import Cause, ModelLifecycle, ModelState
from tests.support.scripted import ScriptedServer, whole
from tests.support.stack import ERROR_LINE, INFO_LINE, LOADED_LINE, NewStack, Stack
from tests.support.waiting import wait_until

START = 1000.0


class Case:
    """A log, what reads it, and a model server that is healthy or not."""

    def __init__(self, log: Path) -> None:
        self.log = log
        self.lifecycle = ModelLifecycle()
        self.problem = "it does not listen"
        self.strict_problem = ""
        self.woken = 0
        #: What another thread finds settled while a line of the log is acted on.
        self.settled: list[bool] = []
        self.tailer = LogTailer(log, [(LogAction.ModelLoaded, "ready")], self._take)
        self.old_lines = OldLines(
            self.lifecycle,
            check=lambda: self.problem,
            check_strictly=lambda: self.problem or self.strict_problem,
            tailer=self.tailer,
            wake=self._wake,
        )

    def _take(self, _action: LogAction, line: str, is_old: bool) -> None:
        self.settled.append(self.old_lines.are_settled)
        if is_old:
            self.old_lines.loaded(line)

    def _wake(self) -> None:
        self.woken += 1

    def append(self, text: str) -> None:
        with self.log.open("a") as log:
            log.write(text)
        self.tailer.tail_once()


@pytest.fixture
def case(tmp_path: Path) -> Iterator[Case]:
    log = tmp_path / "model.log"
    log.write_text("old\n")
    case = Case(log)
    yield case
    case.tailer.close()


def read_old_part(case: Case) -> None:
    while not case.tailer.glance.is_current:
        case.tailer.tail_once()


def test_nothing_said_is_nothing_to_do(case: Case) -> None:
    assert case.old_lines.step(START) is None
    assert repr(case.old_lines) == "<OldLines not loaded, no error>"


def test_a_loaded_line_waits_for_the_log_and_the_model(case: Case, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    case.old_lines.loaded("ready")
    assert case.woken == 1
    case.problem = ""
    assert case.old_lines.step(START) == LOOK_INTERVAL, "an error line may follow"
    assert case.lifecycle.state is ModelState.LOADING
    read_old_part(case)
    case.problem = "it does not listen"
    for second in range(3600):
        assert case.old_lines.step(START + second) == LOOK_INTERVAL
    assert case.lifecycle.state is ModelState.LOADING, "it loads anew, which is no error"
    case.problem = ""
    assert case.old_lines.step(START) is None
    assert case.lifecycle.state is ModelState.BENCHMARKING
    assert "the model is loaded: ready" in caplog.text


def test_nothing_is_settled_while_a_loaded_line_waits(case: Case) -> None:
    """Whoever finds it settled asks the model server for what an earlier process remembers."""
    with case.log.open("a") as log:
        log.write("ready\n")
    assert not case.old_lines.are_settled
    read_old_part(case)
    assert case.settled == [False], "the line was read, and not acted on yet"
    assert not case.old_lines.are_settled
    case.problem = ""
    case.old_lines.step(START)
    assert case.old_lines.are_settled


def test_an_error_line_at_the_end_counts_after_a_while(case: Case) -> None:
    read_old_part(case)
    case.old_lines.failed("out of memory")
    assert case.old_lines.step(START) == LOOK_INTERVAL
    case.old_lines.step(START + PATIENCE - 1)
    assert case.lifecycle.state is ModelState.LOADING
    case.old_lines.step(START + PATIENCE)
    assert (case.lifecycle.state, case.lifecycle.status.cause) == (ModelState.ERRORED, Cause.LOG)
    assert case.lifecycle.status.error_msg == "out of memory"
    assert case.old_lines.step(START + PATIENCE + 1) is None


def test_an_error_line_after_which_the_log_goes_on_does_not_count(case: Case) -> None:
    read_old_part(case)
    case.old_lines.failed("out of memory")
    case.old_lines.step(START)
    case.append("a new run of the model begins\n")
    case.old_lines.step(START + 1)
    case.old_lines.step(START + 2 * PATIENCE)
    assert case.lifecycle.state is ModelState.LOADING


def test_a_line_that_comes_before_the_first_look_counts_too(case: Case) -> None:
    read_old_part(case)
    case.old_lines.failed("out of memory")
    case.append("a new run of the model begins\n")
    case.old_lines.step(START)
    case.old_lines.step(START + 2 * PATIENCE)
    assert case.lifecycle.state is ModelState.LOADING


def test_after_an_error_line_the_model_has_to_serve_and_not_only_to_listen(case: Case) -> None:
    read_old_part(case)
    case.old_lines.loaded("ready")
    case.old_lines.failed("one bad request?")
    case.problem, case.strict_problem = "", "it answers 500"
    assert case.old_lines.step(START) == LOOK_INTERVAL
    assert case.lifecycle.state is ModelState.LOADING
    case.strict_problem = ""
    assert case.old_lines.step(START + 1) is None
    assert case.lifecycle.state is ModelState.BENCHMARKING


def test_a_loaded_line_makes_an_earlier_error_line_void(case: Case) -> None:
    read_old_part(case)
    case.old_lines.failed("a first try")
    case.old_lines.loaded("ready")
    case.old_lines.step(START)
    case.old_lines.step(START + 2 * PATIENCE)
    assert case.lifecycle.state is ModelState.LOADING


def test_newer_lines_and_other_signs_end_it(case: Case) -> None:
    read_old_part(case)
    case.problem = ""
    case.old_lines.loaded("ready")
    case.old_lines.forget()
    assert case.old_lines.step(START) is None
    assert case.lifecycle.state is ModelState.LOADING
    case.old_lines.loaded("ready")
    case.lifecycle.loaded()
    case.lifecycle.failed(Cause.BENCHMARK, "slow")
    assert case.old_lines.step(START) is None
    assert case.lifecycle.status.error_msg == "slow"


# -- a worker --------------------------------------------------------------------------------------------


def errors(stack: Stack) -> set[str]:
    return {report["error_msg"] for report in stack.reports}


@pytest.mark.parametrize("health", ["", "/health"])
def test_a_model_that_loads_anew_is_neither_loaded_nor_errored(new_stack: NewStack, health: str) -> None:
    """The log begins with an earlier run that served, and then failed."""
    with ScriptedServer(listening=False) as late:
        stack = new_stack({"MODEL_SERVER_URL": late.url, "MODEL_HEALTH_ENDPOINT": health})
        stack.keep_benchmark(500.0)
        stack.worker.say(f"{LOADED_LINE}\n{ERROR_LINE}: the instance was restarted")
        stack.worker.start()
        stack.worker.wait_for_log(
            "old error line in the model's log; it counts if nothing follows within 60 s"
        )
        stack.worker.say(f"{INFO_LINE} it loads")
        stack.worker.wait_for_log("goes on after an error line from before this start")
        assert "cannot serve now: loading" in stack.post("/pass").object()["error"]
        late.listen()
        stack.worker.say(LOADED_LINE)
        stack.wait_ready()
        assert errors(stack) == {""}
        stack.worker.stop()


def test_a_new_error_line_counts_at_once(new_stack: NewStack) -> None:
    stack = new_stack()
    stack.model.close()
    stack.worker.say(f"{LOADED_LINE}\n{ERROR_LINE}: an old one")
    stack.worker.start()
    stack.worker.wait_for_log("an old one")
    stack.worker.say(f"{ERROR_LINE}: a new one")
    stack.wait_for_report(lambda report: "a new one" in report["error_msg"], "the error")
    assert errors(stack) <= {"", f"{ERROR_LINE}: a new one"}


def test_no_loaded_line_within_reach_and_good_health_is_loaded(new_stack: NewStack) -> None:
    """`either` is the default where there is a health endpoint."""
    stack = new_stack({"MODEL_HEALTH_ENDPOINT": "/health"})
    stack.model.script("/health", whole(b"loading", status="503 Loading"))
    stack.keep_benchmark(500.0)
    stack.worker.start()
    stack.model.request("/health", 2)
    assert not stack.worker.model_log.exists(), "a log that does not exist yet is waited for"
    stack.worker.say("the loaded line was rotated away")
    wait_until(lambda: "loading" in stack.post("/pass").object()["error"], "the public key")
    stack.model.script("/health", whole(b"fine"))
    stack.wait_ready()
    assert errors(stack) == {""}
