"""Finished requests that the autoscaler has not accepted yet, in a file that outlives the process.

They are in memory, and each is written to the file as well, at the moment the request ends: one `pwrite` of
forty bytes, after which they are in the kernel's hands even when the process is killed. The file is read at
the start only. So whatever another program does to it (cuts it short, removes it, fills the disk) costs what
it held at most. `journal_file` has its layout.
"""

from __future__ import annotations

import contextlib
import logging
import mmap
import os
import secrets
import threading
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path

from pyworker.journal_file import (
    CAPACITY,
    CONTENT_SIZE,
    FILE_SIZE,
    Found,
    content_of,
    header,
    offset_of,
    read,
    record_of,
    sealed,
    take,
)
from pyworker.nowait import pwrite
from pyworker.reports import FinishedRequest

logger = logging.getLogger(__name__)

#: Seconds until a file that could not be had is tried again, and between two looks at the one that is used.
RETRY_SECONDS = 1.0
CHECK_SECONDS = 10.0

#: Records that are copied to the file before the lock is let go for a moment.
_AT_ONCE = 500


class Journal:
    """A queue of finished requests; the oldest record comes first. Thread-safe.

    In memory until `open`. If CAPACITY records wait, new ones are refused and counted as lost.
    """

    def __init__(self) -> None:
        # Guards everything below. It is held for the write of one record too, which does not release the GIL:
        # the file has the records in the order of the queue.
        self._lock = threading.Lock()
        # Pages that are never written to cost nothing.
        self._ring = mmap.mmap(-1, CAPACITY * CONTENT_SIZE)
        self._epoch = secrets.randbits(63)
        self._first = 0
        self._next = 0
        # Numbers between the two whose records were damaged on disk.
        self._gaps: set[int] = set()
        self._lost = 0
        self._descriptor: int | None = None
        # Records below this number are in the file.
        self._written = 0

    def __len__(self) -> int:
        return self._next - self._first - len(self._gaps)

    def append(self, record: FinishedRequest) -> bool:
        """Note one more; False if there is no room."""
        content = content_of(record)
        with self._lock:
            number = self._next
            if number - self._first >= CAPACITY:
                self._lost += 1
                return False
            self._keep(number, content)
            self._next = number + 1
            if self._descriptor is not None and self._written == number:
                try:
                    pwrite(self._descriptor, sealed(content, self._epoch, number), offset_of(number))
                except OSError:
                    pass  # `sync` tries again, and says so
                else:
                    self._written = number + 1
        return True

    def oldest(self, limit: int) -> Sequence[FinishedRequest]:
        """At most `limit` of the oldest records."""
        with self._lock:
            contents = [self._content(number) for number in islice(self._numbers(), limit)]
        return [record_of(content) for content in contents]

    def drop(self, count: int) -> None:
        """The `count` oldest were accepted. Only one thread may report."""
        with self._lock:
            accepted = list(islice(self._numbers(), count))
            if accepted:
                self._first = accepted[-1] + 1
            self._gaps = {number for number in self._gaps if number >= self._first}
            self._written = max(self._written, self._first)
            if not len(self):
                # The same few pages are used again and again.
                self._restart()
            lost, self._lost = self._lost, 0
            self._write_header()
        if lost:
            logger.error("%d finished requests could not be kept until the autoscaler was back", lost)

    def open(self, path: Path) -> int:
        """From now on keep everything in this file too; returns how many records of another process it held.

        What it held stays where it is, and what waits in memory is written behind it: a crash loses none.
        Raises OSError if the file cannot be had: it all stays in memory then.
        """
        descriptor = take(path)
        try:
            found = read(descriptor)
        except OSError:
            os.close(descriptor)
            raise
        with self._lock:
            self._adopt(found)
            before, self._descriptor = self._descriptor, descriptor
        if before is not None:
            os.close(before)
        # It is this journal's from here on, even if it cannot be written to now: read again, it counts twice.
        with contextlib.suppress(OSError):
            self.sync()
        return len(found.contents)

    def sync(self) -> None:
        """Write what is not in the file, all of it if the file was cut short. Raises OSError.

        One thread calls this and `open`; others may append meanwhile.
        """
        if self._descriptor is None:
            return
        is_cut = os.fstat(self._descriptor).st_size < FILE_SIZE
        if is_cut:
            os.posix_fallocate(self._descriptor, 0, FILE_SIZE)
        with self._lock:
            if is_cut:
                self._written = self._first
            self._write_header(raises=True)
        while not self._write_some():
            pass

    def is_kept_in(self, path: Path) -> bool:
        """Whether this very file is the one that is written to: another program may have removed it."""
        if self._descriptor is None:
            return False
        try:
            return os.path.samestat(os.fstat(self._descriptor), path.stat())
        except OSError:
            return False

    def close(self) -> None:
        """Give the file back; the journal is empty then, the file is not."""
        with self._lock:
            descriptor, self._descriptor = self._descriptor, None
            self._ring.close()
            self._ring = mmap.mmap(-1, CAPACITY * CONTENT_SIZE)
            self._restart()
        if descriptor is not None:
            os.close(descriptor)

    # -- under the lock ----------------------------------------------------------------------------------

    def _adopt(self, found: Found) -> None:
        """What the file held comes first, what waits here behind it."""
        waiting = [self._content(number) for number in self._numbers()]
        if found.is_current:
            self._epoch, self._first = found.epoch, found.first
            self._next = self._written = max(found.contents, default=found.first - 1) + 1
            for number, content in found.contents.items():
                self._keep(number, content)
            self._gaps = set(range(self._first, self._next)) - found.contents.keys()
        else:
            self._restart()
            waiting = [*found.contents.values(), *waiting]
        room = CAPACITY - (self._next - self._first)
        for number, content in enumerate(waiting[:room], start=self._next):
            self._keep(number, content)
        self._next += len(waiting[:room])
        self._lost += len(waiting[room:])

    def _restart(self) -> None:
        self._epoch = (self._epoch + 1) % 2**63
        self._first = self._next = self._written = 0
        self._gaps = set()

    def _write_some(self) -> bool:
        """Bring some more into the file; True once all is there."""
        with self._lock:
            descriptor, end = self._descriptor, min(self._next, self._written + _AT_ONCE)
            if descriptor is None:
                return True
            for number in range(self._written, end):
                if number not in self._gaps:
                    record = sealed(self._content(number), self._epoch, number)
                    pwrite(descriptor, record, offset_of(number))
                self._written = number + 1
            return self._written == self._next

    def _write_header(self, *, raises: bool = False) -> None:
        if self._descriptor is not None:
            try:
                pwrite(self._descriptor, header(self._epoch, self._first), 0)
            except OSError:
                if raises:
                    raise

    def _numbers(self) -> Iterator[int]:
        """Of the records that wait."""
        return (number for number in range(self._first, self._next) if number not in self._gaps)

    def _keep(self, number: int, content: bytes) -> None:
        offset = number % CAPACITY * CONTENT_SIZE
        self._ring[offset : offset + CONTENT_SIZE] = content

    def _content(self, number: int) -> bytes:
        offset = number % CAPACITY * CONTENT_SIZE
        return self._ring[offset : offset + CONTENT_SIZE]

    def __repr__(self) -> str:
        return f"<Journal [{len(self)} waiting{'' if self._descriptor is None else ', on disk'}]>"


class JournalKeeper:
    """Brings a journal into its file as soon as that can be had, and looks after it. One thread's."""

    def __init__(self, journal: Journal, path: Path, on_survivors: Callable[[], None]) -> None:
        self._journal = journal
        self._path = path
        self._on_survivors = on_survivors
        self._problem = ""

    def step(self) -> float:
        """Open the file, or look after it; seconds until the next step."""
        try:
            if self._journal.is_kept_in(self._path):
                self._journal.sync()
            else:
                self._open()
        except OSError as error:
            problem = f"{self._path}: {error.strerror}"
            if problem != self._problem:
                logger.warning(
                    "finished requests are kept in memory only, a crash would lose them: %s; tried again",
                    problem,
                )
            self._problem = problem
            return RETRY_SECONDS
        if self._problem:
            logger.info("finished requests are kept in %s now", self._path)
        self._problem = ""
        return CHECK_SECONDS

    def _open(self) -> None:
        survivors = self._journal.open(self._path)
        if survivors:
            logger.warning("%d finished requests of an earlier process were not reported yet", survivors)
            self._on_survivors()
