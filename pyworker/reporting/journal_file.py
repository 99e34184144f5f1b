"""The file of the journal: its layout, opening and reading.

Little endian: a header of `_HEADER` (magic, epoch, number of the first record), then a ring of `CAPACITY`
records (`_CONTENT`: request_idx, the three times, status; then a checksum). Record n is in slot n modulo the
capacity. Its checksum includes the epoch and n, so that the record of an earlier round or epoch in this slot
does not match, and no count of records has to be kept up to date.
"""

from __future__ import annotations

import fcntl
import os
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pyworker.reporting.wire import FinishedRequest, Outcome

#: Maximum number of records: 44 minutes without the autoscaler at 100 requests per second.
CAPACITY = 2**18

_MAGIC = b"pyworkr2"
_HEADER = struct.Struct("<8sQQ")
_CONTENT = struct.Struct("<qdddI")
CONTENT_SIZE = _CONTENT.size
_CHECKSUM = struct.Struct("<I")
_RECORD_SIZE = _CONTENT.size + _CHECKSUM.size
_SEED = struct.Struct("<QQ")
FILE_SIZE = _HEADER.size + CAPACITY * _RECORD_SIZE
#: The previous format: a count of all records in place of the epoch, and checksums of the content alone.
_OLD_MAGIC = b"pyworker"
#: Larger numbers are never reached: such a header is garbage.
_MAX_NUMBER = 2**63
# Records per read.
_BLOCK = 4096
_OUTCOMES = dict(enumerate(Outcome, start=1))
_NUMBERS = {outcome.value: number for number, outcome in _OUTCOMES.items()}


@dataclass(frozen=True)
class Found:
    """The content of a file: undamaged records by number, oldest first."""

    epoch: int
    first: int
    contents: dict[int, bytes]
    is_current: bool


def take(path: Path) -> int:
    """Open, lock and allocate the file; raises OSError."""
    # O_NONBLOCK: opening a pipe would block.
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # Fails here if the disk is full.
        os.posix_fallocate(descriptor, 0, FILE_SIZE)
    except OSError as error:
        os.close(descriptor)
        if isinstance(error, BlockingIOError):
            raise OSError(error.errno, "another worker uses it") from error
        raise
    return descriptor


def read(descriptor: int) -> Found:
    """The records of an earlier process, without damaged ones."""
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
        raise OSError(0, "it was truncated while it was read")
    return data


def _whole_records(descriptor: int, first: int, count: int, epoch: int | None) -> Iterator[tuple[int, bytes]]:
    """Reads block by block, to bound memory."""
    number, end = first, first + count
    while number < end:
        block = min(_BLOCK, CAPACITY - number % CAPACITY, end - number)
        data = _read_at(descriptor, offset_of(number), block * _RECORD_SIZE)
        for offset in range(0, len(data), _RECORD_SIZE):
            content = data[offset : offset + _CONTENT.size]
            status = content[-4]
            # 0 in a slot that was never used.
            if status and status in _OUTCOMES:
                checksum = data[offset + _CONTENT.size : offset + _RECORD_SIZE]
                if checksum == _checksum(content, epoch, number):
                    yield number, content
            number += 1


def header(epoch: int, first: int) -> bytes:
    return _HEADER.pack(_MAGIC, epoch, first)


def content_of(record: FinishedRequest) -> bytes:
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
