"""The files that are sent: real ones, small, and made without a library for images or video."""

from __future__ import annotations

import io
import math
import struct
import wave
import zlib
from array import array
from collections.abc import Iterator

RATE = 16_000  # samples a second
SAMPLE_BYTES = 2
TONE_HERTZ = 220

_PNG = b"\x89PNG\r\n\x1a\n"
#: Bytes per second of audio that is not a WAV file: a usual rate of compressed speech.
COMPRESSED_RATE = 16_000


def tone(seconds: float) -> Iterator[bytes]:
    """Samples, in pieces of a tenth of a second: 16 bits, one channel, `RATE` a second."""
    left = max(round(seconds * RATE), 1)
    # Whole waves, so one piece follows the other without a click.
    piece = array("h", (_sample(number) for number in range(RATE // 10)))
    while left > 0:
        yield piece[:left].tobytes()
        left -= len(piece)


def _sample(number: int) -> int:
    return round(8000 * math.sin(2 * math.pi * TONE_HERTZ * number / RATE))


def wav(samples: bytes) -> bytes:
    """A WAV file of these samples."""
    file = io.BytesIO()
    with wave.open(file, "wb") as writer:
        writer.setnchannels(1)
        writer.setsampwidth(SAMPLE_BYTES)
        writer.setframerate(RATE)
        writer.writeframes(samples)
    return file.getvalue()


def endless_wav_header() -> bytes:
    """The beginning of a WAV file that is streamed: its length is not known yet."""
    header = bytearray(wav(b""))
    header[4:8] = header[-4:] = b"\xff\xff\xff\xff"
    return bytes(header)


def audio_seconds(data: bytes) -> float | None:
    """The length of an audio file: of a WAV file exactly, of others by a usual rate; None if it is broken."""
    if not data:
        return None
    if not data.startswith(b"RIFF"):
        return len(data) / COMPRESSED_RATE
    try:
        with wave.open(io.BytesIO(data)) as reader:
            return reader.getnframes() / reader.getframerate()
    except (wave.Error, EOFError, ZeroDivisionError):
        return None


def png(width: int, height: int) -> bytes:
    """Stripes in black and white, one bit a pixel."""
    line = b"\0" + b"\xf0" * ((width + 7) // 8)
    head = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return _PNG + b"".join(
        (_chunk(b"IHDR", head), _chunk(b"IDAT", zlib.compress(line * height)), _chunk(b"IEND", b""))
    )


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def mp4(frames: int) -> bytes:
    """The boxes of an MP4 file, and a byte for each frame: enough for what looks at the type of a file."""
    kind = b"isom" + struct.pack(">I", 512) + b"isomiso2mp41"
    return _box(b"ftyp", kind) + _box(b"mdat", bytes(frames))


def _box(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data) + 8) + kind + data
