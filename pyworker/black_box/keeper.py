"""When which file is written, while the worker runs."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from pyworker.black_box import machine, start_times
from pyworker.black_box.folder import BoxFolder
from pyworker.lifecycle.phases import Phase
from pyworker.lifecycle.state import ModelState
from pyworker.runtime.log_limit import LogLimit

logger = logging.getLogger(__name__)

#: Seconds between two looks at the state, and between two files that tell how things stand.
LOOK = 1.0
ROLL = 3.0
#: Seconds between two files that are kept of the same kind: a model that fails again and again must not
#: displace all others.
QUIET = 60.0
#: A start is slow if it takes so many times as long as the last one, and so many seconds longer.
SLOW_FACTOR, SLOW_SECONDS = 2.0, 30.0
_GPU_AGE = 60.0


class Keeper:
    """Keeps the files of one worker. `step` and `close` belong to one thread.

    contents: everything that is known now. slow_start: seconds after which a start is slow, if none is known
    to compare with. on_excerpt: called if there is a new `excerpt`.
    """

    def __init__(
        self,
        folder: BoxFolder,
        start_file: Path,
        *,
        contents: Callable[[], Mapping[str, object]],
        phases: Callable[[], Sequence[Phase]],
        slow_start: float,
        on_excerpt: Callable[[], None] = lambda: None,
    ) -> None:
        self._folder = folder
        self._start_file = start_file
        self._contents = contents
        self._phases = phases
        self._slow_start = slow_start
        self._on_excerpt = on_excerpt
        self._last_start: start_times.Durations | None = None
        self._start_is_over = False
        self._told_slow = False
        self._told_error: Phase | None = None
        self._kept_at: dict[str, float] = {}
        self._rolled_at = -ROLL
        self._latest: Mapping[str, object] = {}
        # gunicorn's master: this is made after the fork.
        self._parent = os.getppid()
        self._gpu: tuple[float, Sequence[str]] = (-_GPU_AGE, ())
        self._lines = LogLimit(600.0)
        #: What a report adds to the worker's error: when it failed in which phase. Replaced as a whole.
        self.excerpt = ""

    def step(self) -> float:
        """Write what is due. Returns the seconds until the next step."""
        try:
            self._step(time.monotonic(), self._phases())
        except OSError as error:
            # Often the disk is full, which must not fill the log too.
            if (more := self._lines.suffix("disk")) is not None:
                reason = f"{error.strerror}{more}"
                logger.warning("the black box %s cannot be written: %s", self._folder.path, reason)
        return LOOK

    def _step(self, now: float, phases: Sequence[Phase]) -> None:
        if self._last_start is None:
            self._last_start = start_times.load(self._start_file)
        self._watch_start(now, phases)
        self._watch_errors(now, phases[-1])
        if now - self._rolled_at >= ROLL:
            self._rolled_at = now
            self._latest = self._everything(now)
            self._folder.roll(self._latest)

    def _watch_start(self, now: float, phases: Sequence[Phase]) -> None:
        if self._start_is_over or phases[-1].state is ModelState.DRAINING:
            return
        measured, last = self._durations(phases)
        is_ready = any(phase.state is ModelState.READY for phase in phases)
        took, before = sum(measured.values()), sum(last.values())
        limit = max(SLOW_FACTOR * before, before + SLOW_SECONDS) if before else self._slow_start
        if took > limit and not self._told_slow:
            self._told_slow = True
            state = "is ready" if is_ready else f"is {phases[-1].state.value} still"
            self._keep("slow-start", f"the start takes long: the worker {state}", now)
        if is_ready:
            self._start_is_over = True
            self._last_start = measured
            start_times.store(self._start_file, measured)

    def _watch_errors(self, now: float, phase: Phase) -> None:
        if phase.state is not ModelState.ERRORED:
            self.excerpt, self._told_error = "", None
            return
        is_new = self._told_error is None or self._told_error.reason != phase.reason
        if is_new and now - self._kept_at.get("errored", -QUIET) >= QUIET:
            what = "the worker became errored" if self._start_is_over else "the start failed"
            path = self._keep("errored", f"{what}: {phase.reason}", now)
            self._told_error = phase
            self.excerpt = f"{self._start_told()}; {path.name} of the black box tells more"
            self._on_excerpt()

    def _keep(self, kind: str, what: str, now: float) -> Path:
        self._kept_at[kind] = now
        everything = self._everything(now, fresh_gpu=True)
        path = self._folder.keep(kind, {**everything, "what": what})
        logger.warning("kept how things stand in %s: python -m pyworker.doctor --black-box", path)
        return path

    def _everything(self, now: float, *, fresh_gpu: bool = False) -> Mapping[str, object]:
        if fresh_gpu or now - self._gpu[0] >= _GPU_AGE:
            self._gpu = now, machine.gpu()
        measured, last = self._durations(self._phases())
        start = {"seconds": measured, "last_time": last, "is_over": self._start_is_over}
        return {**self._contents(), "gpu": self._gpu[1], "start": start}

    def _durations(self, phases: Sequence[Phase]) -> tuple[start_times.Durations, start_times.Durations]:
        return start_times.durations(phases, time.time()), self._last_start or {}

    def _start_told(self) -> str:
        if self._start_is_over:
            return "after it was ready"
        return f"during the start: {start_times.told(*self._durations(self._phases()))}"

    def close(self) -> None:
        """The worker ends. If it was told to, nothing is left."""
        if os.getppid() != self._parent:
            return  # its master was killed: the next start tells
        if self._phases()[-1].state is ModelState.DRAINING:
            self._folder.forget()
        elif self._latest:
            try:
                self._folder.roll({**self._latest, "closed": True})
            except OSError as error:
                logger.debug("the black box cannot be closed (%s)", error.strerror)

    def __repr__(self) -> str:
        return f"<Keeper {self._folder!r}>"
