"""The load test: its parts, and the whole against a local autoscaler and a real HTTP worker."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import flask
import pytest

from pyworker.data_types import ApiPayload
from pyworker.loadtest import execute
from pyworker.loadtest.generator import MAX_IN_FLIGHT, Generator
from pyworker.loadtest.measurement import Failure, Measurement
from pyworker.loadtest.report import progress_line, table
from pyworker.local.autoscaler import Autoscaler
from pyworker.local.messages import WORKER_REPORT, parse
from pyworker.local.serving import LocalServer
from pyworker.local.signing import Signer
from tests.support.status import status_report

DEADLINE = 20  # seconds; generous, since the machine may be busy
ROOT = Path(__file__).parents[1]


@dataclass
class Question(ApiPayload):
    number: int

    made: ClassVar[int] = 0

    @classmethod
    def for_test(cls) -> Question:
        cls.made += 1
        return cls(cls.made)

    def count_workload(self) -> float:
        return 7.0


class Worker:
    """A worker that accepts any signature; it answers with `status` once `gate` is open."""

    def __init__(self) -> None:
        self.status = 200
        self.numbers: list[object] = []
        self.gate = threading.Event()
        self.gate.set()
        app = flask.Flask("worker")
        app.add_url_rule("/generate", view_func=self.generate, methods=["POST"])
        self.server = LocalServer(app, name="test-worker")

    def generate(self) -> flask.Response:
        self.numbers.append(json.loads(flask.request.get_data())["payload"].get("number"))
        assert self.gate.wait(DEADLINE)
        return flask.Response('{"detail": "as told"}', self.status, mimetype="application/json")


@pytest.fixture
def worker() -> Iterator[Worker]:
    worker = Worker()
    worker.server.start()
    yield worker
    worker.gate.set()
    worker.server.stop()


@pytest.fixture(scope="module")
def signer() -> Signer:
    return Signer.generate()


@pytest.fixture
def autoscaler(signer: Signer, worker: Worker) -> Iterator[Autoscaler]:
    fields = status_report(worker.server.url)
    with Autoscaler(signer=signer) as running:
        running.fleet.accept_report(parse(WORKER_REPORT, json.dumps(fields).encode()), {}, time.monotonic())
        yield running


def arguments(autoscaler: Autoscaler, *more: str) -> list[str]:
    return ["--autoscaler", autoscaler.url, "-k", "key", "-e", "any", "-rps", "200", *more]


def test_a_class_makes_fresh_payloads(
    autoscaler: Autoscaler, worker: Worker, capsys: pytest.CaptureFixture[str]
) -> None:
    assert execute(Question, "/generate", arguments(autoscaler, "-n", "20")) == 0
    assert len(set(worker.numbers)) == 20
    out = capsys.readouterr().out
    assert "sent          20 of 20\nsucceeded     20\nfailed        0\n" in out
    assert all(name in out for name in ("p50", "p90", "p99", "achieved rps"))


def test_an_instance_is_sent_as_it_is(autoscaler: Autoscaler, worker: Worker) -> None:
    assert execute(Question(42), "/elsewhere", arguments(autoscaler, "-n", "3", "--route", "/generate")) == 0
    assert worker.numbers == [42, 42, 42]


def test_failures_are_shown_with_an_example(
    autoscaler: Autoscaler, worker: Worker, capsys: pytest.CaptureFixture[str]
) -> None:
    worker.status = 422
    assert execute(Question, "/generate", arguments(autoscaler, "-n", "4")) == 1
    assert '4 x HTTP 422, for example: {"detail": "as told"}' in capsys.readouterr().out


def test_no_autoscaler(capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["--autoscaler", "http://127.0.0.1:9", "-k", "k", "-e", "e", "-n", "1", "--timeout", "0.2"]
    assert execute(Question, "/generate", argv) == 1
    assert "1 x routing, for example: no answer from" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["-n", "0"], "0 is not a number of requests"),
        (["-rps", "0"], "0 is not a number above 0"),
        (["-rps", "nan"], "nan is not a number above 0"),
        (["-e", "x"], "-k KEY"),
        (["-k", "x"], "-e NAME"),
        (["-l", "--autoscaler", "http://x"], "not allowed with"),
    ],
)
def test_wrong_options(argv: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        execute(Question, "/generate", argv)
    assert message in capsys.readouterr().err


def test_requests_start_on_schedule_though_none_ends() -> None:
    measurement = Measurement()
    all_here = threading.Barrier(11)

    def send() -> None:
        all_here.wait(DEADLINE)

    generator = Generator(send, 10, 1000.0, measurement)
    generator.start()
    all_here.wait(DEADLINE)
    assert generator.wait(DEADLINE)
    summary = measurement.summary()
    assert (summary.sent, summary.succeeded, summary.in_flight) == (10, 10, 0)


def test_latency_counts_from_the_schedule() -> None:
    measurement = Measurement()
    measurement.started(100.0, 100.5)
    measurement.ended(100.0, 101.0, None)
    measurement.started(101.0, 101.0)
    measurement.ended(101.0, 104.0, Failure("kind", "example"))
    summary = measurement.summary()
    assert summary.latencies == (1.0,)
    assert (summary.elapsed, summary.achieved_rps, summary.worst_start_delay) == (4.0, 0.25, 0.5)


def test_stopping_starts_nothing_more() -> None:
    measurement = Measurement()
    begun = threading.Event()
    generator = Generator(begun.set, 10, 0.01, measurement)
    generator.start()
    assert begun.wait(DEADLINE)
    assert not generator.wait(0)
    generator.stop()
    assert generator.wait(DEADLINE)
    assert measurement.summary().sent == 1


def test_the_number_in_flight_is_bounded() -> None:
    measurement = Measurement()
    gate = threading.Event()
    full = threading.Semaphore(0)

    def send() -> None:
        full.release()
        assert gate.wait(DEADLINE)

    generator = Generator(send, MAX_IN_FLIGHT + 5, 1e6, measurement)
    generator.start()
    for _ in range(MAX_IN_FLIGHT):
        assert full.acquire(timeout=DEADLINE)
    assert measurement.summary().sent == MAX_IN_FLIGHT
    gate.set()
    assert generator.wait(DEADLINE)
    assert measurement.summary().succeeded == MAX_IN_FLIGHT + 5


def test_a_request_that_raises_is_a_failure() -> None:
    measurement = Measurement()

    def send() -> None:
        raise ZeroDivisionError("a payload's own fault")

    generator = Generator(send, 2, 1e6, measurement)
    generator.start()
    assert generator.wait(DEADLINE)
    assert measurement.summary().failures["ZeroDivisionError"].count == 2


def test_percentiles_and_table() -> None:
    measurement = Measurement()
    for number in range(1, 101):
        measurement.started(0.0, 0.0)
        measurement.ended(0.0, number / 100, None)
    summary = measurement.summary()
    assert [summary.percentile(share) for share in (0.5, 0.9, 0.99, 1.0)] == [0.5, 0.9, 0.99, 1.0]
    text = table(summary, 200, 100.0)
    assert "sent          100 of 200" in text
    assert "latency p90   0.900 s" in text
    assert "100.00 (target 100)" in text
    assert "latency p50   -" in table(Measurement().summary(), 1, 1.0)


def test_progress_line() -> None:
    assert progress_line(12.3, 100, (10, 6, 1)) == "   12 s  sent 10/100  ok 6  failed 1  in flight 3"


SCRIPT = """
from dataclasses import dataclass
from pyworker.data_types import ApiPayload

@dataclass
class Text(ApiPayload):
    prompt: str
    @classmethod
    def for_test(cls): return cls("x")
    def count_workload(self): return 1.0

if __name__ == "__main__":
    from pyworker.loadtest import run
    run(Text, endpoint="/generate")
"""


def command(tmp_path: Path, *argv: str) -> subprocess.Popen[str]:
    package = tmp_path / "mine" / "texts"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "test_load.py").write_text(SCRIPT)
    return subprocess.Popen(
        [sys.executable, "-m", "pyworker.loadtest", *argv],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={"PYTHONPATH": str(tmp_path), "PATH": ""},
    )


def test_the_command_runs_a_workers_load_test(tmp_path: Path, autoscaler: Autoscaler) -> None:
    with command(tmp_path, "-w", "mine.texts", *arguments(autoscaler, "-n", "5")) as process:
        out, err = process.communicate(timeout=DEADLINE)
    assert (process.returncode, err) == (0, "")
    assert "succeeded     5\n" in out


def test_an_unknown_worker(tmp_path: Path) -> None:
    with command(tmp_path, "-w", "nothing_here", "-l") as process:
        _, err = process.communicate(timeout=DEADLINE)
    assert process.returncode == 2
    assert "there is no workers.nothing_here.test_load; workers here: " in err
    assert "hello_world" in err


def test_interrupted_it_still_reports(tmp_path: Path, autoscaler: Autoscaler, worker: Worker) -> None:
    worker.gate.clear()
    argv = arguments(autoscaler, "-w", "mine.texts", "-n", "1000", "-rps", "2")
    with command(tmp_path, *argv) as process:
        assert process.stdout is not None
        assert " in flight " in process.stdout.readline()
        process.send_signal(signal.SIGINT)
        assert any(line.startswith("Stopped sending") for line in process.stdout)
        worker.gate.set()
        out, _ = process.communicate(timeout=DEADLINE)
    assert process.returncode == 0, "what was sent has succeeded"
    assert " of 1000\n" in out
