"""That a model was loaded outlives a crash of the worker process, if the model server confirms it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pyworker.lifecycle.loaded_mark import LoadedMark, ModelMemory
from pyworker.lifecycle.state import Cause, ModelLifecycle, ModelState
from tests.support.scripted import ScriptedServer, whole
from tests.support.stack import ERROR_LINE, LOADED_LINE, NewStack, Stack
from tests.support.waiting import wait_until

ABOUT = {"worker": "a"}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / ".model_loaded"


class Case:
    """A lifecycle, its memory, and what the model server and its log are like."""

    def __init__(self, file: Path) -> None:
        self.lifecycle = ModelLifecycle()
        self.problem = ""
        self.is_current = True
        self.asked = 0
        self.memory = ModelMemory(
            LoadedMark(file, ABOUT), self.lifecycle, check=self._check, is_current=lambda: self.is_current
        )

    def _check(self) -> str:
        self.asked += 1
        return self.problem


def leave_mark(file: Path) -> None:
    LoadedMark(file, ABOUT).write()


# -- the file --------------------------------------------------------------------------------------------


def test_the_mark_of_the_same_model_counts(file: Path) -> None:
    assert not LoadedMark(file, ABOUT).is_there
    leave_mark(file)
    assert LoadedMark(file, ABOUT).is_there
    assert not LoadedMark(file, {"worker": "b"}).is_there
    mark = LoadedMark(file, ABOUT)
    mark.remove()
    mark.remove()
    assert list(file.parent.iterdir()) == []


@pytest.mark.parametrize("content", [b"", b"\xff\x00", b"{}", b"[" * 100_000, b"null"])
def test_a_damaged_mark_does_not_count(file: Path, content: bytes) -> None:
    file.write_bytes(content)
    assert not LoadedMark(file, ABOUT).is_there


def test_a_mark_of_an_earlier_start_of_the_instance_does_not_count(file: Path) -> None:
    leave_mark(file)
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    text = file.read_text()
    assert boot in text
    file.write_text(text.replace(boot, "an-earlier-boot"))
    assert not LoadedMark(file, ABOUT).is_there


def test_a_folder_that_cannot_take_it_is_a_warning(
    tmp_path: Path, file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file.mkdir()
    mark = LoadedMark(file, ABOUT)
    mark.write()
    mark.write()
    mark.remove()
    assert len(caplog.records) == 2
    assert list(tmp_path.iterdir()) == [file]
    assert not mark.is_there


# -- what follows from it --------------------------------------------------------------------------------


def test_it_follows_the_state(file: Path) -> None:
    case = Case(file)
    assert case.memory.step() is None
    assert not file.exists()
    case.lifecycle.loaded()
    case.memory.step()
    assert file.exists()
    case.lifecycle.benchmarked(1.0, epoch=1)
    case.lifecycle.failed(Cause.HEALTH, "gone")
    case.memory.step()
    assert not file.exists()
    case.lifecycle.recovered()
    case.memory.step()
    assert file.exists()
    case.lifecycle.drain()
    case.memory.step()
    assert file.exists(), "a restart of the worker finds it"
    assert case.asked == 0


def test_what_is_remembered_waits_for_the_log_and_the_model(file: Path) -> None:
    leave_mark(file)
    case = Case(file)
    case.is_current, case.problem = False, "not there yet"
    assert case.memory.step() is not None
    assert case.asked == 0
    case.lifecycle.failed(Cause.LOG, "an old line")
    case.is_current = True
    assert case.memory.step() is not None
    assert (case.asked, case.lifecycle.state) == (1, ModelState.ERRORED)
    assert file.exists(), "an old line is no news"
    case.problem = ""
    case.memory.step()
    assert case.lifecycle.state is ModelState.BENCHMARKING
    assert case.memory.step() is None


def test_a_new_error_line_ends_it(file: Path) -> None:
    leave_mark(file)
    case = Case(file)
    case.lifecycle.failed(Cause.LOG, "a new line")
    case.memory.forget()
    assert case.memory.step() is None
    assert not file.exists()
    assert case.lifecycle.state is ModelState.ERRORED


# -- a worker --------------------------------------------------------------------------------------------


def kill(stack: Stack) -> None:
    """The worker process; gunicorn starts another."""
    wait_until((stack.folder / ".model_loaded").exists, "the mark")
    killed = stack.worker.worker_pid
    os.kill(killed, 9)
    wait_until(lambda: stack.worker.children not in ([], [killed]), "the next process")


def wait_ready_again(stack: Stack) -> None:
    stack.wait_for_next_report(
        lambda report: report["max_perf"] > 0 and not report["error_msg"], "a report of the next process"
    )
    assert stack.post("/pass").status == 200


def with_health(health: str) -> dict[str, str]:
    return {"MODEL_HEALTH_ENDPOINT": health}


@pytest.mark.parametrize("health", ["", "/health"])
def test_after_a_crash_an_old_error_line_does_not_count(new_stack: NewStack, health: str) -> None:
    stack = new_stack(with_health(health))
    stack.keep_benchmark(100.0)
    stack.worker.say(f"{ERROR_LINE}: a first try\n{LOADED_LINE}\n{ERROR_LINE}: one bad request")
    stack.worker.start()
    wait_until(lambda: stack.post("/pass").status == 200, "a ready worker")
    kill(stack)
    wait_ready_again(stack)


@pytest.mark.parametrize("health", ["", "/health"])
def test_after_a_crash_and_a_rotation_nobody_waits_for_the_loaded_line(
    new_stack: NewStack, health: str
) -> None:
    stack = new_stack(with_health(health))
    stack.start_ready()
    stack.worker.model_log.rename(stack.folder / "model.log.1")
    stack.worker.say(f"{ERROR_LINE}: one bad request, before the crash")
    kill(stack)
    wait_ready_again(stack)
    by_mark = "loaded before this process started" in stack.worker.log
    # With a health endpoint whichever comes first.
    assert by_mark or (health and f"{health} is healthy" in stack.worker.log)


def test_a_model_that_is_gone_as_well_is_waited_for(new_stack: NewStack) -> None:
    with ScriptedServer() as model:
        stack = new_stack({"MODEL_SERVER_URL": model.url, "MODEL_HEALTH_ENDPOINT": "/health"})
        stack.start_ready()
    stack.worker.model_log.write_text("")
    kill(stack)
    stack.worker.wait_for_log("fetched the autoscaler's public key")
    stack.wait_for_next_report(lambda report: report["max_perf"] == 0, "a report of a model that loads")
    with ScriptedServer(port=model.port) as again:
        again.script("/health", whole(b"fine"))
        wait_ready_again(stack)
        stack.worker.stop()
