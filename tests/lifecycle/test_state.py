"""The model's states: each state × each event, stale epochs, and who is woken."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from pyworker.config import ReadinessSource
from pyworker.data_types import LogAction
from pyworker.lifecycle.state import Cause, Effect, ModelLifecycle, ModelState, ModelStatus, effect_of

DEADLINE = 20  # seconds; only a failing test waits so long

Event = Callable[[ModelLifecycle], bool]

# The situations a worker can be in, and how it gets there: errored has one for each cause.


def loading(_: ModelLifecycle) -> None:
    """Where everything begins."""


def benchmarking(model: ModelLifecycle) -> None:
    assert model.loaded()


def ready(model: ModelLifecycle) -> None:
    benchmarking(model)
    assert model.benchmarked(50.0, epoch=1)


def errored_by_log(model: ModelLifecycle) -> None:
    ready(model)
    assert model.failed(Cause.LOG, "out of memory")


def errored_by_benchmark(model: ModelLifecycle) -> None:
    benchmarking(model)
    assert model.failed(Cause.BENCHMARK, "too slow", epoch=1)


def errored_by_health(model: ModelLifecycle) -> None:
    ready(model)
    assert model.failed(Cause.HEALTH, "no answer", epoch=1)


def draining(model: ModelLifecycle) -> None:
    ready(model)
    assert model.drain()


SITUATIONS = [
    loading,
    benchmarking,
    ready,
    errored_by_log,
    errored_by_benchmark,
    errored_by_health,
    draining,
]

EVENTS: dict[str, Event] = {
    "loaded": lambda model: model.loaded(),
    "log fails": lambda model: model.failed(Cause.LOG, "boom"),
    "benchmark fails": lambda model: model.failed(Cause.BENCHMARK, "boom", epoch=model.status.epoch),
    "health fails": lambda model: model.failed(Cause.HEALTH, "boom", epoch=model.status.epoch),
    "benchmarked": lambda model: model.benchmarked(80.0, epoch=model.status.epoch),
    "recovered": lambda model: model.recovered(),
    "drain": lambda model: model.drain(),
}

ANEW = ModelStatus(ModelState.BENCHMARKING, epoch=2)
DRAINED = ""  # no error, or an autoscaler would restart the instance


def errored(cause: Cause, *, epoch: int, throughput: float) -> ModelStatus:
    return ModelStatus(ModelState.ERRORED, "boom", cause, epoch, throughput)


#: Where each event leads; what is missing changes nothing.
TRANSITIONS: dict[tuple[str, str], ModelStatus] = {
    ("loading", "loaded"): ModelStatus(ModelState.BENCHMARKING, epoch=1),
    ("loading", "log fails"): errored(Cause.LOG, epoch=0, throughput=0.0),
    ("loading", "benchmark fails"): errored(Cause.BENCHMARK, epoch=0, throughput=0.0),
    ("loading", "health fails"): errored(Cause.HEALTH, epoch=0, throughput=0.0),
    ("loading", "drain"): ModelStatus(ModelState.DRAINING, DRAINED),
    ("benchmarking", "log fails"): errored(Cause.LOG, epoch=1, throughput=0.0),
    ("benchmarking", "benchmark fails"): errored(Cause.BENCHMARK, epoch=1, throughput=0.0),
    ("benchmarking", "health fails"): errored(Cause.HEALTH, epoch=1, throughput=0.0),
    ("benchmarking", "benchmarked"): ModelStatus(ModelState.READY, epoch=1, throughput=80.0),
    ("benchmarking", "drain"): ModelStatus(ModelState.DRAINING, DRAINED, epoch=1),
    ("ready", "log fails"): errored(Cause.LOG, epoch=1, throughput=50.0),
    ("ready", "benchmark fails"): errored(Cause.BENCHMARK, epoch=1, throughput=50.0),
    ("ready", "health fails"): errored(Cause.HEALTH, epoch=1, throughput=50.0),
    ("ready", "drain"): ModelStatus(ModelState.DRAINING, DRAINED, epoch=1, throughput=50.0),
    ("errored_by_log", "loaded"): ANEW,
    ("errored_by_log", "log fails"): errored(Cause.LOG, epoch=1, throughput=50.0),
    ("errored_by_log", "drain"): ModelStatus(ModelState.DRAINING, DRAINED, epoch=1, throughput=50.0),
    ("errored_by_benchmark", "loaded"): ANEW,
    ("errored_by_benchmark", "benchmark fails"): errored(Cause.BENCHMARK, epoch=1, throughput=0.0),
    ("errored_by_benchmark", "benchmarked"): ModelStatus(ModelState.READY, epoch=1, throughput=80.0),
    ("errored_by_benchmark", "drain"): ModelStatus(ModelState.DRAINING, DRAINED, epoch=1),
    ("errored_by_health", "loaded"): ANEW,
    ("errored_by_health", "health fails"): errored(Cause.HEALTH, epoch=1, throughput=50.0),
    ("errored_by_health", "recovered"): ModelStatus(ModelState.READY, epoch=1, throughput=50.0),
    ("errored_by_health", "drain"): ModelStatus(ModelState.DRAINING, DRAINED, epoch=1, throughput=50.0),
}


@pytest.mark.parametrize("event", EVENTS)
@pytest.mark.parametrize("situation", SITUATIONS)
def test_each_event_in_each_situation(situation: Callable[[ModelLifecycle], None], event: str) -> None:
    changes: list[ModelStatus] = []
    model = ModelLifecycle(lambda: changes.append(model.status))
    situation(model)
    before = model.status
    changes.clear()

    changed = EVENTS[event](model)

    expected = TRANSITIONS.get((situation.__name__, event), before)
    assert model.status == expected
    assert changed == (expected != before)
    assert changes == ([expected] if changed else []), "each change is announced once, and nothing else is"


def test_a_worker_starts_loading_and_shows_its_state() -> None:
    model = ModelLifecycle()

    assert model.status == ModelStatus(ModelState.LOADING)
    model.loaded()
    assert repr(model) == "<ModelLifecycle benchmarking epoch=1>"


def test_a_result_of_an_older_epoch_is_ignored() -> None:
    model = ModelLifecycle()
    errored_by_log(model)
    model.loaded()
    assert model.status.epoch == 2

    assert not model.benchmarked(99.0, epoch=1)
    assert not model.failed(Cause.BENCHMARK, "late", epoch=1)
    assert not model.loaded(epoch=1)
    assert not model.failed(Cause.HEALTH, "late", epoch=1)
    assert model.status == ANEW

    assert model.benchmarked(70.0, epoch=2)
    assert model.status.throughput == 70.0


def test_the_same_failure_twice_is_one_change() -> None:
    model = ModelLifecycle()

    assert model.failed(Cause.LOG, "out of memory")
    assert not model.failed(Cause.LOG, "out of memory")
    assert model.failed(Cause.LOG, "still out of memory")
    assert model.status.error_msg == "still out of memory"


LOADED, ERROR, INFO = LogAction.ModelLoaded, LogAction.ModelError, LogAction.Info


@pytest.mark.parametrize("state", ModelState)
@pytest.mark.parametrize("source", ReadinessSource)
def test_what_a_line_does(state: ModelState, source: ReadinessSource) -> None:
    is_loaded = state in (ModelState.BENCHMARKING, ModelState.READY)
    told = Effect.HINT if source is ReadinessSource.HEALTH else None

    assert effect_of(INFO, state, source, has_health=True) is Effect.COPY
    assert effect_of(LOADED, state, source, has_health=True) is (told or Effect.LOADED)
    expected = Effect.SUSPICION if is_loaded else told or Effect.FAILED
    assert effect_of(ERROR, state, source, has_health=True) is expected
    assert effect_of(ERROR, state, source, has_health=False, is_old=True) is expected
    if state is ModelState.READY:
        expected = told or Effect.FAILED
    assert effect_of(ERROR, state, source, has_health=False) is expected


@pytest.mark.parametrize("situation", SITUATIONS)
def test_awaits_loading(situation: Callable[[ModelLifecycle], None]) -> None:
    model = ModelLifecycle()
    situation(model)

    assert model.status.awaits_loading == (situation in (loading, errored_by_log))


def test_a_long_message_is_cut() -> None:
    model = ModelLifecycle()

    model.failed(Cause.LOG, "x" * 501)
    assert model.status.error_msg == "x" * 499 + "…"
    model.failed(Cause.LOG, "y" * 500)
    assert model.status.error_msg == "y" * 500


def test_the_lifecycle_can_be_used_from_the_callback() -> None:
    """Foreign code never runs under the lock: another thread gets in while the callback runs."""
    moves: list[bool] = []

    def use_it_from_another_thread() -> None:
        if model.state is ModelState.BENCHMARKING:
            with ThreadPoolExecutor(1) as pool:
                assert pool.submit(model.wait_for_benchmark).result(DEADLINE) == 1
                moves.append(pool.submit(model.benchmarked, 60.0, epoch=1).result(DEADLINE))

    model = ModelLifecycle(use_it_from_another_thread)

    assert model.loaded()
    assert moves == [True]
    assert model.status == ModelStatus(ModelState.READY, epoch=1, throughput=60.0)


class Waiter:
    """One call that blocks, on a thread of its own."""

    def __init__(self, call: Callable[[], object]) -> None:
        self._call = call
        self._started = threading.Event()
        self.answers: list[object] = []
        self._thread = threading.Thread(target=self._run, name="test-waiter")
        self._thread.start()
        assert self._started.wait(DEADLINE)

    def _run(self) -> None:
        self._started.set()
        self.answers.append(self._call())

    def answer(self) -> object:
        self._thread.join(DEADLINE)
        assert not self._thread.is_alive(), "the waiter was not woken"
        return self.answers[0]


def test_waiting_for_a_benchmark_ends_when_the_model_is_loaded() -> None:
    model = ModelLifecycle()
    waiters = [Waiter(model.wait_for_benchmark) for _ in range(3)]
    assert not any(waiter.answers for waiter in waiters)

    model.failed(Cause.LOG, "not this")
    model.loaded()

    assert [waiter.answer() for waiter in waiters] == [1, 1, 1]


def test_waiting_for_a_benchmark_ends_at_drain_and_at_close() -> None:
    drained, closed = ModelLifecycle(), ModelLifecycle()
    waiters = [Waiter(drained.wait_for_benchmark), Waiter(closed.wait_for_benchmark)]

    drained.drain()
    closed.close()

    assert [waiter.answer() for waiter in waiters] == [None, None]
    assert closed.state is ModelState.LOADING, "to close is no change of the model"
    closed.loaded()
    assert closed.wait_for_benchmark() is None, "closed for good"


def test_wait_while_ends_with_its_condition() -> None:
    model = ModelLifecycle()
    errored_by_benchmark(model)

    waiter = Waiter(lambda: model.wait_while(lambda status: status.epoch == 1, timeout=10 * DEADLINE))
    model.loaded()
    waiter.answer()


def test_wait_while_ends_at_close_and_at_its_timeout() -> None:
    model = ModelLifecycle()
    model.wait_while(lambda _: True, timeout=0.001)

    waiter = Waiter(lambda: model.wait_while(lambda _: True, timeout=10 * DEADLINE))
    model.close()
    waiter.answer()
    model.wait_while(lambda _: True, timeout=10 * DEADLINE)


@pytest.mark.parametrize("situation", SITUATIONS)
def test_awaits_benchmark(situation: Callable[[ModelLifecycle], None]) -> None:
    model = ModelLifecycle()
    situation(model)

    assert model.status.awaits_benchmark == (situation in (benchmarking, errored_by_benchmark))


def test_only_one_of_many_threads_takes_a_transition() -> None:
    model = ModelLifecycle()
    barrier = threading.Barrier(8)

    def race() -> bool:
        barrier.wait(DEADLINE)
        return model.loaded()

    with ThreadPoolExecutor(8) as pool:
        taken = [future.result(DEADLINE) for future in [pool.submit(race) for _ in range(8)]]

    assert sum(taken) == 1
    assert model.status.epoch == 1
