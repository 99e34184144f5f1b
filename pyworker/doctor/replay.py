"""A saved log of a model, run through the state machine of a worker: what each line would have done."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from pyworker.config import ReadinessSource
from pyworker.data_types import LogAction
from pyworker.errors import shortened
from pyworker.lifecycle.loading_watch import loaded_patterns
from pyworker.lifecycle.log_lines import LogActions
from pyworker.lifecycle.log_tail import LogTailer
from pyworker.lifecycle.state import Cause, Effect, ModelLifecycle, ModelState, effect_of

ASSUMED = "assumed: benchmark and health succeed at once, MODEL_READINESS=logs"
_SHOWN_LINE = 100


class Replay:
    """Writes a line for each matching line of the log. One thread owns it."""

    def __init__(self, path: Path, actions: LogActions, write: Callable[[str], object]) -> None:
        self._actions = actions
        self._write = write
        self._lifecycle = ModelLifecycle()
        self._tailer = LogTailer(path, actions, self._matched)

    def run(self) -> bool:
        """Read the whole file; True if the worker would be ready at its end."""
        self._write(ASSUMED)
        while self._tailer.tail_once():
            pass
        lines = self._tailer.finish()
        self._write(f"{lines} lines; at their end the worker is {self._end()}")
        return self._lifecycle.state is ModelState.READY

    def _matched(self, action: LogAction, line: str, _is_old: bool) -> None:
        before = self._lifecycle.state
        outcome = self._take(action, line, before)
        shown = shortened("".join(sign if sign.isprintable() else "?" for sign in line), _SHOWN_LINE)
        self._write(f"line {self._tailer.line_number:>5}  {action.name:<11}  {outcome}  | {shown}")

    def _take(self, action: LogAction, line: str, before: ModelState) -> str:
        """What the line did."""
        effect = effect_of(action, before, ReadinessSource.LOGS, has_health=True)
        if effect is Effect.LOADED and self._lifecycle.loaded():
            self._lifecycle.benchmarked(1.0, epoch=self._lifecycle.status.epoch)
        elif effect is Effect.FAILED:
            self._lifecycle.failed(Cause.LOG, line)
        elif effect is not Effect.LOADED:
            return f"{before.value}: {effect.value}"
        after = self._lifecycle.state
        return f"{before.value}: no change" if after is before else f"{before.value} → {after.value}"

    def _end(self) -> str:
        status = self._lifecycle.status
        if status.state is ModelState.ERRORED:
            return f"errored, and reports: {status.error_msg}"
        if status.state is ModelState.LOADING:
            patterns = ", ".join(map(repr, loaded_patterns(self._actions)))
            return f"still loading; looked for {patterns or 'nothing: the worker names none'}"
        return status.state.value
