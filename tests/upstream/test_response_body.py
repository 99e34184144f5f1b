"""Chunks that arrive whole take a short way, which must see what the long one sees."""

from __future__ import annotations

import http.client

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pyworker.upstream.incoming import Incoming
from pyworker.upstream.response_body import Chunked

WHOLE = (b"5\r\nhello\r\n", b"0003\r\nyou\r\n", b"1;a=b\r\nx\r\n", b"0\r\n\r\n", b"A\r\n0123456789\r\n")
BROKEN = (b"\r\n", b"\r", b"\n", b"0", b"1", b"2", b"f", b"+", b"-", b"_", b" ", b"x", b"0" * 17)
PARTS = st.sampled_from([*WHOLE, *BROKEN])


def the_long_way(data: bytes) -> tuple[bytes, bool]:
    """What it holds, and whether exactly that was in it: nothing is left, malformed or the end."""
    incoming = Incoming()
    incoming.append(data)
    body = Chunked(incoming)
    pieces: list[bytes] = []
    try:
        while piece := body.piece(7):
            pieces.append(piece)
    except http.client.HTTPException:
        return b"".join(pieces), False
    return b"".join(pieces), body.is_drained


@given(st.lists(PARTS, max_size=6).map(b"".join))
@example(b"05\r\nabcde\r\n1x")  # the first line end of all lies where a chunk of one byte would end
def test_whole_chunks_are_what_the_long_way_finds(data: bytes) -> None:
    piece = Chunked(Incoming()).whole_chunks(data)
    if piece:
        assert the_long_way(data) == (piece, True)


@pytest.mark.parametrize(
    ("data", "piece"),
    [
        (b"5\r\nhello\r\n", b"hello"),
        (b"5\r\nhello\r\n0a\r\n0123456789\r\n", b"hello0123456789"),
        (b"5;a=b\r\nhello\r\n", b""),
        (b"5\r\nhello\r\n0\r\n\r\n", b""),
        (b"5\r\nhello\r", b""),
        (b"+5\r\nhello\r\n", b""),
        (b"0_5\r\nhello\r\n", b""),
        (b" 5\r\nhello\r\n", b""),
        (b"5\nhello\r\n", b""),
    ],
)
def test_only_whole_chunks_take_the_short_way(data: bytes, piece: bytes) -> None:
    assert Chunked(Incoming()).whole_chunks(data) == piece


def test_nothing_takes_the_short_way_within_a_chunk() -> None:
    incoming = Incoming()
    body = Chunked(incoming)
    assert body.whole_chunks(b"1\r\nx\r\n") == b"x"
    incoming.append(b"9\r\n1\r")
    assert body.piece(100) == b"1\r"
    assert body.whole_chunks(b"1\r\nx\r\n") == b""
    incoming.append(b"\n1\r\nx\r\n\r\n")
    assert body.piece(100) == b"\n1\r\nx\r\n"
    assert body.is_drained
    assert body.whole_chunks(b"1\r\nx\r\n") == b"x"


def test_malformed_framing_stays_malformed() -> None:
    incoming = Incoming()
    incoming.append(b"hello\r\n3\r\nyou\r\n0\r\n\r\n")
    body = Chunked(incoming)
    for _ in range(3):
        with pytest.raises(http.client.HTTPException, match="invalid size"):
            body.piece(100)
    assert not body.is_complete
