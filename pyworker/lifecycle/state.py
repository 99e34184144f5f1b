"""The state of the model behind this worker, as one small state machine.

    LOADING ──loaded──▶ BENCHMARKING ──finished──▶ READY
       │                     │  ▲                   │ ▲
       └───── failed ────────┤  └──── loaded ───┐   │ │ recovered
                             ▼                  │   │ │
                          ERRORED ◀─────────────┴───┘─┘
    any state ──drain──▶ DRAINING

MODEL_READINESS decides what says that the model is loaded, and which error lines count:

* logs: a loaded line in its log. An error line before the model is ready makes it errored, until another
  loaded line.
* health: the first success of its health endpoint. Lines of the log are hints for people only.
* either: whichever comes first. An error line before the model is ready makes it errored, until another
  loaded line or a success of the health endpoint.

In each mode an error line of a loaded model is a suspicion, which the health endpoint has to confirm. Without
a health endpoint, an error line makes a ready model errored immediately, unless it was in the log before the
worker started; a model that is not ready yet has to serve a request.

Pure decisions: no I/O, no clock.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from pyworker.config import ReadinessSource
from pyworker.data_types import LogAction
from pyworker.errors import shortened

_MAX_MESSAGE = 500


class ModelState(Enum):
    """The states of the diagram above."""

    LOADING = "loading"
    BENCHMARKING = "benchmarking"
    READY = "ready"
    ERRORED = "errored"
    DRAINING = "draining"


class Cause(Enum):
    """Why the worker is errored. Only the same source, or a newly loaded model, ends it."""

    LOG = "log"
    BENCHMARK = "benchmark"
    HEALTH = "health"


@dataclass(frozen=True)
class ModelStatus:
    """A consistent snapshot. `epoch` counts how often the model was loaded: older results are stale."""

    state: ModelState
    error_msg: str = ""
    cause: Cause | None = None
    epoch: int = 0
    throughput: float = 0.0

    @property
    def awaits_benchmark(self) -> bool:
        """Whether a benchmark's success would make the worker ready."""
        return self.state is ModelState.BENCHMARKING or (
            self.state is ModelState.ERRORED and self.cause is Cause.BENCHMARK
        )

    @property
    def awaits_loading(self) -> bool:
        """Whether only a sign that the model is loaded leads on."""
        return self.state is ModelState.LOADING or (
            self.state is ModelState.ERRORED and self.cause is Cause.LOG
        )


class Effect(Enum):
    """What a matching line of the model's log causes."""

    LOADED = "the model is loaded"
    FAILED = "the model failed"
    SUSPICION = "a suspicion, the health probe would decide"
    HINT = "a hint for people only"
    COPY = "copied into the worker's log"


def effect_of(
    action: LogAction,
    state: ModelState,
    source: ReadinessSource,
    *,
    has_health: bool,
    is_old: bool = False,
) -> Effect:
    """What a line with this action causes in this state.

    has_health: there is a health endpoint; is_old: the line was in the log before the worker started.
    """
    if action is LogAction.Info:
        return Effect.COPY
    if action is LogAction.ModelLoaded:
        return Effect.LOADED if source.by_log else Effect.HINT
    if state is ModelState.BENCHMARKING or (state is ModelState.READY and (has_health or is_old)):
        return Effect.SUSPICION
    return Effect.FAILED if source.by_log else Effect.HINT


class ModelLifecycle:
    """The state machine. Thread-safe; waiting threads wake at every change.

    Each of on_change is called outside the lock after each change.
    """

    def __init__(self, *on_change: Callable[[], None]) -> None:
        self._on_change = on_change
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

    def loaded(self, *, epoch: int | None = None) -> bool:
        """The model is loaded. A ready worker stays ready. True if the state changed."""
        return self._move(_loaded, epoch)

    def failed(self, cause: Cause, message: str, *, epoch: int | None = None) -> bool:
        """The model cannot serve, for this cause. The first cause stays. An older epoch is ignored."""
        return self._move(lambda old: _failed(old, cause, message), epoch)

    def benchmarked(self, throughput: float, *, epoch: int) -> bool:
        """Benchmark and health check succeeded: ready, unless the model failed for another cause
        meanwhile.
        """
        return self._move(lambda old: _benchmarked(old, throughput), epoch)

    def recovered(self) -> bool:
        """A health check succeeded: ends an error whose cause is a failed health check, and no other.

        A model that was never ready is benchmarked next.
        """
        return self._move(_recovered)

    def drain(self) -> bool:
        """The process is about to end. There is no transition out of this state."""
        return self._move(_drained)

    def _move(
        self, transition: Callable[[ModelStatus], ModelStatus | None], epoch: int | None = None
    ) -> bool:
        """Apply a transition (the functions at the end of this module), if there is one from this state."""
        with self._changed:
            old = self._status
            stale = epoch is not None and epoch != old.epoch
            new = None if stale else transition(old)
            if new is None or new == old:
                return False
            self._status = new
            self._changed.notify_all()
        for notify in self._on_change:
            notify()
        return True

    def wait_for_benchmark(self) -> int | None:
        """Block until a benchmark is due and return its epoch; None once closed or draining."""
        with self._changed:
            self._changed.wait_for(
                lambda: self._closed or self.state in (ModelState.BENCHMARKING, ModelState.DRAINING)
            )
            done = self._closed or self.state is ModelState.DRAINING
            return None if done else self._status.epoch

    def wait_while(self, condition: Callable[[ModelStatus], bool], timeout: float | None = None) -> None:
        """Block while `condition` holds, for at most `timeout` seconds; returns immediately once closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or not condition(self._status), timeout)

    def close(self) -> None:
        """Wake every waiting thread; no thread waits from now on."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def __repr__(self) -> str:
        status = self._status
        return f"<ModelLifecycle {status.state.value} epoch={status.epoch}>"


def _loaded(old: ModelStatus) -> ModelStatus | None:
    if old.state not in (ModelState.LOADING, ModelState.ERRORED):
        return None
    return ModelStatus(ModelState.BENCHMARKING, epoch=old.epoch + 1)


def _failed(old: ModelStatus, cause: Cause, message: str) -> ModelStatus | None:
    if old.state is ModelState.DRAINING:
        return None
    if old.state is ModelState.ERRORED and old.cause is not cause:
        return None
    return ModelStatus(ModelState.ERRORED, shortened(message, _MAX_MESSAGE), cause, old.epoch, old.throughput)


def _benchmarked(old: ModelStatus, throughput: float) -> ModelStatus | None:
    if not old.awaits_benchmark:
        return None
    return ModelStatus(ModelState.READY, epoch=old.epoch, throughput=throughput)


def _recovered(old: ModelStatus) -> ModelStatus | None:
    if old.state is not ModelState.ERRORED or old.cause is not Cause.HEALTH:
        return None
    if not old.throughput:
        return ModelStatus(ModelState.BENCHMARKING, epoch=old.epoch + 1)
    return ModelStatus(ModelState.READY, epoch=old.epoch, throughput=old.throughput)


def _drained(old: ModelStatus) -> ModelStatus | None:
    if old.state is ModelState.DRAINING:
        return None
    # No message: a reported error makes the autoscaler restart the instance.
    return ModelStatus(ModelState.DRAINING, "", None, old.epoch, old.throughput)
