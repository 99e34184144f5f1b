"""The length of a WAV file, by its header."""

from __future__ import annotations

import io
import struct
import wave

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.growth import assert_linear
from workers.openai.wav import wav_seconds


def wav(frames: int, rate: int = 16_000, channels: int = 1, width: int = 2) -> bytes:
    file = io.BytesIO()
    with wave.open(file, "wb") as writer:
        writer.setnchannels(channels)
        writer.setsampwidth(width)
        writer.setframerate(rate)
        writer.writeframes(bytes(frames * channels * width))
    return file.getvalue()


def chunk(name: bytes, data: bytes, size: int | None = None) -> bytes:
    return name + struct.pack("<I", len(data) if size is None else size) + data


def riff(*chunks: bytes) -> bytes:
    body = b"WAVE" + b"".join(chunks)
    return b"RIFF" + struct.pack("<I", len(body)) + body


def fmt(tag: int = 1, channels: int = 1, rate: int = 8000, byte_rate: int = 16_000, frame: int = 2) -> bytes:
    return chunk(b"fmt ", struct.pack("<HHIIHH", tag, channels, rate, byte_rate, frame, 16))


@given(
    st.integers(0, 5000),
    st.sampled_from([8000, 16_000, 44_100]),
    st.integers(1, 3),
    st.sampled_from([1, 2, 4]),
)
def test_it_is_what_the_writer_says(frames: int, rate: int, channels: int, width: int) -> None:
    assert wav_seconds(wav(frames, rate, channels, width)) == frames / rate


def test_other_chunks_are_skipped() -> None:
    odd = chunk(b"LIST", b"abc") + b"\0"
    assert wav_seconds(riff(odd, fmt(), odd, chunk(b"data", bytes(16_000)))) == 1.0
    assert wav_seconds(riff(chunk(b"data", bytes(16_000)), fmt())) == 1.0


@pytest.mark.parametrize("size", [2**32 - 1, 16_001])
def test_only_sound_that_is_there_counts(size: int) -> None:
    """A recorder that streams does not know the size when it writes the header."""
    assert wav_seconds(riff(fmt(), chunk(b"data", bytes(16_000), size))) == 1.0


def test_compressed_sound_goes_by_its_rate() -> None:
    assert wav_seconds(riff(fmt(tag=7, byte_rate=8000, frame=1), chunk(b"data", bytes(4000)))) == 0.5


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"RIFF",
        b"RIFF\0\0\0\0WEBP",
        riff(),
        riff(fmt()),
        riff(chunk(b"data", bytes(100))),
        riff(chunk(b"fmt ", b"short"), chunk(b"data", bytes(100))),
        riff(fmt(channels=0), chunk(b"data", bytes(100))),
        riff(fmt(rate=0), chunk(b"data", bytes(100))),
        riff(fmt(frame=0), chunk(b"data", bytes(100))),
        riff(fmt(tag=7, byte_rate=0), chunk(b"data", bytes(100))),
        riff(fmt()[:-4]),
        riff(chunk(b"junk", b"", 2**32 - 1), fmt(), chunk(b"data", bytes(100))),
    ],
)
def test_what_makes_no_sense_has_no_length(data: bytes) -> None:
    assert wav_seconds(data) is None


@given(st.binary(max_size=200), st.integers(0, 60))
def test_no_header_is_too_strange(noise: bytes, at: int) -> None:
    good = wav(50)
    for data in (noise, b"RIFF\0\0\0\0WAVE" + noise, good[:at] + noise + good[at + len(noise) :]):
        seconds = wav_seconds(data)
        assert seconds is None or 0 <= seconds <= len(data)


def test_many_chunks_cost_no_more_than_few() -> None:
    assert_linear(wav_seconds, lambda size: riff(*[chunk(b"junk", b"")] * size), 20_000)
    assert wav_seconds(riff(*[chunk(b"junk", b"")] * 5000, fmt(), chunk(b"data", bytes(100)))) is None
