"""What is remembered of a log: short lines, of one line each, without secrets."""

from __future__ import annotations

import logging

from pyworker.runtime.redaction import hiding
from pyworker.telemetry.last_lines import LONGEST, REMEMBERED, REQUEST_LINES, LastLines, OwnLines

hide = hiding(["master-token-1"])


def test_the_last_lines_are_kept() -> None:
    lines = LastLines(hide)
    for number in range(REMEMBERED + 5):
        lines.append(f"line {number}")
    assert lines.lines()[0] == "line 5"
    assert lines.lines(2) == [f"line {REMEMBERED + 3}", f"line {REMEMBERED + 4}"]


def test_a_line_is_short_and_of_one_line() -> None:
    lines = LastLines(hide)
    lines.append("a\nb\x1b[31mc\u2028d")
    lines.append("x" * 10**6)
    assert lines.lines() == ["a b [31mc d", "x" * (LONGEST - 1) + "…"]


def test_a_secret_is_not_shown() -> None:
    lines = LastLines(hide)
    lines.append("started with master-token-1 and api_key='abc'")
    assert lines.lines() == ["started with *** and api_key='***'"]


def test_a_secret_at_the_cut_is_not_shown() -> None:
    lines = LastLines(hide)
    lines.append("x" * (LONGEST - 8) + "master-token-1")
    assert "master" not in lines.lines()[0]


def test_the_own_log_is_remembered_while_the_handler_is_attached() -> None:
    own = OwnLines(hide)
    logger = logging.getLogger("pyworker.of_this_test")
    logger.setLevel(logging.DEBUG)
    own.attach()
    try:
        logger.info("with %s", "master-token-1")
        logger.debug("a detail")
        logging.getLogger(REQUEST_LINES).warning("a request")
        try:
            raise ValueError("quotes a prompt")
        except ValueError:
            logger.exception("it failed")
    finally:
        own.detach()
    logger.error("later")
    first, second = own.lines()
    assert first.endswith("INFO pyworker.of_this_test: with ***")
    assert second.endswith("ERROR pyworker.of_this_test: it failed (ValueError)")


def test_only_what_is_read_is_searched_for_secrets() -> None:
    searched: list[str] = []

    def counting(line: str) -> str:
        searched.append(line)
        return hide(line)

    lines = LastLines(counting)
    for number in range(2 * REMEMBERED):
        lines.append(f"line {number}")
    assert not searched
    assert len(lines.lines()) == len(searched) == REMEMBERED
