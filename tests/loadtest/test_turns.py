"""Conversations of several turns, by what a worker received, and their sessions."""

from __future__ import annotations

import csv
import itertools
import json
import os
import signal
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pyworker.loadtest import command
from pyworker.loadtest.measurement import Measurement
from pyworker.loadtest.objective import Objective
from pyworker.loadtest.options import plan_from
from pyworker.loadtest.parser import make_parser
from pyworker.loadtest.record import Record
from pyworker.loadtest.sweep import Sweep
from pyworker.loadtest.turns import turn_figures
from tests.loadtest.test_sweep import stage
from tests.support.chat_worker import ChatWorker
from tests.support.in_process import InProcessWorker
from tests.support.scripted import ScriptedServer, whole
from tests.support.waiting import wait_until

Run = Callable[..., tuple[int, Any]]
TARGET = command.Target(None, "/chat", "/chat", None)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """The exit status and what --json holds. Questions are told apart by their number."""

    def started(*argv: str, stream: bool = False, **fields: object) -> tuple[int, Any]:
        file, made = tmp_path / "payloads.jsonl", tmp_path / "made.json"
        lines = [
            {"messages": [{"role": "user", "content": f"question {number}"}], "stream": stream, **fields}
            for number in range(50)
        ]
        file.write_text("\n".join(map(json.dumps, lines)))
        payloads = ["--payload", str(file), *(["--stream"] if stream else [])]
        status = command.execute(TARGET, [*payloads, *argv, "--json", str(made)])
        return status, json.loads(made.read_text()) if made.exists() else None

    return started


# -- what a worker gets -----------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [False, True])
def test_each_turn_has_all_that_was_said_before(
    stream: bool, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    with ChatWorker() as worker:
        argv = ["--worker-url", worker.url, "-n", "6", "--concurrency", "3", "--turns", "4"]
        status, result = run(*argv, stream=stream, max_tokens=9)
        talks = worker.conversations()
        sessions, lifetimes = worker.open_sessions(), worker.created
    assert status == 0
    assert [len(talk) for talk in talks] == [4] * 6
    questions: set[str] = set()
    for talk in talks:
        assert len({asked.session for asked in talk}) == 1
        said: list[dict[str, str]] = []
        for asked, after in itertools.pairwise([*talk, None]):
            assert asked is not None
            *before, question = asked.messages
            assert before == said
            assert question["role"] == "user"
            questions.add(question["content"])
            assert asked.payload["max_tokens"] == 9
            said = [*asked.messages, {"role": "assistant", "content": asked.answer}]
            assert after is None or after.arrived >= asked.ended
    assert len(questions) == 24, "each is another one"
    assert len({talk[0].session for talk in talks}) == 6
    assert (sessions, lifetimes) == (set(), [600] * 6)
    assert result["planned"] == result["sent"] == result["succeeded"] == 24
    assert result["conversations"] == {"begun": 6, "whole": 6, "broken": 0, "stopped": 0}
    out = capsys.readouterr().out
    assert "conversations 6 begun, 6 whole; each in a session of its worker\n" in out
    assert "(conversations of 4 turns, 3 at a time)" in out


def test_lengths_are_those_of_each_question(run: Run) -> None:
    """And only the first has the prefix."""
    with ChatWorker() as worker:
        argv = ["--worker-url", worker.url, "-n", "3", "--concurrency", "1", "--turns", "3", "--seed", "2"]
        argv += ["--input-tokens", "8:80", "--output-tokens", "5:500", "--prefix-tokens", "400"]
        status, result = run(*argv, "--fields", "messages.0.content,max_tokens")
        talks = worker.conversations()
    assert status == 0
    assert "messages.0" not in json.dumps(result["failures"])
    for talk in talks:
        last = talk[-1].messages
        words = [len(message["content"].split()) for message in last if message["role"] == "user"]
        assert 300 + 6 <= words[0] <= 300 + 60
        assert all(6 <= count <= 60 for count in words[1:])
        assert len({asked.payload["max_tokens"] for asked in talk}) > 1
        assert not last[2]["content"].startswith(last[0]["content"][:20])
    starts = {talk[0].messages[0]["content"].split()[299] for talk in talks}
    assert len(starts) == 1, "all begin with the one prefix"


def test_users_think_between_the_turns(run: Run) -> None:
    with ChatWorker() as worker:
        argv = ["--worker-url", worker.url, "-n", "3", "-rps", "100", "--turns", "2:4", "--think", "0.05:0.2"]
        status, result = run(*argv, "--seed", "1")
        talks = worker.conversations()
        lifetimes = worker.created
    assert status == 0
    assert {len(talk) for talk in talks} <= {2, 3, 4}
    assert result["sent"] == sum(len(talk) for talk in talks)
    gaps = [after.arrived - before.ended for talk in talks for before, after in itertools.pairwise(talk)]
    assert min(gaps) >= 0.05
    assert len({round(gap, 3) for gap in gaps}) > 1
    assert all(600.05 <= seconds <= 600.2 for seconds in lifetimes)
    # A thought is no wait.
    assert result["times"]["total"]["percentiles"]["p50"] < 0.05
    assert result["wanted"] == "conversations of 2:4 turns, thinking 0.05:0.2 s, 100 a second, poisson"


def test_a_real_worker_keeps_each_in_a_session(
    run: Run, tmp_path: Path, scripted_model: ScriptedServer, capsys: pytest.CaptureFixture[str]
) -> None:
    """And has none left at the end; users beyond its limit are told what to change."""
    answer = {"choices": [{"message": {"role": "assistant", "content": "hm"}}]}
    scripted_model.script("/chat", whole(json.dumps(answer).encode()))
    package = "tests.support.plain_worker"
    with InProcessWorker(tmp_path, scripted_model.url, "http://127.0.0.1:9", package=package) as worker:
        argv = ["--worker-url", worker.url, "--turns", "3"]
        assert run(*argv, "-n", "4", "--concurrency", "2")[0] == 0
        received = scripted_model.requests("/chat")
        assert sorted(len(one.json()["messages"]) for one in received) == [1] * 4 + [3] * 4 + [5] * 4
        assert received[-1].json()["messages"][1] == {"role": "assistant", "content": "hm"}
        assert repr(worker.worker.sessions) == "<Sessions [0 of 10 open]>"
        capsys.readouterr()
        status, result = run(*argv, "-n", "14", "--concurrency", "14", "--think", "0.2")
        assert (status, result["failures"][0]["kind"]) == (1, "429")
        assert "it allows MAX_SESSIONS, 10 if nothing else is set" in capsys.readouterr().out
        assert repr(worker.worker.sessions) == "<Sessions [0 of 10 open]>"


# -- targets without sessions -----------------------------------------------------------------------------


def test_any_url_and_workers_without_sessions(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    with ChatWorker(has_sessions=False) as worker:
        argv = ["-n", "3", "--concurrency", "1", "--turns", "2"]
        assert run("--url", f"{worker.url}/chat", *argv)[0] == 0
        assert "3 whole; without sessions, which this target does not have\n" in capsys.readouterr().out
        assert run("--openai", worker.url, "-k", "key", "--compare", worker.url, *argv)[0] == 0
        assert "the worker costs: " in capsys.readouterr().out
        assert run("--worker-url", worker.url, *argv)[0] == 0
        out = capsys.readouterr().out
        assert "3 whole; without sessions: the target answered 404 to /session/create\n" in out
        assert all(asked.session is None for asked in worker.asked)
        assert len(worker.asked) == 4 * 6


# -- answers ----------------------------------------------------------------------------------------------


def test_an_answer_may_stand_in_another_field(run: Run) -> None:
    with ChatWorker() as worker:
        argv = ["--worker-url", worker.url, "-n", "1", "--concurrency", "1", "--turns", "2"]
        assert run(*argv, "--answer", "text")[0] == 0
        assert worker.asked[-1].messages[1]["content"] == "other 0"
        status, result = run(*argv, "--answer", "choices.1.text")
    assert (status, result["sent"], result["conversations"]["broken"]) == (1, 1, 1)
    [failure] = result["failures"]
    assert failure["example"] == "no answer at choices.1.text: name its field with --answer"


def test_a_user_who_breaks_an_answer_off_asks_again(run: Run) -> None:
    """With what had come of it."""
    with ChatWorker() as worker:
        argv = ["--worker-url", worker.url, "-n", "2", "--concurrency", "1", "--turns", "2"]
        status, result = run(*argv, "--cancel-share", "1", "--cancel-after", "1e-9", stream=True)
        answers = [talk[1].messages[1]["content"] for talk in worker.conversations()]
    assert (status, result["cancelled"], result["conversations"]["whole"]) == (0, 4, 2)
    assert all("answer".startswith(answer) for answer in answers)


def test_a_failure_ends_a_conversation(run: Run) -> None:
    with ChatWorker(faults={1: 500}) as worker:
        argv = ["--worker-url", worker.url, "-n", "2", "--concurrency", "1", "--turns", "3"]
        status, result = run(*argv)
        assert (worker.open_sessions(), len(worker.asked)) == (set(), 5)
    assert (status, result["failed"]) == (1, 1)
    assert result["conversations"] == {"begun": 2, "whole": 1, "broken": 1, "stopped": 0}


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ("--turns 0", "argument --turns: 0 is out of bounds: from 1 to 1000"),
        ("--turns 2 --think -1", "argument --think: -1 is out of bounds: from 0 to 3600"),
        ("--think 1", "--think is for --turns"),
        ("--answer a", "--answer is for --turns"),
        ("--answer a..b --turns 2", "argument --answer: 'a..b' is no field"),
        ("--turns 2 --sweep", "--turns with --sweep needs --concurrency N"),
        ("--turns 2 --fields messages", "with --turns the input has to be in a list of messages"),
        ("--turns 2 --fields other.0.content", "--turns: the payload has no list of messages in 'other'"),
        ("--turns 2 --body {{}}", "--turns: the payload has no list of messages in 'messages'"),
        ("--turns 2 --trace {trace}", "--trace says when each request is sent"),
        (
            "--turns 2 --body {two} --input-tokens 5 --fields messages.0.content",
            "with --turns the input has to stand in the last message, such as messages.1.content",
        ),
    ],
)
def test_options_at_fault(
    argv: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trace = tmp_path / "trace.jsonl"
    trace.write_text('{"at": 0}')
    two = json.dumps({"messages": [{"content": "a"}, {"content": "b"}]}, separators=(",", ":"))
    words = argv.format(trace=trace, two=two).split()
    if "--sweep" not in words:
        words += ["-n", "1"]
    if "--body" not in words:
        words += ["--body", '{"messages":[{"content":"a"}]}']
    with pytest.raises(SystemExit, match="2"):
        command.execute(TARGET, ["--url", "http://127.0.0.1:9/chat", *words])
    assert message in capsys.readouterr().err


# -- the end ----------------------------------------------------------------------------------------------


def interrupt_when(condition: Callable[[], object], times: int = 1) -> threading.Thread:
    """Ctrl-C, while the test runs on the main thread."""

    def press() -> None:
        wait_until(condition, "the moment of the Ctrl-C")
        for _ in range(times):
            os.kill(os.getpid(), signal.SIGINT)
            threading.Event().wait(0.15)  # the signals must not merge; the test looks every 0.1 s

    thread = threading.Thread(target=press, name="presses-ctrl-c")
    thread.start()
    return thread


def test_an_interrupt_wakes_those_who_think_and_ends_their_sessions(run: Run) -> None:
    with ChatWorker() as worker:
        pressing = interrupt_when(lambda: len(worker.asked) == 3 and worker.asked[-1].ended)
        argv = ["--worker-url", worker.url, "-n", "3", "--concurrency", "3", "--turns", "5", "--think", "600"]
        status, result = run(*argv)
        pressing.join()
        assert (len(worker.created), worker.open_sessions()) == (3, set())
    assert (status, result["succeeded"]) == (0, 3)
    assert result["conversations"] == {"begun": 3, "whole": 0, "broken": 0, "stopped": 3}


def test_interrupted_twice_it_ends_the_sessions_that_are_left(run: Run) -> None:
    """Though their answers have not come."""
    with ChatWorker() as worker:
        worker.gate.clear()
        pressing = interrupt_when(lambda: len(worker.asked) == 3, times=2)
        status, result = run("--worker-url", worker.url, "-n", "3", "--concurrency", "3", "--turns", "5")
        assert (len(worker.created), worker.open_sessions()) == (3, set())
        assert (status, result["unfinished"], result["failed"]) == (1, 3, 0)
        pressing.join()
        worker.gate.set()
        wait_until(lambda: not _talking(), "the threads of the test")


def _talking() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("pyworker-loadtest")]


def test_after_its_duration_nobody_asks_again(run: Run) -> None:
    with ChatWorker() as worker:
        argv = ["--worker-url", worker.url, "--duration", "0.3", "--concurrency", "2", "--turns", "1000"]
        status, result = run(*argv, "--think", "0.08")
        assert worker.open_sessions() == set()
    assert status == 0
    assert result["sending_seconds"] < 0.3
    assert result["conversations"] == {"begun": 2, "whole": 0, "broken": 0, "stopped": 2}
    assert result["sent"] > 2


# -- figures ----------------------------------------------------------------------------------------------


def test_first_turns_against_later_ones(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of a worker whose first answers take long, as they do without a prefix that is known."""
    page, table = tmp_path / "x.html", tmp_path / "x.csv"
    with ChatWorker(slow=0.2) as worker:
        argv = ["--worker-url", worker.url, "-n", "4", "--concurrency", "4", "--turns", "3"]
        _, result = run(*argv, "--html", str(page), "--csv", str(table), stream=True)
    first, later, second, third = result["turns"]
    assert [one["turns"] for one in result["turns"]] == ["first", "all later", "2", "3"]
    assert [one["requests"] for one in result["turns"]] == [4, 8, 4, 4]
    assert first["latency"]["p50"] >= first["first_token"]["p50"] >= 0.2
    assert 0 < later["first_token"]["p50"] < 0.2
    assert later["latency"]["p99"] == max(second["latency"]["p99"], third["latency"]["p99"])
    rows = list(csv.DictReader(table.read_text().splitlines()))
    assert sorted(row["turn"] for row in rows) == ["1"] * 4 + ["2"] * 4 + ["3"] * 4
    assert all(float(row["first_token"]) >= 0.2 for row in rows if row["turn"] == "1")
    out = capsys.readouterr().out
    lines = out.splitlines()
    [head] = [number for number, line in enumerate(lines) if line.startswith("turn ")]
    assert lines[head].split() == [
        "turn", "requests", "failed", "latency", "p50", "p90", "p99", "first", "token", "p50", "p90", "p99",
    ]  # fmt: skip
    assert lines[head + 1].split()[:3] == ["first", "4", "0"]
    assert "<h2>By turn</h2>" in page.read_text()


def test_figures_by_turn_count_failures_apart() -> None:
    measurement = Measurement(Objective({}))
    for turn in range(1, 21):
        record = Record(measurement.begin, measurement.begin, 1.0, turn=turn)
        record.ended = measurement.begin + turn
        measurement.ended(record)
    first, later, *each = turn_figures(measurement.samples)
    assert (first.latency["p99"], later.requests, later.first_token) == (1, 19, {})
    assert later.latency == pytest.approx({"p50": 11, "p90": 19, "p99": 20})
    assert [one.turns for one in each] == [str(number) for number in range(2, 11)]
    assert turn_figures(Measurement(Objective({})).samples) == []


def test_a_sweep_of_users_in_conversations(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    with ChatWorker() as worker:
        argv = ["--worker-url", worker.url, "--sweep", "--concurrency", "1", "--stages", "1,2"]
        status, result = run(*argv, "--duration", "0.3", "--turns", "3", "--think", "0.01")
        assert worker.open_sessions() == set()
    assert (status, result["knee"]) == (0, 2)
    assert result["shape"] == "conversations of 3 turns, thinking 0.01 s"
    assert "shape         conversations of 3 turns" in capsys.readouterr().out


def test_users_who_think_have_their_knee_at_more_of_them() -> None:
    """10 slots of 0.5 s, and 1 s of thinking after each response: 30 users fill them."""
    parser = make_parser("x")
    argv = ["--sweep", "--concurrency", "1", "--turns", "2", "--think", "2"]
    plan = plan_from(parser, parser.parse_args(argv)).sweep
    assert plan is not None
    assert plan.pause == 1
    swept = Sweep(
        replace(plan),
        lambda load: stage(load, min(load / 1.5, 20.0), max(0.5, load / 20 - 1)),
        lambda _stage, _remark: None,
    ).result("any", "now")
    assert swept.knee == 30
