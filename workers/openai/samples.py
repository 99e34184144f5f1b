"""Speech and pictures for the benchmark. Each has a part that no cache of a model has seen."""

from __future__ import annotations

import io
import os
import random
import struct
import wave
import zlib
from pathlib import Path

#: How it was made is in the README.md beside it.
SPEECH = Path(__file__).parent / "speech" / "speech.wav"
_TAIL = 0.5  # seconds of noise at the end
_LOUD = 1000  # of 32,767
_BLOCK = 16


def spoken(seconds: float) -> bytes:
    """A WAV file that plays so long: the recorded speech again and again, and a tail of noise.

    Not noise alone: a model that finds no speech in a recording has little to do, and its throughput would be
    overstated.
    """
    with wave.open(str(SPEECH), "rb") as file:
        rate = file.getframerate()
        speech = file.readframes(file.getnframes())
    tail = b"".join(
        struct.pack("<h", random.randint(-_LOUD, _LOUD)) for _ in range(int(min(_TAIL, seconds) * rate))
    )
    length = int(seconds * rate) * 2 - len(tail)
    sound = io.BytesIO()
    with wave.open(sound, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes((_widened(speech) * (length // (2 * len(speech)) + 1))[:length] + tail)
    return sound.getvalue()


def _widened(samples: bytes) -> bytes:
    """8-bit samples, in which 128 is silence, as 16-bit ones."""
    wide = [struct.pack("<h", (value - 128) << 8) for value in range(256)]
    return b"".join([wide[value] for value in samples])


def noisy_picture(side: int) -> bytes:
    """A PNG of `side` × `side` pixels: squares of random colours."""
    rows: list[bytes] = []
    for _ in range(side // _BLOCK):
        row = b"".join(os.urandom(3) * _BLOCK for _ in range(side // _BLOCK))
        rows += [b"\0" + row] * _BLOCK
    side = side // _BLOCK * _BLOCK
    head = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    parts = [(b"IHDR", head), (b"IDAT", zlib.compress(b"".join(rows), 1)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(name, data) for name, data in parts)


def _chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
