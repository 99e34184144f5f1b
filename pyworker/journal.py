"""Finished requests that the autoscaler has not accepted yet, in a file that outlives the process.

The file is mapped into memory: to note a request is a copy of forty bytes without a system call, and what was
copied is in the kernel's hands even when the process is killed in the next moment.

Layout, little endian: a head of `_HEAD` (magic, and the counts of records ever dropped and ever noted), then
`CAPACITY` records of `_RECORD` (request_idx, the three times, status, checksum of what comes before it).
Record n lies in slot n modulo the capacity.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path

from pyworker.reports import FinishedRequest, Outcome

#: So many records wait at most; 44 minutes without the autoscaler at 100 requests per second.
CAPACITY = 2**18

_MAGIC = b"pyworker"
_HEAD = struct.Struct("<8sQQ")
_RECORD = struct.Struct("<qdddII")
_CHECKED = _RECORD.size - 4
_SIZE = _HEAD.size + CAPACITY * _RECORD.size
_OUTCOMES = dict(enumerate(Outcome, start=1))
_NUMBERS = {outcome.value: number for number, outcome in _OUTCOMES.items()}


class Journal:
    """The oldest record comes first. Not thread-safe: the ledger's lock guards it.

    In memory until `open`. Where CAPACITY records wait, new ones are refused.
    """

    def __init__(self) -> None:
        # Pages that are never written to cost nothing.
        self._memory = mmap.mmap(-1, _SIZE)
        self._descriptor: int | None = None
        self._first = 0
        self._next = 0

    def __len__(self) -> int:
        return self._next - self._first

    def append(self, record: FinishedRequest) -> bool:
        """Note one more; False where there is no room."""
        if len(self) >= CAPACITY:
            return False
        offset = _offset(self._next)
        _RECORD.pack_into(
            self._memory,
            offset,
            record.request_idx,
            record.entered_queue_at,
            record.work_started_at,
            record.work_completed_at,
            _NUMBERS[record.status],
            0,
        )
        checksum = zlib.crc32(self._memory[offset : offset + _CHECKED])
        struct.pack_into("<I", self._memory, offset + _CHECKED, checksum)
        self._set_counts(self._first, self._next + 1)
        return True

    def oldest(self, limit: int) -> Sequence[FinishedRequest]:
        """At most so many of the oldest records."""
        return [self._record(number) for number in range(self._first, min(self._first + limit, self._next))]

    def drop(self, count: int) -> None:
        """So many of the oldest were accepted."""
        first = self._first + count
        if first >= self._next:
            first = self._next = 0  # the same few pages are used again and again
        self._set_counts(first, self._next)

    def open(self, path: Path) -> int:
        """From now on keep everything in this file; returns how many records of an earlier process it held.

        Raises OSError where the file cannot be had: it all stays in memory then.
        """
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            _lock(descriptor)
            # A disk that is full says so here; later it would end the process.
            os.posix_fallocate(descriptor, 0, _SIZE)
            memory = mmap.mmap(descriptor, _SIZE)
        except OSError:
            os.close(descriptor)
            raise
        waiting = self.oldest(len(self))
        self._memory.close()
        self._memory, self._descriptor = memory, descriptor
        survivors = self._survivors()
        self._set_counts(0, 0)
        for record in [*survivors, *waiting]:
            self.append(record)
        return len(survivors)

    def close(self) -> None:
        """Give the file back; the journal is empty then, the file is not."""
        self._memory.close()
        self._memory = mmap.mmap(-1, _SIZE)
        self._first = self._next = 0
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def _survivors(self) -> list[FinishedRequest]:
        """What the file holds; a record that was damaged is left out."""
        magic, first, following = _HEAD.unpack_from(self._memory)
        if magic != _MAGIC or not 0 <= following - first <= CAPACITY:
            return []
        return [self._record(number) for number in range(first, following) if self._is_whole(number)]

    def _is_whole(self, number: int) -> bool:
        offset = _offset(number)
        *_, status, checksum = _RECORD.unpack_from(self._memory, offset)
        return status in _OUTCOMES and checksum == zlib.crc32(self._memory[offset : offset + _CHECKED])

    def _record(self, number: int) -> FinishedRequest:
        index, entered, started, completed, status, _ = _RECORD.unpack_from(self._memory, _offset(number))
        return FinishedRequest.of(_OUTCOMES[status], index, entered, started, completed)

    def _set_counts(self, first: int, following: int) -> None:
        self._first, self._next = first, following
        _HEAD.pack_into(self._memory, 0, _MAGIC, first, following)

    def __repr__(self) -> str:
        return f"<Journal [{len(self)} waiting{'' if self._descriptor is None else ', on disk'}]>"


def _lock(descriptor: int) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise OSError(error.errno, "another worker keeps its own there") from error


def _offset(number: int) -> int:
    return _HEAD.size + number % CAPACITY * _RECORD.size
