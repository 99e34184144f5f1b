"""Background threads: when they step, what wakes them, and that they end."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from pyworker.runtime.services import Loop, Runtime
from tests.support.waiting import DEADLINE, wait_event, wait_until

MakeLoop = Callable[..., Loop]


class Steps:
    """A step that counts, and returns this pause."""

    def __init__(self, pause: float | None = None) -> None:
        self.times: list[float] = []
        self.pause = pause

    def __call__(self) -> float | None:
        self.times.append(time.monotonic())
        return self.pause

    @property
    def count(self) -> int:
        return len(self.times)

    def wait(self, count: int) -> None:
        wait_until(lambda: self.count >= count, f"step {count}")


@pytest.fixture
def make_loop() -> Iterator[MakeLoop]:
    """Makes loops that are stopped and joined after the test."""
    loops: list[Loop] = []

    def make(step: Callable[[], float | None], **keywords: Any) -> Loop:
        loop = Loop("pyworker-test", step, **keywords)
        loops.append(loop)
        return loop

    yield make
    for loop in loops:
        loop.stop()
    for loop in loops:
        assert loop.join(DEADLINE), loop


def test_the_first_step_needs_no_wake(make_loop: MakeLoop) -> None:
    steps = Steps()
    make_loop(steps).start()
    steps.wait(1)


def test_a_loop_steps_again_when_its_pause_is_over(make_loop: MakeLoop) -> None:
    steps = Steps(pause=0.05)
    make_loop(steps).start()
    steps.wait(4)
    gaps = [later - earlier for earlier, later in zip(steps.times, steps.times[1:], strict=False)]
    assert min(gaps) >= 0.045


def test_a_wake_makes_the_next_step_due_now(make_loop: MakeLoop) -> None:
    steps = Steps(pause=3600)
    loop = make_loop(steps)
    loop.start()
    for count in range(1, 5):
        steps.wait(count)
        loop.wake()
    steps.wait(5)


def test_without_a_pause_only_a_wake_steps(make_loop: MakeLoop) -> None:
    steps, other = Steps(pause=None), Steps(pause=0.0)
    loop, busy = make_loop(steps), make_loop(other)
    loop.start()
    steps.wait(1)
    busy.start()
    other.wait(100)  # the other had plenty of chances meanwhile
    assert steps.count == 1
    loop.wake()
    steps.wait(2)


def test_a_wake_during_a_step_is_not_lost(make_loop: MakeLoop) -> None:
    entered, leave = threading.Event(), threading.Event()
    count = 0

    def step() -> None:
        nonlocal count
        count += 1
        entered.set()
        leave.wait(DEADLINE)

    loop = make_loop(step)
    loop.start()
    wait_event(entered, "the first step")
    loop.wake()
    loop.wake()
    leave.set()
    wait_until(lambda: count == 2, "the step for what came during the first")


def test_a_burst_of_wakes_within_the_hold_costs_one_step(make_loop: MakeLoop) -> None:
    steps = Steps()
    loop = make_loop(steps, hold=0.3)
    loop.start()
    steps.wait(1)
    for _ in range(1000):
        loop.wake()
    steps.wait(2)
    assert steps.times[1] - steps.times[0] >= 0.29
    loop.stop()
    assert loop.join(DEADLINE)
    assert steps.count == 2


def test_stop_cuts_pause_and_hold_short(make_loop: MakeLoop) -> None:
    for hold in (0.0, 3600.0):
        steps = Steps(pause=3600)
        loop = make_loop(steps, hold=hold)
        loop.start()
        steps.wait(1)
        started = time.monotonic()
        loop.stop()
        assert loop.join(DEADLINE)
        assert time.monotonic() - started < 5
        assert steps.count == 1


def test_a_crash_is_logged_and_the_loop_goes_on(
    make_loop: MakeLoop, caplog: pytest.LogCaptureFixture
) -> None:
    steps = Steps(pause=3600)

    def step() -> float | None:
        if steps() is not None and steps.count == 1:
            raise RuntimeError("a fault of the first step")
        return 3600

    with caplog.at_level(logging.ERROR):
        make_loop(step).start()
        steps.wait(2)
    assert "pyworker-test failed" in caplog.text
    assert "a fault of the first step" in caplog.text
    assert steps.times[1] - steps.times[0] >= 0.9, "a loop that crashes must not spin"


def test_the_end_comes_after_the_last_step_on_the_same_thread(make_loop: MakeLoop) -> None:
    order: list[str] = []
    stepped = threading.Event()

    def step() -> None:
        order.append(threading.current_thread().name)
        stepped.set()

    loop = make_loop(
        step,
        on_stop=lambda: order.append("stop"),
        on_end=lambda: order.append(f"end on {threading.current_thread().name}"),
    )
    loop.start()
    wait_event(stepped, "the first step")
    loop.stop()
    assert loop.join(DEADLINE)
    assert order == ["pyworker-test", "stop", "end on pyworker-test"]


def test_what_is_stopped_is_not_closed_before_it_was_told(make_loop: MakeLoop) -> None:
    """The loop rests, so it ends by the flag alone, while `on_stop` has yet to write."""
    order: list[str] = []
    stepped, ended = threading.Event(), threading.Event()

    def stop() -> None:
        ended.wait(0.2)  # the time in which the thread would end
        order.append("stop")

    def end() -> None:
        order.append("end")
        ended.set()

    loop = make_loop(lambda: stepped.set(), on_stop=stop, on_end=end)
    loop.start()
    wait_event(stepped, "the first step")
    loop.stop()
    assert loop.join(DEADLINE)
    assert order == ["stop", "end"]


def test_a_loop_ends_whatever_its_on_stop_raises(make_loop: MakeLoop) -> None:
    faults = [RuntimeError("a fault of the stop")]
    ended = threading.Event()

    def stop() -> None:
        if faults:
            raise faults.pop()

    loop = make_loop(Steps(), on_stop=stop, on_end=ended.set)
    loop.start()
    with pytest.raises(RuntimeError, match="a fault of the stop"):
        loop.stop()
    assert loop.join(DEADLINE)
    assert ended.is_set()


def test_a_crash_at_the_end_is_logged(make_loop: MakeLoop, caplog: pytest.LogCaptureFixture) -> None:
    def end() -> None:
        raise RuntimeError("a fault of the end")

    with caplog.at_level(logging.ERROR):
        loop = make_loop(Steps(), on_end=end)
        loop.start()
        loop.stop()
        assert loop.join(DEADLINE)
    assert "a fault of the end" in caplog.text


def test_a_loop_that_never_started_is_joined_at_once(make_loop: MakeLoop) -> None:
    loop = make_loop(Steps())
    assert loop.join(0)
    assert "not running" in repr(loop)


def test_a_loop_shows_its_state(make_loop: MakeLoop) -> None:
    loop = make_loop(Steps(pause=3600))
    loop.start()
    assert repr(loop) == "<Loop pyworker-test alive>"


class Recorder(Loop):
    """A loop that writes down what is asked of it."""

    def __init__(self, name: str, said: list[str], *, ends: bool = True) -> None:
        super().__init__(name, lambda: None)
        self._said = said
        self._ends = ends

    def start(self) -> None:
        self._said.append(f"start {self.name}")

    def stop(self) -> None:
        self._said.append(f"stop {self.name}")

    def join(self, timeout: float) -> bool:
        assert timeout > 0
        self._said.append(f"join {self.name}")
        return self._ends


def test_a_runtime_starts_and_stops_once_and_in_order() -> None:
    said: list[str] = []
    runtime = Runtime([Recorder("a", said), Recorder("b", said)])
    runtime.stop()  # before the start: nothing to do
    assert said == []
    assert "not started" in repr(runtime)
    runtime.start()
    runtime.start()
    assert said == ["start a", "start b"]
    assert "running" in repr(runtime)
    said.clear()
    runtime.stop()
    runtime.stop()
    # All are asked before anyone is waited for.
    assert said == ["stop a", "stop b", "join a", "join b"]
    assert "stopped" in repr(runtime)


def test_a_service_that_does_not_end_is_named(caplog: pytest.LogCaptureFixture) -> None:
    said: list[str] = []
    runtime = Runtime([Recorder("stubborn", said, ends=False), Recorder("good", said)])
    runtime.start()
    with caplog.at_level(logging.ERROR):
        runtime.stop()
    assert "stubborn did not end" in caplog.text
    assert "good" not in caplog.text
    assert said[-1] == "join good"


def test_starts_from_many_threads_start_once() -> None:
    said: list[str] = []
    runtime = Runtime([Recorder("only", said)])
    threads = [threading.Thread(target=runtime.start) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE)
    assert said == ["start only"]
    runtime.stop()
