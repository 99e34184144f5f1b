"""CPU affinity: a busy worker stays on one processor.

One thread of a process runs Python at a time. On several processors nearly each hand-over from a thread to
the next wakes another processor, and its data have to follow; on one processor it is a switch. The kernel
moves other programs away from a processor that is in use. If it cannot, the worker moves freely again.
"""

from __future__ import annotations

import contextlib
import logging
import os
import random
import sys
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

logger = logging.getLogger(__name__)

# Seconds between two looks: at a worker that is not busy, from there to the choice, and once it is made.
_IDLE_INTERVAL, _FIRST_INTERVAL, _INTERVAL = 0.25, 0.1, 0.5
# Shares of one processor. A worker that uses less gains nothing.
_BUSY, _QUIET = 0.1, 0.05
# Seconds for which a worker is quiet until it leaves its processor.
_REST = 60.0
# A worker that uses more computes outside the GIL.
_PARALLEL = 1.25
# What the other programs may use of each of the other processors, so that all find room there.
_ROOM = 0.8
# What other programs may use of the worker's processor, and for how many looks in a row more than that.
_OTHERS, _LOOKS = 0.3, 2
# Seconds after which it is tried again, twice as many each time.
_FIRST_PAUSE, _LAST_PAUSE = 2.0, 300.0
# What starts a program, which would inherit the processor.
_STARTS = frozenset(("subprocess.Popen", "os.fork", "os.forkpty", "os.posix_spawn", "os.system"))
_STAT, _THREADS = Path("/proc/stat"), Path("/proc/self/task")


@dataclass(frozen=True)
class Usage:
    """What was used within some time: shares of one processor, of which the worker may use more than one.

    programs, idle: by processor; the rest was the kernel's, for interrupts, or was not given by the host.
    """

    own: float
    programs: Mapping[int, float]
    idle: Mapping[int, float]


class Choice:
    """Which processor to stay on. Knows nothing of the system. Belongs to one thread."""

    def __init__(self, allowed: Collection[int]) -> None:
        self._allowed = sorted(allowed)
        #: None: any.
        self.processor: int | None = None
        self._chosen_at = 0.0
        self._busy_at = 0.0
        self._crowded = 0
        self._pause = _FIRST_PAUSE
        self._not_before = 0.0

    def is_asked(self, own: float) -> bool:
        """Whether `decide` may change anything while the worker uses this share of a processor."""
        return self.processor is not None or own >= _BUSY

    def decide(self, usage: Usage, now: float) -> None:
        """Sets `processor`. now: monotonic seconds."""
        if self.processor is None:
            if _BUSY <= usage.own <= _PARALLEL and now >= self._not_before and self._is_room(usage):
                self.processor = max(self._allowed, key=lambda one: (usage.idle[one], random.random()))
                self._chosen_at = self._busy_at = now
                self._crowded = 0
        elif usage.own < _QUIET:
            if now - self._busy_at > _REST:
                self.processor = None
        else:
            self._busy_at = now
            others = usage.programs[self.processor] - usage.own
            self._crowded = self._crowded + 1 if others > _OTHERS else 0
            if self._crowded == _LOOKS:
                self._leave(now)

    def _is_room(self, usage: Usage) -> bool:
        others = sum(usage.programs[one] for one in self._allowed) - usage.own
        return others <= _ROOM * (len(self._allowed) - 1)

    def _leave(self, now: float) -> None:
        lasted = now - self._chosen_at
        self._pause = _FIRST_PAUSE if lasted > _LAST_PAUSE else min(self._pause * 2, _LAST_PAUSE)
        self._not_before = now + self._pause
        self.processor = None


@dataclass(frozen=True)
class Times:
    """Seconds since some moment: of one processor, spent in programs and idle."""

    programs: float
    idle: float


def processor_times(stat: Path = _STAT) -> dict[int, Times]:
    """By processor, from the file that proc(5) describes."""
    second = os.sysconf("SC_CLK_TCK")
    found: dict[int, Times] = {}
    with stat.open(encoding="ascii") as lines:
        for line in lines:
            name, *counts = line.split()
            if not name.startswith("cpu"):
                break
            if name != "cpu":
                user, nice, system, idle, waiting = (int(count) / second for count in counts[:5])
                found[int(name[3:])] = Times(user + nice + system, idle + waiting)
    return found


class Affinity:
    """Keeps the process where `Choice` says. `step` and `close` belong to one thread."""

    def __init__(
        self,
        is_serving: Callable[[], bool],
        stat: Path = _STAT,
        own_time: Callable[[], float] = time.process_time,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        """is_serving: until then what is loaded may count the processors, to begin as many threads.
        own_time: seconds that this process has used.
        """
        self._is_serving = is_serving
        self._stat = stat
        self._own_time = own_time
        self._now = now
        self._allowed = os.sched_getaffinity(0)
        self._choice = Choice(self._allowed)
        self._is_told = False
        self._at, self._own = now(), own_time()
        self._times: dict[int, Times] | None = None
        sys.addaudithook(self._before_program)

    def step(self) -> float | None:
        """The seconds until the next look."""
        if len(self._allowed) < 2:
            return None
        try:
            return self._look()
        except (OSError, ValueError, KeyError) as error:
            self.close()
            logger.info("the worker does not stay on one processor: %s: %s", type(error).__name__, error)
            return None

    def close(self) -> None:
        """Let every thread run anywhere."""
        if self._choice.processor is not None:
            self._choice.processor = None
            with contextlib.suppress(OSError):
                _bind(self._allowed)

    def _look(self) -> float:
        now, own = self._now(), self._own_time()
        elapsed = max(now - self._at, 0.01)
        share = (own - self._own) / elapsed
        before, self._times = self._times, None
        self._at, self._own = now, own
        if not self._is_serving():
            self.close()
            return _IDLE_INTERVAL
        if not self._choice.is_asked(share):
            return _IDLE_INTERVAL
        self._times = times = processor_times(self._stat)
        if before is None:
            return _FIRST_INTERVAL
        usage = Usage(
            share,
            {one: (times[one].programs - before[one].programs) / elapsed for one in self._allowed},
            {one: (times[one].idle - before[one].idle) / elapsed for one in self._allowed},
        )
        last = self._choice.processor
        self._choice.decide(usage, now)
        self._apply(last, self._choice.processor)
        return _INTERVAL

    def _apply(self, last: int | None, chosen: int | None) -> None:
        if chosen is not None:  # each time, for threads that have begun meanwhile
            _bind({chosen})
        elif last is not None:
            _bind(self._allowed)
        if chosen is not None and not self._is_told:
            self._is_told = True
            logger.info("busy: the worker stays on one processor; CPU_AFFINITY=none lets it move")

    def _before_program(self, event: str, _arguments: object) -> None:
        """A program that the worker starts runs anywhere: it inherits what holds for the thread."""
        if event in _STARTS and self._choice.processor is not None:
            with contextlib.suppress(OSError):
                os.sched_setaffinity(0, self._allowed)

    def __repr__(self) -> str:
        return f"<Affinity {self._choice.processor} of {sorted(self._allowed)}>"


def _bind(processors: Collection[int]) -> None:
    """Every thread of this process, and those that they start."""
    bound: set[Path] = set()
    # A thread that was started by one that was not bound yet is found by the next look.
    while new := set(_THREADS.iterdir()) - bound:
        for thread in new:
            with contextlib.suppress(ProcessLookupError):  # it has ended
                os.sched_setaffinity(int(thread.name), processors)
        bound |= new
