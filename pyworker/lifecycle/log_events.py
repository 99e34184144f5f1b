"""What a matching line of the model's log does to the worker."""

from __future__ import annotations

import logging
import time

from pyworker.config import ReadinessSource
from pyworker.data_types import LogAction
from pyworker.lifecycle.health import HealthMonitor
from pyworker.lifecycle.loaded_mark import ModelMemory
from pyworker.lifecycle.loading_watch import LoadingWatch
from pyworker.lifecycle.old_lines import PATIENCE, OldLines
from pyworker.lifecycle.state import Cause, Effect, ModelLifecycle, effect_of

logger = logging.getLogger(__name__)

#: For this many seconds after a log line, lines of the same kind are only counted.
QUIET = 10.0


class LogEffects:
    """Changes the model's state, or raises a suspicion. Belongs to the thread that reads the log.

    has_health: there is a health endpoint.
    """

    def __init__(
        self,
        lifecycle: ModelLifecycle,
        source: ReadinessSource,
        *,
        has_health: bool,
        monitor: HealthMonitor,
        loading: LoadingWatch,
        memory: ModelMemory,
        old_lines: OldLines,
    ) -> None:
        self._lifecycle = lifecycle
        self._source = source
        self._has_health = has_health
        self._monitor = monitor
        self._loading = loading
        self._memory = memory
        self._old_lines = old_lines
        # By message, of which there are few: when it was logged last, and how many lines were left out since.
        self._logged: dict[str, tuple[float, int]] = {}

    def take(self, action: LogAction, line: str, is_old: bool) -> None:
        """Act on a matching line. is_old: it was in the log before the worker started."""
        state = self._lifecycle.state
        effect = effect_of(action, state, self._source, has_health=self._has_health, is_old=is_old)
        if effect is Effect.COPY:
            logger.info("model: %s", line)
        elif effect is Effect.HINT:
            if action is LogAction.ModelError:
                self._loading.error_line = line
            self._log(logging.INFO, f"the model's log says {action.name}, but MODEL_READINESS=health", line)
        elif effect is Effect.LOADED:
            self._load(line, is_old)
        elif effect is Effect.SUSPICION:
            if self._monitor.suspect(f"its log said: {line}"):
                self._log(
                    logging.WARNING,
                    "error line in the model's log; waiting for a health check to confirm",
                    line,
                )
        else:
            self._fail(line, is_old)

    def _load(self, line: str, is_old: bool) -> None:
        if is_old:
            return self._old_lines.loaded(line)
        if self._lifecycle.loaded():
            logger.info("the model is loaded: %s", line)
        # Last: as long as there is an old line, nobody asks the model server for what it remembers.
        self._old_lines.forget()
        return None

    def _fail(self, line: str, is_old: bool) -> None:
        if is_old:
            self._loading.error_line = line
            self._old_lines.failed(line)
            what = f"old error line in the model's log; it counts if nothing follows within {PATIENCE:.0f} s"
            return self._log(logging.WARNING, what, line)
        self._memory.forget()
        self._old_lines.forget()
        if self._lifecycle.failed(Cause.LOG, line):
            self._log(logging.ERROR, "the model failed", line)
        return None

    def _log(self, level: int, what: str, line: str) -> None:
        """Log at most every `QUIET` seconds: a broken model may write thousands of such lines."""
        now = time.monotonic()
        logged_at, omitted = self._logged.get(what, (-QUIET, 0))
        if now - logged_at < QUIET:
            self._logged[what] = logged_at, omitted + 1
            return
        more = f" ({omitted} more such lines before)" if omitted else ""
        self._logged[what] = now, 0
        logger.log(level, "%s%s: %s", what, more, line)
