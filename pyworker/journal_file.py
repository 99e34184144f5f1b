"""The file of the journal: its layout, and how it is taken and read.

Little endian: a header of `_HEADER` (magic, epoch, number of the first record), then a ring of `CAPACITY`
records (`_CONTENT`: request_idx, the three times, status; then a checksum). Record n lies in slot n modulo
the capacity. Its checksum begins with epoch and n, so that nothing an earlier round or an earlier epoch left
in a slot is taken for it, and no count of records has to be written with each.
"""

from __future__ import annotations

import fcntl
import os
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pyworker.reports import FinishedRequest, Outcome

#: Records that wait at most; 44 minutes without the autoscaler at 100 requests per second.
CAPACITY = 2**18

_MAGIC = b"pyworkr2"
_HEADER = struct.Struct("<8sQQ")
_CONTENT = struct.Struct("<qdddI")
CONTENT_SIZE = _CONTENT.size
_CHECKSUM = struct.Struct("<I")
_RECORD_SIZE = _CONTENT.size + _CHECKSUM.size
_SEED = struct.Struct("<QQ")
FILE_SIZE = _HEADER.size + CAPACITY * _RECORD_SIZE
#: The form before: a count of all records in place of the epoch, checksums that begin with nothing.
_OLD_MAGIC = b"pyworker"
#: Far from what is ever reached; above it, a header is garbage.
_MAX_NUMBER = 2**63
# Records that are read at once.
_BLOCK = 4096
_OUTCOMES = dict(enumerate(Outcome, start=1))
_NUMBERS = {outcome.value: number for number, outcome in _OUTCOMES.items()}


@dataclass(frozen=True)
class Found:
    """What a file held: the contents of the whole records by their numbers, oldest first."""

    epoch: int
    first: int
    contents: dict[int, bytes]
    is_current: bool


def take(path: Path) -> int:
    """The file, locked and as large as it will be; raises OSError."""
    # Whatever is there is opened without waiting, as a pipe would.
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK, 0o600)
    try:
        _lock(descriptor)
        # A disk that is full says so here.
        os.posix_fallocate(descriptor, 0, FILE_SIZE)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def _lock(descriptor: int) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise OSError(error.errno, "another worker keeps its own there") from error


def read(descriptor: int) -> Found:
    """What an earlier process left; a record that was damaged is left out."""
    magic, second, first = _HEADER.unpack(_read_at(descriptor, 0, _HEADER.size))
    if magic == _MAGIC and max(second, first) < _MAX_NUMBER:
        records = dict(_whole_records(descriptor, first, CAPACITY, second))
        return Found(second, first, records, is_current=True)
    if magic == _OLD_MAGIC and second <= first < _MAX_NUMBER and first - second <= CAPACITY:
        records = dict(_whole_records(descriptor, second, first - second, None))
        return Found(0, second, records, is_current=False)
    return Found(0, 0, {}, is_current=False)


def _read_at(descriptor: int, offset: int, size: int) -> bytes:
    data = os.pread(descriptor, size, offset)
    if len(data) < size:
        raise OSError(0, "it was cut short while it was read")
    return data


def _whole_records(descriptor: int, first: int, count: int, epoch: int | None) -> Iterator[tuple[int, bytes]]:
    """Read block by block, as all of the file would take its memory at once."""
    number, end = first, first + count
    while number < end:
        block = min(_BLOCK, CAPACITY - number % CAPACITY, end - number)
        data = _read_at(descriptor, offset_of(number), block * _RECORD_SIZE)
        for offset in range(0, len(data), _RECORD_SIZE):
            content = data[offset : offset + _CONTENT.size]
            status = content[-4]
            # The first test spares the slots that were never used the second.
            if status and status in _OUTCOMES:
                checksum = data[offset + _CONTENT.size : offset + _RECORD_SIZE]
                if checksum == _checksum(content, epoch, number):
                    yield number, content
            number += 1


def header(epoch: int, first: int) -> bytes:
    """What the file begins with."""
    return _HEADER.pack(_MAGIC, epoch, first)


def content_of(record: FinishedRequest) -> bytes:
    """A record as it is kept."""
    return _CONTENT.pack(
        record.request_idx,
        record.entered_queue_at,
        record.work_started_at,
        record.work_completed_at,
        _NUMBERS[record.status],
    )


def sealed(content: bytes, epoch: int, number: int) -> bytes:
    return content + _checksum(content, epoch, number)


def _checksum(content: bytes, epoch: int | None, number: int) -> bytes:
    begin = 0 if epoch is None else zlib.crc32(_SEED.pack(epoch, number))
    return _CHECKSUM.pack(zlib.crc32(content, begin))


def record_of(content: bytes) -> FinishedRequest:
    index, entered, started, completed, status = _CONTENT.unpack(content)
    return FinishedRequest.of(_OUTCOMES[status], index, entered, started, completed)


def offset_of(number: int) -> int:
    return _HEADER.size + number % CAPACITY * _RECORD_SIZE
