"""The state of the model behind this worker, as one small state machine.

    LOADING ──loaded──▶ BENCHMARKING ──finished──▶ READY
       │                     │  ▲                   │ ▲
       └───── failed ────────┤  └──── loaded ───┐   │ │ recovered
                             ▼                  │   │ │
                          ERRORED ◀─────────────┴───┘─┘
    any state ──drain──▶ DRAINING

Pure decisions: no I/O, no clock.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from enum import Enum

_MAX_MESSAGE = 500


class ModelState(Enum):
    """What the worker can do right now. Closed set."""

    LOADING = "loading"
    BENCHMARKING = "benchmarking"
    READY = "ready"
    ERRORED = "errored"
    DRAINING = "draining"


class Cause(Enum):
    """Why the worker is errored: only the same source can declare it well again."""

    LOG = "log"
    BENCHMARK = "benchmark"
    HEALTH = "health"


@dataclass(frozen=True)
class ModelStatus:
    """One consistent view. `epoch` counts the loaded lines: a result of an older epoch is stale."""

    state: ModelState
    error_msg: str = ""
    cause: Cause | None = None
    epoch: int = 0
    throughput: float = 0.0


class ModelLifecycle:
    """Who may move the model from which state to which. Thread-safe; waiters wake at every change."""

    def __init__(self) -> None:
        # Guards _status and _closed; notified at each change.
        self._changed = threading.Condition()
        self._status = ModelStatus(ModelState.LOADING)
        self._closed = False

    @property
    def status(self) -> ModelStatus:
        return self._status

    @property
    def state(self) -> ModelState:
        return self._status.state

    def loaded(self) -> bool:
        """The log says the model is loaded. A ready worker stays ready; True where the state changed."""
        with self._changed:
            old = self._status
            if old.state not in (ModelState.LOADING, ModelState.ERRORED):
                return False
            return self._move(ModelStatus(ModelState.BENCHMARKING, epoch=old.epoch + 1))

    def failed(self, cause: Cause, message: str, *, epoch: int | None = None) -> bool:
        """The model cannot serve, for this cause. The first cause stays; an older epoch is ignored."""
        with self._changed:
            old = self._status
            if old.state is ModelState.DRAINING or self._is_stale(epoch):
                return False
            if old.state is ModelState.ERRORED and old.cause is not cause:
                return False
            shortened = message if len(message) <= _MAX_MESSAGE else message[: _MAX_MESSAGE - 1] + "…"
            return self._move(
                ModelStatus(ModelState.ERRORED, shortened, cause, old.epoch, old.throughput),
            )

    def benchmarked(self, throughput: float, *, epoch: int) -> bool:
        """Benchmark and health are done: ready, unless something else broke the model meanwhile."""
        with self._changed:
            old = self._status
            waiting = old.state is ModelState.BENCHMARKING or old.cause is Cause.BENCHMARK
            if not waiting or self._is_stale(epoch):
                return False
            return self._move(ModelStatus(ModelState.READY, epoch=old.epoch, throughput=throughput))

    def recovered(self) -> bool:
        """The health probe succeeded again: undoes what the health probe broke, nothing else."""
        with self._changed:
            old = self._status
            if old.state is not ModelState.ERRORED or old.cause is not Cause.HEALTH:
                return False
            return self._move(ModelStatus(ModelState.READY, epoch=old.epoch, throughput=old.throughput))

    def drain(self) -> bool:
        """The process is about to end; nothing leads out of here."""
        with self._changed:
            old = self._status
            if old.state is ModelState.DRAINING:
                return False
            return self._move(
                ModelStatus(ModelState.DRAINING, old.error_msg, old.cause, old.epoch, old.throughput)
            )

    def wait_for_benchmark(self) -> int | None:
        """Block until a benchmark is due and return its epoch; None once closed or draining."""
        with self._changed:
            self._changed.wait_for(
                lambda: self._closed or self.state in (ModelState.BENCHMARKING, ModelState.DRAINING)
            )
            done = self._closed or self.state is ModelState.DRAINING
            return None if done else self._status.epoch

    def close(self) -> None:
        """Wake every waiter for good."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _is_stale(self, epoch: int | None) -> bool:
        return epoch is not None and epoch != self._status.epoch

    def _move(self, status: ModelStatus) -> bool:
        changed = status != self._status
        self._status = status
        self._changed.notify_all()
        return changed

    def __repr__(self) -> str:
        status = self._status
        return f"<ModelLifecycle {status.state.value} epoch={status.epoch}>"
