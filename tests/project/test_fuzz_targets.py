"""The targets of the fuzzer, on bytes near to their seeds; `python -m tests.fuzz` goes further."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fuzz.relayed import STREAMS, Streams
from tests.fuzz.targets import ANSWERS, ENVELOPES, REQUESTS, Answers, Requests, envelope


@st.composite
def near(draw: st.DrawFn, seeds: list[bytes]) -> bytes:
    """A seed with some of it replaced, or cut."""
    data = draw(st.sampled_from(seeds))
    start = draw(st.integers(0, len(data)))
    end = draw(st.integers(start, min(len(data), start + 8)))
    return data[:start] + draw(st.binary(max_size=8)) + data[end : draw(st.integers(end, len(data)))]


@settings(max_examples=300, deadline=None)
@given(near(ENVELOPES))
def test_bodies(data: bytes) -> None:
    envelope(data)


def test_requests() -> None:
    with Requests() as requests:

        @settings(max_examples=300, deadline=None)
        @given(near(REQUESTS))
        def request(data: bytes) -> None:
            requests(data)

        request()
        for seed in REQUESTS:
            requests(seed)


def test_answers() -> None:
    with Answers() as answers:

        @settings(max_examples=300, deadline=None)
        @given(near(ANSWERS))
        def answer(data: bytes) -> None:
            answers(data)

        answer()
        for seed in ANSWERS:
            answers(seed)


def test_streams() -> None:
    streams = Streams()

    @settings(max_examples=500, deadline=None)
    @given(near(STREAMS))
    def stream(data: bytes) -> None:
        streams(data)

    stream()
    for seed in STREAMS:
        for size in range(40):
            streams(bytes([size]) + seed[1:])
