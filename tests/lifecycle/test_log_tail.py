"""Bytes to lines, and a file that is rotated, truncated and rewritten under the reader."""

from __future__ import annotations

import logging
import os
import socket
import sys
import time
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyworker.data_types import LogAction
from pyworker.lifecycle.log_lines import MAX_LINE, LineAssembler, LogMatcher
from pyworker.lifecycle.log_tail import MAX_SHOWN, SILENCE, LogTailer, unfollowable

LOADED, ERROR, INFO = LogAction.ModelLoaded, LogAction.ModelError, LogAction.Info
ACTIONS = [(INFO, "info:"), (LOADED, "is ready"), (ERROR, "Traceback"), (LOADED, "started")]


# -- lines -----------------------------------------------------------------------------------------------


def lines_of(pieces: Sequence[bytes], max_line: int = MAX_LINE, overlap: int = 1024) -> list[str]:
    assembler = LineAssembler(max_line, overlap)
    return [line for piece in pieces for line in assembler.feed(piece)] + list(assembler.flush())


@st.composite
def split_bytes(draw: st.DrawFn) -> tuple[bytes, list[bytes]]:
    """Some bytes, and the same cut anywhere."""
    alphabet = st.sampled_from(
        [b"a", b"b", b"\n", b"\r", b"\r\n", b"\xff", "é".encode(), "😀".encode(), b" "]
    )
    whole = b"".join(draw(st.lists(alphabet, max_size=40)))
    cuts = sorted(draw(st.lists(st.integers(0, len(whole)), max_size=10)))
    bounds = [0, *cuts, len(whole)]
    return whole, [whole[start:end] for start, end in pairwise(bounds)]


@settings(deadline=None)
@given(split_bytes())
def test_any_split_gives_the_same_lines(split: tuple[bytes, list[bytes]]) -> None:
    whole, pieces = split

    expected = [line.decode("utf-8", "replace") for line in whole.replace(b"\r", b"\n").split(b"\n") if line]
    assert lines_of([whole]) == expected
    assert lines_of(pieces) == expected
    assert lines_of([bytes([byte]) for byte in whole]) == expected


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", []),
        (b"\n\n\r\n\r", []),
        (b"a\nb", ["a", "b"]),
        (b"a\r\nb\r\n", ["a", "b"]),
        (b"10%\r50%\r100%\n", ["10%", "50%", "100%"]),
        (b"\xff\xfe\n\xc3", ["\ufffd\ufffd", "\ufffd"]),
        (b"a\x00b\n", ["ab"]),
        ("grüße\u2028zwei\n".encode(), ["grüße\u2028zwei"]),
    ],
)
def test_line_ends(data: bytes, expected: list[str]) -> None:
    assert lines_of([data]) == expected


def test_a_line_is_given_once_it_is_complete() -> None:
    assembler = LineAssembler()

    assert list(assembler.feed(b"model is ")) == []
    assert repr(assembler) == "<LineAssembler [9 bytes of a partial line]>"
    assert list(assembler.feed(b"ready\nnext")) == ["model is ready"]
    assembler.discard()
    assert list(assembler.feed(b"other\n")) == ["other"]


@settings(deadline=None)
@given(
    length=st.integers(0, 60),
    cut=st.integers(0, 60),
    before=st.integers(0, 60),
)
def test_a_phrase_is_found_at_any_place_of_a_long_line(length: int, cut: int, before: int) -> None:
    """Also across the seams: with lines of 20 bytes there is one every 12."""
    phrase = "is ready"
    text = "x" * before + phrase + "y" * length + "\n"
    data = text.encode()

    lines = lines_of([data[:cut], data[cut:]], max_line=20, overlap=8)

    assert all(len(line) <= 20 for line in lines)
    assert any(phrase in line for line in lines)
    seamless = lines[0] + "".join(line[8:] for line in lines[1:])
    assert seamless.startswith(text.strip()[: len(seamless)])


def test_the_bytes_of_a_long_line_are_all_looked_at() -> None:
    data = bytes(97 + number % 26 for number in range(1000))

    pieces = lines_of([data], max_line=100, overlap=30)

    assert pieces[0] + "".join(piece[30:] for piece in pieces[1:]) == data.decode()


def test_a_line_of_ten_megabytes_needs_little_memory() -> None:
    assembler = LineAssembler()
    piece = b"x" * 65_536
    largest = longest = 0
    for _ in range(160):
        for line in assembler.feed(piece):
            longest = max(longest, len(line))
        largest = max(largest, int(repr(assembler).partition("[")[2].partition(" ")[0]))

    assert longest == MAX_LINE
    assert largest <= MAX_LINE
    assert list(assembler.feed(b" is ready\nshort\n"))[-1] == "short"


@pytest.mark.parametrize(("max_line", "overlap"), [(10, 10), (10, 11), (10, -1)])
def test_an_overlap_that_never_ends_is_refused(max_line: int, overlap: int) -> None:
    with pytest.raises(ValueError, match="shorter than a line"):
        LineAssembler(max_line, overlap)


# -- meaning ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("nothing", []),
        ("", []),
        ("the model is ready", [LOADED]),
        ("started and is ready", [LOADED]),
        ("THE MODEL IS READY", []),
        ("info: is ready", [LOADED, INFO]),
        ("info: is ready Traceback", [ERROR]),
        ("info: Traceback", [ERROR]),
        ("info:info:", [INFO]),
    ],
)
def test_error_then_load_then_info(line: str, expected: list[LogAction]) -> None:
    assert list(LogMatcher(ACTIONS).match(line)) == expected
    assert list(LogMatcher(ACTIONS[::-1]).match(line)) == expected, "the author's order does not matter"


@pytest.mark.parametrize(
    ("phrase", "line", "expected"),
    [
        ("router…: Connected", "INFO router::server: main.rs:3: Connected", True),
        ("router…: Connected", "router: Connected", True),
        ("router…: Connected", ": Connected router", False),
        ("router…: Connected", "router: connected", False),
        ("ab…ba", "aba", False),
        ("…ab…", "xaby", True),
        ("…", "anything", False),
    ],
)
def test_a_gap_in_a_phrase(phrase: str, line: str, expected: bool) -> None:
    assert (list(LogMatcher([(INFO, phrase)]).match(line)) == [INFO]) == expected


def test_an_empty_phrase_matches_nothing() -> None:
    matcher = LogMatcher([(ERROR, ""), (INFO, "ü")])

    assert list(matcher.match("any line")) == []
    assert matcher.longest == 2
    assert LogMatcher([]).longest == 0


# -- files -----------------------------------------------------------------------------------------------


class Tail:
    """A tailer on a real file, and what it said."""

    def __init__(self, path: Path, actions: Sequence[tuple[LogAction, str]] = ((INFO, ""),)) -> None:
        self.path = path
        self.matches: list[tuple[LogAction, str]] = []
        self.tailer = LogTailer(
            path, actions, lambda action, line, _is_old: self.matches.append((action, line))
        )

    def step(self) -> list[str]:
        """The lines matched by one step."""
        self.matches.clear()
        self.tailer.tail_once()
        return [line for _, line in self.matches]


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "model.log"


@pytest.fixture
def tail(log: Path) -> Iterator[Tail]:
    tail = Tail(log, [(INFO, "line")])
    yield tail
    tail.tailer.close()


def append(path: Path, text: str | bytes) -> None:
    with path.open("ab") as file:
        file.write(text if isinstance(text, bytes) else text.encode())


def test_a_file_that_appears_late_is_read_from_its_beginning(log: Path, tail: Tail) -> None:
    assert not tail.tailer.tail_once()
    assert not tail.tailer.tail_once()

    append(log, "line 1\nline 2\n")

    assert tail.step() == ["line 1", "line 2"]
    assert tail.step() == []


def test_a_folder_that_appears_late(tmp_path: Path) -> None:
    log = tmp_path / "not" / "yet" / "model.log"
    tail = Tail(log, [(INFO, "line")])
    assert tail.step() == []

    log.parent.mkdir(parents=True)
    append(log, "line 1\n")

    assert tail.step() == ["line 1"]
    tail.tailer.close()


def test_a_step_says_whether_there_was_something_new(log: Path, tail: Tail) -> None:
    append(log, "x")

    assert tail.tailer.tail_once()
    assert not tail.tailer.tail_once()


def test_partial_lines_are_completed_later(log: Path, tail: Tail) -> None:
    append(log, "line 1\nli")
    assert tail.step() == ["line 1"]
    append(log, "n")
    assert tail.step() == []
    append(log, "e 2\nline 3")
    assert tail.step() == ["line 2"]
    append(log, "\n")
    assert tail.step() == ["line 3"]


def test_a_character_that_was_half_written(log: Path, tail: Tail) -> None:
    first, second = "line é".encode()[:-1], "line é".encode()[-1:]
    append(log, first)
    assert tail.step() == []
    append(log, second + b"\n")
    assert tail.step() == ["line é"]


def test_what_is_there_already_counts_too_however_much(log: Path, tail: Tail) -> None:
    append(log, b"x" * 100 + b"\n")
    append(log, b"noise\n" * 500_000 + b"line 1\n")

    assert tail.step() == ["line 1"]


def test_rotation_by_rename_reads_the_last_lines_first(log: Path, tail: Tail) -> None:
    append(log, "line 1\n")
    assert tail.step() == ["line 1"]

    append(log, "line 2\nline 3 without an end")
    old = log.rename(log.with_suffix(".1"))
    append(old, ", but completed after the rename")
    append(log, "line 4\nline 5\n")

    assert tail.step() == [
        "line 2",
        "line 3 without an end, but completed after the rename",
        "line 4",
        "line 5",
    ]
    append(log, "line 6\n")
    append(old, "line 7 nobody reads\n")
    assert tail.step() == ["line 6"]


def test_between_rename_and_creation_the_old_file_is_followed(log: Path, tail: Tail) -> None:
    append(log, "line 1\n")
    tail.step()
    old = log.rename(log.with_suffix(".1"))
    append(old, "line 2\n")
    assert tail.step() == ["line 2"]
    append(old, "line 3\n")
    log.touch()
    assert tail.step() == ["line 3"]
    append(log, "line 4\n")
    assert tail.step() == ["line 4"]


def test_a_file_that_was_removed_and_made_anew(log: Path, tail: Tail) -> None:
    append(log, "line 1\n")
    tail.step()
    append(log, "line 2\n")
    log.unlink()
    append(log, "line 3\n")

    assert tail.step() == ["line 2", "line 3"]


def test_two_rotations_in_a_row(log: Path, tail: Tail) -> None:
    append(log, "line 1\n")
    tail.step()
    for number in (2, 4):
        append(log, f"line {number}\n")
        log.rename(log.with_suffix(f".{number}"))
        append(log, f"line {number + 1}\n")
        assert tail.step() == [f"line {number}", f"line {number + 1}"]


def test_copytruncate_starts_again(log: Path, tail: Tail) -> None:
    append(log, "line 1\nline 2\npartial")
    assert tail.step() == ["line 1", "line 2"]

    os.truncate(log, 0)
    append(log, "line 3\n")

    assert tail.step() == ["line 3"], "and the partial line of what is gone is forgotten"


def test_truncated_to_nothing_and_filled_later(log: Path, tail: Tail) -> None:
    append(log, "line 1\n")
    tail.step()
    os.truncate(log, 0)
    assert tail.step() == []
    append(log, "line 2\n")
    assert tail.step() == ["line 2"]


@pytest.mark.parametrize("count", [2, 3, 500])
def test_a_file_rewritten_as_long_or_longer_starts_again(log: Path, tail: Tail, count: int) -> None:
    """Its size does not tell; the bytes before the place where reading stopped do."""
    append(log, "line 1\nline 2\n")
    tail.step()

    with log.open("wb") as file:
        file.write(b"".join(b"LINE line %d\n" % number for number in range(count)))

    assert tail.step() == [f"LINE line {number}" for number in range(count)]


def test_a_long_log_rewritten_longer_starts_again(log: Path, tail: Tail) -> None:
    append(log, "old line\n" * 1000)
    assert len(tail.step()) == 1000

    with log.open("wb") as file:
        file.write(b"new line\n" * 2000)

    assert tail.step() == ["new line"] * 2000


def test_a_writer_that_opens_with_append_after_a_truncation(log: Path, tail: Tail) -> None:
    with log.open("ab", buffering=0) as writer:
        writer.write(b"line 1 is a rather long one\n")
        assert tail.step() == ["line 1 is a rather long one"]
        os.truncate(log, 0)
        writer.write(b"line 2\n")
        assert tail.step() == ["line 2"]


def test_a_writer_that_keeps_its_offset_leaves_a_hole(log: Path, tail: Tail) -> None:
    """Truncated under a writer without O_APPEND, the file is zeros up to where the writer goes on."""
    with log.open("wb", buffering=0) as writer:
        writer.write(b"line 1\n")
        assert tail.step() == ["line 1"]
        os.truncate(log, 0)
        writer.write(b"line 2\n")
        assert tail.step() == ["line 2"]


def test_invalid_bytes_do_not_stop_it(log: Path, tail: Tail) -> None:
    append(log, b"\xff\xfe\x00 line 1\n\xc3\x28\nline 2\n")

    assert tail.step() == ["\ufffd\ufffd line 1", "line 2"]


def test_carriage_returns_are_line_ends(log: Path, tail: Tail) -> None:
    append(log, "line 1\rline 2\r\nline 3\r")

    assert tail.step() == ["line 1", "line 2", "line 3"]


def test_a_phrase_in_a_very_long_line(log: Path) -> None:
    tail = Tail(log, [(LOADED, "is ready")])
    for place in (0, MAX_LINE - 4, MAX_LINE, 3 * MAX_LINE - 1500, 10 * 2**20):
        append(log, b"x" * place + b"is ready" + b"y" * 100_000 + b"\n")
        assert tail.step(), place
        assert {action for action, _ in tail.matches} == {LOADED}
        assert all(len(line) <= MAX_SHOWN for _, line in tail.matches)
    tail.tailer.close()


def test_a_phrase_longer_than_the_usual_overlap(log: Path) -> None:
    phrase = "p" * 2000 + "!"
    tail = Tail(log, [(LOADED, phrase)])
    append(log, "x" * (MAX_LINE - 1000) + phrase + "\n")

    assert tail.step()
    tail.tailer.close()


def test_matches_come_in_the_order_of_the_file(log: Path) -> None:
    tail = Tail(log, ACTIONS)
    append(log, "info: loading\nTraceback info:\nserver started\n  info: is ready  \n")

    tail.step()

    assert tail.matches == [
        (INFO, "info: loading"),
        (ERROR, "Traceback info:"),
        (LOADED, "server started"),
        (LOADED, "info: is ready"),
        (INFO, "info: is ready"),
    ]
    tail.tailer.close()


def test_a_folder_in_its_place_is_a_warning_once(
    log: Path, tail: Tail, caplog: pytest.LogCaptureFixture
) -> None:
    log.mkdir()
    with caplog.at_level(logging.WARNING, "pyworker.lifecycle.log_tail"):
        assert not tail.tailer.tail_once()
        assert not tail.tailer.tail_once()
    assert [record.getMessage() for record in caplog.records] == [
        f"the model log {log} cannot be read (Is a directory)"
    ]

    log.rmdir()
    append(log, "line 1\n")
    assert tail.step() == ["line 1"]


def test_a_folder_that_takes_the_place_of_the_log(log: Path, tail: Tail) -> None:
    append(log, "line 1\n")
    tail.step()
    append(log, "line 2\n")
    log.rename(log.with_suffix(".1"))
    log.mkdir()

    assert tail.step() == ["line 2"]
    assert tail.step() == []
    log.rmdir()
    append(log, "line 3\n")
    assert tail.step() == ["line 3"]


def test_a_link_that_is_pointed_elsewhere(log: Path, tail: Tail, tmp_path: Path) -> None:
    first, second = tmp_path / "first.log", tmp_path / "second.log"
    append(first, "line 1\n")
    append(second, "line 2\n")
    log.symlink_to(first)
    assert tail.step() == ["line 1"]

    log.unlink()
    log.symlink_to(second)

    assert tail.step() == ["line 2"]


def test_what_a_match_calls_may_fail_and_the_next_step_goes_on(log: Path) -> None:
    lines: list[str] = []

    def fail_once(action: LogAction, line: str, _is_old: bool) -> None:
        lines.append(line)
        if len(lines) == 1:
            raise ZeroDivisionError

    tailer = LogTailer(log, [(INFO, "line")], fail_once)
    append(log, "line 1\n")
    with pytest.raises(ZeroDivisionError):
        tailer.tail_once()
    append(log, "line 2\n")
    tailer.tail_once()

    assert lines == ["line 1", "line 2"]
    tailer.close()


def test_close_lets_go_of_the_file(log: Path, tail: Tail) -> None:
    append(log, "line 1\n")
    tail.step()
    assert "offset=7" in repr(tail.tailer)
    open_files = {link.resolve() for link in Path("/proc/self/fd").iterdir()} if proc_is_there() else {log}
    assert log in open_files

    tail.tailer.close()
    tail.tailer.close()

    if proc_is_there():
        assert log not in {link.resolve() for link in Path("/proc/self/fd").iterdir()}
    assert tail.step() == ["line 1"], "from the beginning of what is there now"


def proc_is_there() -> bool:
    return sys.platform == "linux"


# -- what models and rotations do to a log ---------------------------------------------------------------


def test_the_last_line_counts_without_its_newline_after_silence(log: Path, tail: Tail) -> None:
    append(log, "line 1\nline 2 has no end")
    assert tail.tailer.tail_once(100.0)
    tail.matches.clear()
    assert not tail.tailer.tail_once(100.0 + SILENCE - 0.1)
    assert tail.matches == []
    for later in (SILENCE, SILENCE + 0.1, 3 * SILENCE):
        tail.tailer.tail_once(100.0 + later)
    assert tail.matches == [(INFO, "line 2 has no end")], "once"
    append(log, " yet\nline 3\n")
    assert tail.step() == ["line 3"], "the same line means nothing more"


def test_a_last_line_that_goes_on_after_a_silence_is_looked_at_whole(log: Path) -> None:
    tail = Tail(log, [(LOADED, "is ready"), (INFO, "model")])
    append(log, "the model is rea")
    tail.tailer.tail_once(0.0)
    tail.tailer.tail_once(SILENCE)
    assert tail.matches == [(INFO, "the model is rea")]
    append(log, "dy\n")
    tail.tailer.tail_once(SILENCE + 1)
    assert tail.matches[1:] == [(LOADED, "the model is ready")]
    tail.tailer.close()


def test_a_hole_costs_nothing_however_large(log: Path, tail: Tail) -> None:
    """Truncated under a writer that goes on at its old place: a terabyte of NULs that are not on the disk."""
    place = 2**40
    with log.open("wb", buffering=0) as writer:
        writer.write(b"line 1\n")
        assert tail.step() == ["line 1"]
        os.truncate(log, 0)
        writer.seek(place)
        writer.write(b"line 2\n")
    began = time.monotonic()
    assert tail.step() == ["line 2"]
    os.truncate(log, 2 * place)
    assert tail.step() == []
    append(log, "line 3\n")
    assert tail.step() == ["line 3"]
    assert time.monotonic() - began < 5


def test_nuls_are_in_no_line(log: Path, tail: Tail) -> None:
    append(log, b"\0" * 100_000 + b"line\0 1\0\n" + b"\0" * 100 + b"\nli\0ne 2\n")
    assert tail.step() == ["line 1", "line 2"]


def test_colours_and_control_characters_are_neither_matched_nor_shown(log: Path) -> None:
    tail = Tail(log, [(LOADED, "router: Connected"), (INFO, "line")])
    append(log, "\x1b[2m2026\x1b[0m \x1b[32m INFO\x1b[0m router\x1b[2m:\x1b[0m Connected\n")
    append(log, "\x1b]0;a title\x07line\x08\x07 \x1b[1;38;5;196m1\x1b[m\x9b\u2028 \x1b[\n")
    tail.step()
    assert tail.matches == [(LOADED, "2026  INFO router: Connected"), (INFO, "line 1 [")]
    assert tail.tailer.glance.last[-1] == "line 1 ["
    tail.tailer.close()


def test_a_shown_line_is_cut(log: Path, tail: Tail) -> None:
    append(log, "x" * 30_000 + "line\n")
    [line] = tail.step()
    assert len(line) == MAX_SHOWN


@pytest.mark.parametrize("kind", ["pipe", "device", "socket"])
def test_what_is_no_file_is_refused_by_name(
    log: Path, tail: Tail, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    with socket.socket(socket.AF_UNIX) as bound:
        if kind == "pipe":
            os.mkfifo(log)
        elif kind == "device":
            log.symlink_to("/dev/zero")
        else:
            bound.bind(str(log))
        with caplog.at_level(logging.WARNING, "pyworker.lifecycle.log_tail"):
            for _ in range(3):
                assert not tail.tailer.tail_once()
    [record] = caplog.records
    assert f"{log} is a {kind}, which cannot be followed" in record.getMessage()
    assert f"is a {kind}" in str(tail.tailer.glance)
    assert unfollowable(log)
    # As anything else that is in the way, for as long as it is.
    log.unlink()
    append(log, "line 1\n")
    assert tail.step() == ["line 1"]
    assert unfollowable(log) == ""


def test_what_was_there_before_is_told_from_what_is_new(log: Path) -> None:
    seen: list[tuple[str, bool]] = []
    tailer = LogTailer(log, [(INFO, "line")], lambda _, line, is_old: seen.append((line, is_old)))
    append(log, "line 1\nline 2\nline 3 is not")
    assert not tailer.glance.is_current
    tailer.tail_once()
    assert tailer.glance.is_current
    append(log, " whole yet\nline 4\n")
    tailer.tail_once()
    log.rename(log.with_suffix(".1"))
    append(log, "line 5\n")
    tailer.tail_once()
    os.truncate(log, 0)
    append(log, "l\nline 6\n")
    tailer.tail_once()
    assert seen == [
        ("line 1", True),
        ("line 2", True),
        ("line 3 is not whole yet", False),
        ("line 4", False),
        ("line 5", False),
        ("line 6", False),
    ]
    tailer.close()


def test_a_log_that_appears_late_is_all_new(log: Path) -> None:
    seen: list[bool] = []
    tailer = LogTailer(log, [(INFO, "line")], lambda _action, _line, is_old: seen.append(is_old))
    tailer.tail_once()
    assert tailer.glance.is_current
    append(log, "line 1\n")
    tailer.tail_once()
    assert seen == [False]
    tailer.close()
