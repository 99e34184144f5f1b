"""How long a WAV file plays, by its header. Pure."""

from __future__ import annotations

import struct
from dataclasses import dataclass

_PCM = (1, 3, 0xFFFE)  # integers, floats, and either of them with an extended header
#: Real files have a handful. Each chunk is one step, however long it is.
_MAX_CHUNKS = 1000
_FORMAT = struct.Struct("<HHIIHH")


@dataclass(frozen=True)
class _Format:
    tag: int
    channels: int
    frames_per_second: int
    bytes_per_second: int
    bytes_per_frame: int

    def seconds(self, length: int) -> float | None:
        """The duration of so many bytes of sound; None if the header contradicts itself."""
        if self.tag not in _PCM:
            # Compressed: the rate of bytes is all that is known.
            return length / self.bytes_per_second if self.bytes_per_second else None
        if not (self.channels and self.frames_per_second and self.bytes_per_frame):
            return None
        return length // self.bytes_per_frame / self.frames_per_second


def wav_seconds(data: bytes) -> float | None:
    """The duration of a WAV file in seconds; None if `data` is none, or its header makes no sense.

    As a player takes it: sound that the header promises and the file does not have is not counted.
    """
    if data[:4] not in (b"RIFF", b"RF64") or data[8:12] != b"WAVE":
        return None
    found: _Format | None = None
    length: int | None = None
    at = 12
    for _ in range(_MAX_CHUNKS):
        if at + 8 > len(data):
            break
        name, size = data[at : at + 4], int.from_bytes(data[at + 4 : at + 8], "little")
        at += 8
        if name == b"fmt " and found is None:
            found = _format(data, at, size)
        elif name == b"data" and length is None:
            length = min(size, len(data) - at)
        if found is not None and length is not None:
            return found.seconds(length)
        at += size + size % 2  # chunks begin at even offsets
    return None


def _format(data: bytes, at: int, size: int) -> _Format | None:
    if size < _FORMAT.size or at + _FORMAT.size > len(data):
        return None
    tag, channels, frames, byte_rate, frame_size, _ = _FORMAT.unpack_from(data, at)
    return _Format(tag, channels, frames, byte_rate, frame_size)
