"""What a matching line of the model's log does to the worker."""

from __future__ import annotations

import logging
import time

from pyworker.config import ReadinessSource
from pyworker.data_types import LogAction
from pyworker.health import HealthMonitor
from pyworker.lifecycle import Cause, Effect, ModelLifecycle, effect_of
from pyworker.loading import LoadingWatch
from pyworker.memory import ModelMemory

logger = logging.getLogger(__name__)

#: Seconds after an error line was told for which further ones are only counted.
QUIET = 10.0


class LogEffects:
    """Moves the lifecycle, or raises a suspicion. Belongs to the thread that reads the log.

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
    ) -> None:
        self._lifecycle = lifecycle
        self._source = source
        self._has_health = has_health
        self._monitor = monitor
        self._loading = loading
        self._memory = memory
        # By what was told, of which there are few: when that was, and how many lines were not told since.
        self._told: dict[str, tuple[float, int]] = {}

    def take(self, action: LogAction, line: str, is_old: bool) -> None:
        """Do what this line does. is_old: it was in the log before the worker started."""
        state = self._lifecycle.state
        effect = effect_of(action, state, self._source, has_health=self._has_health, is_old=is_old)
        if effect is Effect.COPY:
            logger.info("model: %s", line)
        elif effect is Effect.HINT:
            self._hint(action, line)
        elif effect is Effect.LOADED:
            if self._lifecycle.loaded():
                logger.info("the model is loaded: %s", line)
        elif effect is Effect.SUSPICION:
            if self._monitor.suspect(f"its log said: {line}"):
                self._tell(logging.WARNING, "the model's log speaks of an error; a check decides", line)
        else:
            self._fail(line, is_old)

    def _hint(self, action: LogAction, line: str) -> None:
        if action is LogAction.ModelError:
            self._loading.remember(line)
        self._tell(logging.INFO, f"the model's log says {action.name}, but MODEL_READINESS=health", line)

    def _fail(self, line: str, is_old: bool) -> None:
        if not is_old:
            self._memory.forget()
        if self._lifecycle.failed(Cause.LOG, line):
            self._tell(logging.ERROR, "the model failed", line)

    def _tell(self, level: int, what: str, line: str) -> None:
        """Once in a while: a model that is broken may write thousands of such lines."""
        now = time.monotonic()
        told_at, untold = self._told.get(what, (-QUIET, 0))
        if now - told_at < QUIET:
            self._told[what] = told_at, untold + 1
            return
        more = f" ({untold} more such lines before)" if untold else ""
        self._told[what] = now, 0
        logger.log(level, "%s%s: %s", what, more, line)
