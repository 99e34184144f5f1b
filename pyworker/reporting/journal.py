"""The journal: finished requests that the autoscaler has not accepted yet, in memory and in a file.

Each record is written to the file when the request ends: one `pwrite` of 40 bytes, after which the kernel has
it, even if the process is killed. The file is read at the start only, so another program that truncates it,
removes it or fills the disk can destroy at most its content. `journal_file` has the layout.
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

from pyworker.reporting import journal_file
from pyworker.reporting.wire import FinishedRequest
from pyworker.runtime.nonblocking import pwrite

logger = logging.getLogger(__name__)

#: Seconds until a file that could not be opened is tried again, and between two checks of the open file.
RETRY_SECONDS = 1.0
CHECK_SECONDS = 10.0

#: Records that are written to the file before the lock is released for a moment.
_AT_ONCE = 500


class Journal:
    """A queue of finished requests; the oldest record comes first. Thread-safe.

    In memory only until `open`. Records beyond `journal_file.CAPACITY` are dropped and counted as lost.
    """

    def __init__(self) -> None:
        # Guards everything below. Held for the write of a record too (which does not release the GIL), so
        # that the file has the records in the order of the queue.
        self._lock = threading.Lock()
        # A page takes memory once it is written to.
        self._ring = mmap.mmap(-1, journal_file.CAPACITY * journal_file.CONTENT_SIZE)
        self._epoch = secrets.randbits(63)
        self._first = 0
        self._next = 0
        # Numbers of records between the two that were damaged on disk.
        self._gaps: set[int] = set()
        self._lost = 0
        self._descriptor: int | None = None
        # Records with a smaller number are in the file.
        self._written = 0

    def __len__(self) -> int:
        return self._next - self._first - len(self._gaps)

    def append(self, record: FinishedRequest) -> bool:
        """Add a record; False if the journal is full."""
        content = journal_file.content_of(record)
        with self._lock:
            number = self._next
            if number - self._first >= journal_file.CAPACITY:
                self._lost += 1
                return False
            self._keep(number, content)
            self._next = number + 1
            if self._descriptor is not None and self._written == number:
                with contextlib.suppress(OSError):  # `sync` tries again, and raises
                    self._write(self._descriptor, number, content)
        return True

    def oldest(self, limit: int) -> Sequence[FinishedRequest]:
        """At most `limit` of the oldest records."""
        with self._lock:
            contents = [self._content(number) for number in islice(self._numbers(), limit)]
        return [journal_file.record_of(content) for content in contents]

    def drop(self, count: int) -> None:
        """The `count` oldest were accepted. Only one thread may report."""
        with self._lock:
            accepted = list(islice(self._numbers(), count))
            if accepted:
                self._first = accepted[-1] + 1
            self._gaps = {number for number in self._gaps if number >= self._first}
            self._written = max(self._written, self._first)
            if not len(self):
                # Use the same few pages again.
                self._restart()
            lost, self._lost = self._lost, 0
            # `sync` tries again, and raises.
            with contextlib.suppress(OSError):
                self._write_header()
        if lost:
            logger.error("%d finished requests could not be kept until the autoscaler was back", lost)

    def open(self, path: Path) -> int:
        """Keep all records in this file, too. Returns the number of records of another process in it.

        These stay in place, and the records in memory are written behind them, so that a crash loses none.
        Raises OSError if the file cannot be opened; all records stay in memory then.
        """
        descriptor = journal_file.take(path)
        try:
            found = journal_file.read(descriptor)
        except OSError:
            os.close(descriptor)
            raise
        with self._lock:
            self._adopt(found)
            before, self._descriptor = self._descriptor, descriptor
        if before is not None:
            os.close(before)
        # Errors are ignored: the file was adopted, and opening it again would count its records twice.
        with contextlib.suppress(OSError):
            self.sync()
        return len(found.contents)

    def sync(self) -> None:
        """Write the records that are not in the file; all of them if it was truncated. Raises OSError.

        One thread calls this and `open`; others may append meanwhile.
        """
        if self._descriptor is None:
            return
        is_truncated = os.fstat(self._descriptor).st_size < journal_file.FILE_SIZE
        if is_truncated:
            os.posix_fallocate(self._descriptor, 0, journal_file.FILE_SIZE)
        with self._lock:
            if is_truncated:
                self._written = self._first
            self._write_header()
        while not self._write_some():
            pass

    def is_kept_in(self, path: Path) -> bool:
        """Whether the open file is still the one at this path: another program may have removed it."""
        if self._descriptor is None:
            return False
        try:
            return os.path.samestat(os.fstat(self._descriptor), path.stat())
        except OSError:
            return False

    def close(self) -> None:
        """Close the file, which keeps its records, and empty the journal."""
        with self._lock:
            descriptor, self._descriptor = self._descriptor, None
            self._ring.close()
            self._ring = mmap.mmap(-1, journal_file.CAPACITY * journal_file.CONTENT_SIZE)
            self._restart()
        if descriptor is not None:
            os.close(descriptor)

    # -- under the lock ----------------------------------------------------------------------------------

    def _adopt(self, found: journal_file.Found) -> None:
        """Put the records of the file first, and the records in memory behind them."""
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
        room = journal_file.CAPACITY - (self._next - self._first)
        for number, content in enumerate(waiting[:room], start=self._next):
            self._keep(number, content)
        self._next += len(waiting[:room])
        self._lost += len(waiting[room:])

    def _restart(self) -> None:
        self._epoch = (self._epoch + 1) % 2**63
        self._first = self._next = self._written = 0
        self._gaps = set()

    def _write_some(self) -> bool:
        """Write some records to the file; True once all are in it."""
        with self._lock:
            descriptor, end = self._descriptor, min(self._next, self._written + _AT_ONCE)
            if descriptor is None:
                return True
            for number in range(self._written, end):
                if number not in self._gaps:
                    self._write(descriptor, number, self._content(number))
            self._written = max(self._written, end)
            return self._written == self._next

    def _write(self, descriptor: int, number: int, content: bytes) -> None:
        record = journal_file.sealed(content, self._epoch, number)
        pwrite(descriptor, record, journal_file.offset_of(number))
        self._written = number + 1

    def _write_header(self) -> None:
        if self._descriptor is not None:
            pwrite(self._descriptor, journal_file.header(self._epoch, self._first), 0)

    def _numbers(self) -> Iterator[int]:
        """The numbers of all records."""
        return (number for number in range(self._first, self._next) if number not in self._gaps)

    def _keep(self, number: int, content: bytes) -> None:
        offset = number % journal_file.CAPACITY * journal_file.CONTENT_SIZE
        self._ring[offset : offset + journal_file.CONTENT_SIZE] = content

    def _content(self, number: int) -> bytes:
        offset = number % journal_file.CAPACITY * journal_file.CONTENT_SIZE
        return self._ring[offset : offset + journal_file.CONTENT_SIZE]

    def __repr__(self) -> str:
        return f"<Journal [{len(self)} waiting{'' if self._descriptor is None else ', on disk'}]>"


class JournalKeeper:
    """Opens the file of a journal as soon as possible, and repairs it. One thread owns it."""

    def __init__(self, journal: Journal, path: Path, on_survivors: Callable[[], None]) -> None:
        self._journal = journal
        self._path = path
        self._on_survivors = on_survivors
        self._problem = ""

    def step(self) -> float:
        """Open or check the file. Returns the seconds until the next step."""
        try:
            if self._journal.is_kept_in(self._path):
                self._journal.sync()
            else:
                survivors = self._journal.open(self._path)
                if survivors:
                    logger.warning(
                        "an earlier process left %d finished requests that were not reported", survivors
                    )
                    self._on_survivors()
        except OSError as error:
            problem = f"{self._path}: {error.strerror}"
            if problem != self._problem:
                logger.warning(
                    "finished requests are kept in memory only, a crash would lose them: %s; retrying",
                    problem,
                )
            self._problem = problem
            return RETRY_SECONDS
        if self._problem:
            logger.info("finished requests are kept in %s now", self._path)
        self._problem = ""
        return CHECK_SECONDS
