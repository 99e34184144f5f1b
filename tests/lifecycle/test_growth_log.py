"""Twice the bytes of a log cost at most about twice the time, whatever they are."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from pyworker.data_types import LogAction
from pyworker.lifecycle.log_lines import LineAssembler, LogActions, LogMatcher, clean
from pyworker.lifecycle.log_tail import LogTailer
from tests.support.growth import assert_linear

SIZE = 2**18

ACTIONS: LogActions = [
    (LogAction.ModelError, "a" * 50 + "b"),
    (LogAction.ModelLoaded, "ab" * 30 + "c"),
    (LogAction.Info, "[[["),
]

PIECES: dict[str, bytes] = {
    "line feeds": b"\n",
    "carriage returns": b"\r",
    "both": b"\r\n",
    "NULs": b"\0",
    "NULs and letters": b"\0a",
    "one long line": b"a",
    "nearly a phrase": b"ab" * 29 + b"b",
    "invalid UTF-8": b"\xff",
    "half characters": b"\xf0\x9f\x98",
    "escapes": b"\x1b",
    "colours": b"\x1b[1;31mx\x1b[0m",
    "colours without end": b"\x1b[" + b"1;" * 40,
    "one colour without end": b"1;",
    "titles without end": b"\x1b]0;" + b"t" * 2000,
    "control characters": b"\x08\x01",
    "blanks": b" ",
}


def pieces(piece: bytes) -> Callable[[int], bytes]:
    """So many bytes of it, again and again."""
    return lambda size: piece * (size // len(piece))


def through_all(data: bytes) -> None:
    """As the tailer does, in pieces as they are read."""
    assembler, matcher = LineAssembler(), LogMatcher(ACTIONS)
    for start in range(0, len(data), 2**18):
        for line in assembler.feed(data[start : start + 2**18]):
            list(matcher.match(clean(line)))
    for line in assembler.flush():
        list(matcher.match(clean(line)))


def dripping(data: bytes) -> None:
    """A line that comes in very small pieces."""
    assembler = LineAssembler()
    for start in range(0, len(data), 16):
        list(assembler.feed(data[start : start + 16]))


@pytest.mark.parametrize("kind", PIECES)
def test_a_log(kind: str) -> None:
    assert_linear(through_all, pieces(PIECES[kind]), SIZE)


@pytest.mark.parametrize("kind", PIECES)
def test_one_line_however_long(kind: str) -> None:
    """Longer than any that the assembler gives."""
    assert_linear(lambda data: clean(data.decode("utf-8", "replace")), pieces(PIECES[kind]), SIZE)


@pytest.mark.parametrize("kind", ["one long line", "carriage returns", "NULs and letters"])
def test_a_log_that_drips(kind: str) -> None:
    assert_linear(dripping, pieces(PIECES[kind]), SIZE // 4)


def test_a_file_of_one_line_without_end(tmp_path: Path) -> None:
    log = tmp_path / "model.log"

    def tail(data: bytes) -> None:
        log.write_bytes(data)
        tailer = LogTailer(log, ACTIONS, lambda _action, _line, _is_old: None)
        while tailer.tail_once(0.0):
            pass
        tailer.close()

    assert_linear(tail, pieces(b"ab" * 29 + b"b"), 4 * SIZE)
