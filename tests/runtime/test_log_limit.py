"""Lines that come in floods: the first of each kind, and then how many there were."""

from __future__ import annotations

import logging
import threading

import pytest

from pyworker.runtime.log_limit import INTERVAL, LogLimit, silenced
from tests.support.scripted import Act
from tests.support.stack import Stack


def test_one_line_of_a_kind_in_an_interval() -> None:
    now = [100.0]
    limit = LogLimit(10.0, lambda: now[0])
    assert limit.suffix("a") == ""
    assert [limit.suffix("a") for _ in range(5)] == [None] * 5
    assert limit.suffix("b") == ""
    now[0] += 9.9
    assert limit.suffix("a") is None
    now[0] += 0.1
    assert limit.suffix("a") == " (6 more like it since the last line)"
    assert limit.suffix("a") is None
    now[0] += 10
    assert limit.suffix("b") == ""


def test_kinds_are_not_remembered_without_bound() -> None:
    limit = LogLimit(10.0, lambda: 100.0)
    for number in range(1000):
        assert limit.suffix(str(number)) == ""
    assert limit.suffix("999") is None
    assert repr(limit) == "<LogLimit [64 kinds]>"


def test_threads_count_together() -> None:
    now = [100.0]
    limit = LogLimit(10.0, lambda: now[0])
    written: list[str | None] = []
    threads = [
        threading.Thread(target=lambda: written.extend(limit.suffix("a") for _ in range(1000)))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (written.count(""), written.count(None)) == (1, 3999)
    now[0] += 10
    assert limit.suffix("a") == " (3999 more like it since the last line)"


def test_a_flood_of_bad_gateways_costs_few_lines(stack: Stack) -> None:
    stack.model.script("/pass", Act.CLOSE)
    line = "/pass: the model server closed the connection before its response"
    before = stack.worker.log.count(line)
    assert [stack.post("/pass").status for _ in range(50)] == [502] * 50
    # Less time than two intervals, unless the machine is very slow.
    assert before <= stack.worker.log.count(line) <= before + 3
    assert stack.worker.log.count(line) >= 1
    assert INTERVAL >= 5


def test_what_is_silenced_is_heard_again_afterwards(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    logger = logging.getLogger("pyworker.of_this_test")
    with silenced():
        logger.error("within")
    logger.info("after")
    assert [record.message for record in caplog.records] == ["after"]
