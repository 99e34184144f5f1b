"""Remembers over a restart of the worker that the model is loaded.

The model's log may have been rotated and may hold old errors, so a new process cannot learn the model's state
from it. A small file says that the model was loaded, and the model server has to confirm it.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from pathlib import Path

from pyworker.lifecycle import small_file
from pyworker.lifecycle.state import Cause, ModelLifecycle, ModelState

logger = logging.getLogger(__name__)

#: Seconds between two tries to have the model server confirm the mark.
LOOK_INTERVAL = 1.0
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_FIRST_PROCESS = Path("/proc/1/stat")
# Index of the start time (clock ticks since boot) among the fields after the name in parentheses.
_START_TIME = 19


class LoadedMark:
    """A file that says that a model is loaded. Belongs to one thread.

    about: which model; a file about another model, or from before the instance started, is ignored.
    """

    def __init__(self, path: Path, about: Mapping[str, str]) -> None:
        self._path = path
        self._content = json.dumps({**about, "instance": _instance()}, sort_keys=True) + "\n"
        self._is_written: bool | None = None

    @property
    def is_there(self) -> bool:
        """Whether an earlier process of this instance left it."""
        try:
            return small_file.read(self._path) == self._content.encode()
        except OSError:
            return False

    def write(self) -> None:
        """Write the file. If that fails, a restarted worker has to wait for the model's log again."""
        if self._is_written is True:
            return
        self._is_written = True
        try:
            small_file.write(self._path, self._content)
        except OSError as error:
            logger.warning("cannot write to %s that the model is loaded (%s)", self._path, error.strerror)

    def remove(self) -> None:
        """The model is not loaded any more."""
        if self._is_written is not False:
            self._is_written = False
            try:
                self._path.unlink(missing_ok=True)
            except OSError as error:
                logger.warning("%s cannot be removed (%s)", self._path, error.strerror)


class ModelMemory:
    """Keeps the mark, and acts on that of an earlier process once the model server confirms it.

    `step` belongs to one thread; any thread may call `forget`. check: empty if the model server is healthy.
    is_current: whether the log was read up to its end at the time when this process started.
    """

    def __init__(
        self,
        mark: LoadedMark,
        lifecycle: ModelLifecycle,
        *,
        check: Callable[[], str],
        is_current: Callable[[], bool],
    ) -> None:
        self._mark = mark
        self._lifecycle = lifecycle
        self._check = check
        self._is_current = is_current
        # Used by `step` only; None before the first step.
        self._is_remembered: bool | None = None
        # Set once, by any thread.
        self._is_forgotten = False

    def step(self) -> float | None:
        """Update the mark. Returns seconds until the next step, None: after the next change of state."""
        if self._is_remembered is None:
            self._is_remembered = self._mark.is_there
        if self._is_forgotten:
            self._is_remembered = False
        status = self._lifecycle.status
        if status.state in (ModelState.BENCHMARKING, ModelState.READY):
            self._mark.write()
            # Until the old part of the log was read: an old error line must not remove the mark.
            self._is_remembered = self._is_remembered and not self._is_current()
        elif status.cause is Cause.HEALTH or (status.cause is Cause.LOG and not self._is_remembered):
            self._mark.remove()
        if not self._is_remembered:
            return None
        if status.awaits_loading and self._is_current() and not self._check():
            self._is_remembered = False
            if self._lifecycle.loaded(epoch=status.epoch):
                logger.info("the model was loaded before this process started, and is healthy")
        return LOOK_INTERVAL

    def forget(self) -> None:
        """The model's log has a new error line."""
        self._is_forgotten = True


def _instance() -> str:
    """An id of this run of the instance; it changes if the machine or the container is restarted."""
    try:
        boot = _BOOT_ID.read_text("ascii").strip()
        started = _FIRST_PROCESS.read_text("utf-8").rpartition(")")[2].split()[_START_TIME]
    except (OSError, ValueError, IndexError):
        return ""
    return f"{boot} {started}"
