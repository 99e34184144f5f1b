"""What a program has to load: it is entered before the worker is ready, and left at the end."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from pyworker.app import worker_of
from pyworker.config import Settings
from pyworker.lifecycle.state import ModelState
from pyworker.sdk import BenchmarkConfig, HandlerConfig, Worker, WorkerConfig
from pyworker.worker import Worker as RunningWorker
from tests.support.waiting import DEADLINE, wait_event


class Lifecycle:
    """Says what has happened to it."""

    def __init__(self, problem: Exception | None = None, *, hangs: bool = False) -> None:
        self.problem = problem
        self.hangs = hangs
        self.began = threading.Event()
        self.said: list[str] = []

    async def __aenter__(self) -> None:
        self.began.set()
        try:
            await asyncio.sleep(DEADLINE if self.hangs else 0)
        except asyncio.CancelledError:
            self.said.append("cancelled")
            raise
        if self.problem is not None:
            raise self.problem
        self.said.append("entered")

    async def __aexit__(self, *_error: object) -> None:
        self.said.append("left")


@contextmanager
def running(lifecycle: Lifecycle, folder: Path) -> Generator[RunningWorker]:
    """A worker of one function, which says whether it was called within the lifecycle."""

    async def function() -> str:
        return lifecycle.said[-1]

    benchmark = BenchmarkConfig(generator=dict, runs=1, concurrency=1)
    handler = HandlerConfig("/f", remote_function=function, benchmark_config=benchmark)
    settings = Settings(unsecured=True, report_addrs=("http://127.0.0.1:1",), state_dir=folder)
    app = Worker(WorkerConfig(handlers=[handler], lifecycle=lifecycle)).create_app(settings)
    worker = worker_of(app)
    worker.start()
    try:
        yield worker
    finally:
        worker.close()


def test_a_worker_is_ready_once_its_lifecycle_is_entered(tmp_path: Path) -> None:
    lifecycle = Lifecycle()
    with running(lifecycle, tmp_path) as worker:
        worker.lifecycle.wait_while(lambda status: status.state is not ModelState.READY, DEADLINE)
        assert (worker.lifecycle.state, lifecycle.said) == (ModelState.READY, ["entered"])
    assert lifecycle.said == ["entered", "left"]


def test_a_lifecycle_that_fails_is_the_worker_s_error(tmp_path: Path) -> None:
    lifecycle = Lifecycle(OSError("no weights"))
    with running(lifecycle, tmp_path) as worker:
        worker.lifecycle.wait_while(lambda status: status.state is not ModelState.ERRORED, DEADLINE)
        error = worker.lifecycle.status.error_msg
        assert error == "the lifecycle could not be entered: OSError: no weights"
    assert lifecycle.said == []


def test_the_end_does_not_wait_for_a_lifecycle_that_is_being_entered(tmp_path: Path) -> None:
    lifecycle = Lifecycle(hangs=True)
    with running(lifecycle, tmp_path):
        wait_event(lifecycle.began, "the lifecycle")
    assert lifecycle.said == ["cancelled"]


def test_a_worker_that_never_started_leaves_no_socket() -> None:
    """The leak check looks."""
    handler = HandlerConfig("/f", remote_function=print, benchmark_config=BenchmarkConfig([{}], runs=1))
    Worker(WorkerConfig(handlers=[handler], lifecycle=Lifecycle())).create_app(Settings(unsecured=True))
