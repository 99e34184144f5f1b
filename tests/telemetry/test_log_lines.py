"""Lines of the worker's log: one line each whatever they quote, and one for each request within bounds."""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path
from typing import Any

import pytest

from pyworker.instance.logs import why_it_ended
from pyworker.runtime.redaction import hiding_only
from pyworker.telemetry.last_lines import REQUEST_LINES
from pyworker.telemetry.log_format import FIELDS, FORMATTERS
from pyworker.telemetry.record import REFUSED, RequestRecord
from pyworker.telemetry.request_lines import MOST, RequestLines, line_of

FORGED = "x\n2026-01-01 00:00:00,000 ERROR pyworker: forged\r\x1b[2J\u2028\u202etxet"


def record_of(message: str, *arguments: object, **extra: object) -> logging.LogRecord:
    record = logging.LogRecord("pyworker.x", logging.INFO, __file__, 1, message, arguments, None)
    record.__dict__.update(extra)
    return record


def raised(message: str) -> Any:
    try:
        raise ValueError(message)
    except ValueError:
        return sys.exc_info()


@pytest.mark.parametrize("kind", ["text", "json"])
def test_nothing_from_outside_makes_a_line_of_its_own(kind: str) -> None:
    line = FORMATTERS[kind](hiding_only(())).format(record_of("got %s", FORGED))
    assert "got x" in line
    assert len(line.splitlines()) == 1
    assert line.isprintable()


def test_an_exception_follows_indented_in_text() -> None:
    formatter = FORMATTERS["text"](hiding_only(()))
    first, *rest = formatter.format(record_of("failed", exc_info=raised(FORGED))).splitlines()
    assert first.endswith("INFO pyworker.x: failed")
    assert all(line.startswith("  ") and line.isprintable() for line in rest)


def test_an_object_of_json_has_the_fields() -> None:
    formatter = FORMATTERS["json"](hiding_only(["token-of-the-master"]))
    extra = {FIELDS: {"route": "/x", "message": "overwritten"}, "exc_info": raised("a\nb")}
    line = json.loads(formatter.format(record_of("with %s", "token-of-the-master", **extra)))
    assert line["message"] == "with ***"
    assert (line["level"], line["logger"], line["route"]) == ("INFO", "pyworker.x", "/x")
    assert "ValueError: a\nb" in line["exception"]
    assert line["time"].endswith("Z")


def ended(status: int = 200, outcome: str = "Success", reason: str = "") -> RequestRecord:
    return RequestRecord(
        request_id="id-1",
        request_idx=None if outcome == REFUSED else 7,
        route="/pass",
        ended_at=1.0,
        status=status,
        outcome=outcome,
        reason=reason,
        authentication=0.001,
        queued=0.002,
        first_byte=None if outcome == REFUSED else 0.1,
        total=0.2,
        workload=10.0,
        work=9.0,
    )


def lines(wanted: str, *records: RequestRecord) -> list[str]:
    found: list[str] = []
    RequestLines(wanted, lambda line, _fields: found.append(line)).take(records)
    return found


def test_the_line_of_a_request() -> None:
    assert line_of(ended()) == (
        "200 Success /pass id=id-1 idx=7 total=0.200s auth=0.001s queue=0.002s first=0.100s "
        "workload=10 work=9"
    )
    assert line_of(ended(401, REFUSED, "a\nb")).endswith("queue=0.002s reason='a b'")


def test_what_is_wanted() -> None:
    mixed = [ended(), ended(502, "Error", "why"), ended(401, REFUSED, "who")]
    assert [line[:3] for line in lines("all", *mixed)] == ["200", "502", "401"]
    assert [line[:3] for line in lines("failed", *mixed)] == ["502", "401"]
    assert lines("none", *mixed) == []


def test_a_flood_is_a_few_lines_and_does_not_displace_other_kinds() -> None:
    flood = [ended(401, REFUSED, "who")] * 5000 + [ended()] * 3000 + [ended(502, "Error", "why")]
    found = lines("sampled", *flood)
    assert len(found) == 2 * MOST + 2
    assert found[-2].startswith("502 Error")
    assert found[-1] == (
        f"{8000 - 2 * MOST} more requests without a line: "
        f"{5000 - MOST} of 401 Refused, {3000 - MOST} of 200 Success"
    )
    assert len(lines("all", *flood)) == 8001


@pytest.mark.parametrize("kind", ["text", "json"])
def test_an_instance_finds_why_its_worker_ended_in_either_form(kind: str, tmp_path: Path) -> None:
    formatter = FORMATTERS[kind](hiding_only(()))
    records = [logging.LogRecord("pyworker", logging.ERROR, __file__, 1, "cannot start: no port", (), None)]
    records += [logging.LogRecord(REQUEST_LINES, logging.INFO, __file__, 1, "200 Success", (), None)]
    log = tmp_path / "worker.log"
    log.write_text("".join(f"{formatter.format(record)}\n" for record in records), "utf-8")
    assert why_it_ended(4, log, 0) == "the worker ended by itself (status 4): cannot start: no port"
