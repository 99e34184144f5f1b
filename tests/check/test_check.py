"""`python -m pyworker.check`: shipped workers pass, and each planted fault is found."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pyworker.check.__main__ import main
from pyworker.check.finding import Finding, Report
from pyworker.check.run import CHECKS, check_worker


@pytest.fixture(scope="module")
def broken() -> Report:
    return check_worker("tests.check.broken", job_patience=4.0)


@pytest.mark.parametrize("worker", ["hello_world", "openai", "tgi"])
def test_shipped_workers_pass(worker: str) -> None:
    report = check_worker(worker)

    assert [finding for finding in report.findings if finding.is_fault] == []
    assert report.is_good
    assert len(report.routes) >= 2


@pytest.mark.parametrize(
    ("check", "where", "words"),
    [
        ("views", "POST /loose", "nothing of it is counted"),
        ("workload", "POST /negative", "is -1"),
        ("protocol", "GET /…", "404 (text/html"),
        ("served", "POST /negative", "422"),
        ("unknown field", "POST /forgetful", "neither reaches the model server nor is told"),
        ("bad payload", "POST /trusting", "{} gets 500"),
        ("error", "POST /hiding", "answers 500, and the client gets a whole response with 200"),
        ("cut stream", "POST /hiding", "stream breaks off, and the client gets a whole response"),
        ("error", "POST /unguarded", "an exception of its own"),
        ("silence", "POST /own-client", "is not given up"),
        ("hang-up", "POST /own-client", "the model server still works on it"),
        ("accounts", "POST /uncounted", "no outcome of it is reported"),
    ],
)
def test_a_planted_fault_is_found(broken: Report, check: str, where: str, words: str) -> None:
    found = [one for one in broken.findings if (one.check, one.where) == (check, where)]

    assert any(words in one.problem for one in found), "\n".join(map(str, broken.findings))
    assert all(one.do for one in found)
    assert any(one.is_fault for one in found)


def test_a_good_route_beside_broken_ones_is_called_good(broken: Report) -> None:
    assert [one for one in broken.findings if one.where == "POST /good"] == []
    assert not broken.is_good


def test_a_worker_that_cannot_become_ready(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    log = tmp_path / "model.log"
    log.write_text("loading\nno error so far\nlistening\n", "utf-8")

    assert main(["tests.check.unready", "--json", "--log", str(log)]) == 1

    report = json.loads(capsys.readouterr().out)
    assert report["is_good"] is False
    problems: dict[str, list[str]] = {check: [] for check in CHECKS}
    for finding in report["findings"]:
        problems[finding["check"]].append(finding["problem"])
    assert any("refuses what the benchmark" in text for text in problems["example"])
    contradiction, unseen, taken = problems["phrases"]
    assert "is part of 'started without error'" in contradiction
    assert "none of 'started without error' is in the 3 lines" in unseen
    assert "first line 2: no error so far" in taken
    assert [text for text in problems["ready"] if "started without error" in text]


def test_a_worker_that_cannot_be_made(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["no_such_worker"]) == 1

    text = capsys.readouterr().out
    assert "FAULT  made" in text
    assert "there is no worker 'no_such_worker'" in text
    assert text.endswith("1 faults, 0 notes\n")


def test_the_table_says_what_to_do() -> None:
    fault = Finding("cut", "POST /x", "it is cut", "pass it on")
    note = Finding("views", "GET /y", "not signed", "sign it", is_fault=False)

    text = Report("mine", ["POST /x"], ["cut", "views", "error"], [fault, note]).as_text()

    assert text.splitlines() == [
        "mine: 1 routes",
        "  FAULT  cut          POST /x",
        "         it is cut",
        "         do: pass it on",
        "  note   views        GET /y",
        "         not signed",
        "         do: sign it",
        "  ok     error",
        "1 faults, 1 notes",
    ]
