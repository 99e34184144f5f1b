"""Says in the worker's log why the model is still loading after a long time."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from pyworker.config import ReadinessSource
from pyworker.data_types import LogAction
from pyworker.errors import shortened
from pyworker.lifecycle.log_lines import LogActions
from pyworker.lifecycle.log_tail import LogTailer
from pyworker.lifecycle.probe import HealthProbe
from pyworker.lifecycle.state import ModelLifecycle, ModelState

logger = logging.getLogger(__name__)

_SHOWN_PATTERNS = 5
# Seconds from the start until the first look whether the model server listens, and between two looks.
_FIRST_LOOK = 3.0
_LOOK_INTERVAL = 10.0
_SHOWN_TEXT = 200


class LoadingWatch:
    """Logs why a model is still loading. A long loading time is no error, so nothing is reported.

    `step` belongs to one thread.
    warn_after: seconds until the first warning; the next one comes each time that this time has doubled.
    tailer: follows the model's log, if there is one.
    connect: why the model server accepts no connection, empty if it does; None: its URL is not known.
    unconfirmed: a loaded line from before the start that the model server has not confirmed, or nothing.
    """

    def __init__(
        self,
        lifecycle: ModelLifecycle,
        *,
        warn_after: float,
        source: ReadinessSource,
        log_actions: LogActions,
        tailer: LogTailer | None,
        probe: HealthProbe | None,
        connect: Callable[[], str] | None = None,
        unconfirmed: Callable[[], str] = lambda: "",
    ) -> None:
        self._lifecycle = lifecycle
        self._connect = connect
        self._unconfirmed = unconfirmed
        self._next_look = _FIRST_LOOK
        # Why nothing listens, as of the last look. Set by the thread of `step`.
        self._unreachable = ""
        self._warn_after = warn_after
        self._source = source
        self._log_actions = log_actions
        self._tailer = tailer
        self._probe = probe
        self._began: float | None = None
        self._warn_next = warn_after
        #: The last error line that did not change the state: it may be the reason. Set by the thread that
        #: reads the log.
        self.error_line = ""

    def step(self, now: float) -> float | None:
        """Warn if it is time to. Returns seconds until the next step, None once loaded. now: monotonic."""
        if self._lifecycle.state is not ModelState.LOADING:
            return None
        if self._began is None:
            self._began = now
        elapsed = now - self._began
        if elapsed >= self._warn_next:
            logger.warning("%s", self._message(elapsed))
            self._warn_next = 2 * elapsed
        if self._connect is None:
            return self._warn_next - elapsed
        if elapsed >= self._next_look:
            self._look(self._connect())
            self._next_look = elapsed + _LOOK_INTERVAL
        return min(self._warn_next, self._next_look) - elapsed

    def _look(self, problem: str) -> None:
        """It may still come, so this is no error; but a wrong URL should be seen soon."""
        if problem and not self._unreachable:
            logger.warning("%s", _told_unreachable(problem))
        self._unreachable = problem

    def _message(self, elapsed: float) -> str:
        found = [f"still loading after {_duration(elapsed)}", *self._of_log(), self._health()]
        if not self._source.by_log and self._tailer is not None:
            found.append(f"its log, which MODEL_READINESS=health ignores, is {self._log()}")
        return "; ".join([*found, *self._error()])

    def awaited(self) -> str:
        """What has not been seen, without asking the model server. Any thread may call it."""
        health = [] if self._probe is None else [f"the health endpoint is {self._probe.name}"]
        unreachable = [_told_unreachable(self._unreachable)] if self._unreachable else []
        return "; ".join([*self._of_log(), *health, *self._error(), *unreachable])

    def _of_log(self) -> Sequence[str]:
        if not self._source.by_log:
            return []
        if line := self._unconfirmed():
            shown = shortened(line, _SHOWN_TEXT)
            return [
                f"{shown!r} was in {self._log()} before this start, and the model server has to confirm it"
            ]
        return [f"{_phrases(self._log_actions)} in {self._log()}" if self._tailer else self._log()]

    def _error(self) -> Sequence[str]:
        line = self.error_line
        return [f"error line in its log: {shortened(line, _SHOWN_TEXT)!r}"] if line else []

    def _log(self) -> str:
        return "MODEL_LOG is not set" if self._tailer is None else str(self._tailer.glance)

    def _health(self) -> str:
        if self._probe is None:
            return "no health endpoint is configured"
        problem = self._probe.problem()
        if problem:
            return f"health: {problem}"
        advice = "" if self._source.by_health else " (with MODEL_READINESS=either that would mean loaded)"
        return f"health: {self._probe.name} is healthy{advice}"


def _told_unreachable(problem: str) -> str:
    return f"nothing listens for the model server yet: {problem}; if it is elsewhere, set MODEL_SERVER_URL"


def _phrases(log_actions: LogActions) -> str:
    patterns = loaded_patterns(log_actions)
    if not patterns:
        return "the worker has no phrase that says that the model is loaded"
    shown = [repr(shortened(pattern, _SHOWN_TEXT)) for pattern in patterns[:_SHOWN_PATTERNS]]
    if len(patterns) > _SHOWN_PATTERNS:
        shown.append(f"{len(patterns) - _SHOWN_PATTERNS} more")
    return f"{shown[0]} was not seen" if len(shown) == 1 else f"none of {', '.join(shown)} was seen"


def loaded_patterns(log_actions: LogActions) -> Sequence[str]:
    """The phrases that say that the model is loaded."""
    return [phrase for action, phrase in log_actions if action is LogAction.ModelLoaded]


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"
