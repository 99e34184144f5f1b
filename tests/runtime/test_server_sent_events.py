"""Server-sent events, written and read."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyworker.runtime.server_sent_events import MAX_EVENT, event, read

VALUE = {"a": [1, None, "line\nend\r\n, “quoted”, \u2028 and \ud800"], "b": 0.5}


@given(st.lists(st.integers(1, 30), min_size=1))
def test_what_was_written_is_read_however_it_arrives(sizes: list[int]) -> None:
    data = event("status", VALUE) + b": a comment\n\n" + event("lines", [])
    pieces: list[bytes] = []
    while data:
        size = sizes[len(pieces) % len(sizes)]
        pieces.append(data[:size])
        data = data[size:]
    [(first, value), last] = list(read(pieces))
    assert first == "status"
    assert value == {"a": [1, None, "line\nend\r\n, “quoted”, \u2028 and ?"], "b": 0.5}
    assert last == ("lines", [])


def test_other_line_ends_names_and_several_lines_of_data() -> None:
    assert list(read([b"data: [1,\r\ndata: 2]\r\nid: 7\r\n\r\n"])) == [("message", [1, 2])]


def test_an_event_without_its_end_is_none() -> None:
    assert list(read([b"event: a\ndata: 1\n"])) == []


@pytest.mark.parametrize("piece", [b"data: " + b"x" * 1000, b"data: 1\n" * 100])
def test_an_event_without_end_is_refused(piece: bytes) -> None:
    def endless() -> object:
        while True:
            yield piece

    with pytest.raises(ValueError, match=f"longer than {MAX_EVENT} bytes"):
        list(read(endless()))  # pyright: ignore[reportArgumentType]


def test_what_is_no_json_is_refused() -> None:
    with pytest.raises(ValueError, match="Expecting"):
        list(read([b"data: {]\n\n"]))
