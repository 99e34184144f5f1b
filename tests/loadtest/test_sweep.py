"""The sweep: the knee of a worker whose capacity is known, and the parts that find it."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyworker.client import Client
from pyworker.data_types import ApiPayload
from pyworker.loadtest import execute
from pyworker.loadtest.goal import good_response, parsed_goals
from pyworker.loadtest.measurement import Measurement
from pyworker.loadtest.objective import Objective
from pyworker.loadtest.options import plan_from
from pyworker.loadtest.parser import make_parser
from pyworker.loadtest.payloads import Payloads
from pyworker.loadtest.plan import Plan
from pyworker.loadtest.record import Failure, Record
from pyworker.loadtest.search import Search, Steps
from pyworker.loadtest.stage import Hopeless, Stage, Times, Window, stage_of
from pyworker.loadtest.staging import sweep
from pyworker.loadtest.sweep import SATURATED, Sweep, SweepPlan, SweepResult
from pyworker.loadtest.sweep_html import sweep_page
from pyworker.loadtest.sweep_report import headline, text_sweep
from pyworker.loadtest.targets import Called
from tests.support.timed_worker import TimedWorker


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


def plan_of(*argv: str) -> Plan:
    parser = make_parser("x")
    return plan_from(parser, parser.parse_args(argv))


def sweep_plan(*argv: str) -> SweepPlan:
    asked = plan_of("--sweep", *argv).sweep
    assert asked is not None
    return asked


# -- against a worker whose capacity is known -------------------------------------------------------------

SLOTS, SERVICE = 4, 0.12
CAPACITY = SLOTS / SERVICE  # 33.3 requests per second
OBJECTIVE = "p90=0.21s"


def swept(worker: TimedWorker, *argv: str) -> SweepResult:
    plan = plan_of("--sweep", *argv)
    assert plan.sweep is not None
    with Client.of_worker(worker.url) as client:
        called = Called(client, worker.url, "/generate")
        return sweep(plan, plan.sweep, called, Payloads.made(Question(1), None), [])


def rate_sweep() -> SweepResult:
    with TimedWorker(SERVICE, slots=SLOTS) as worker:
        argv = ["-rps", "15", "--duration", "1.5", "--arrival", "constant", "--objective", OBJECTIVE]
        return swept(worker, *argv, "--dollars-per-hour", "3.6")


def test_three_of_three_sweeps_name_the_knee_within_10_percent() -> None:
    with ThreadPoolExecutor(3) as pool:
        results = [one.result() for one in [pool.submit(rate_sweep) for _ in range(3)]]
    for result in results:
        assert result.saturated
        assert result.knee == pytest.approx(CAPACITY, rel=0.1), text_sweep(result)
        stage = result.knee_stage
        assert stage is not None
        assert stage.throughput == pytest.approx(stage.load, rel=0.1)
        assert stage.total.p90 is not None
        assert SERVICE <= stage.total.p90 <= 0.21
        beyond = result.stages[-1]
        assert beyond.goodput < 0.5 * beyond.throughput, "they come, but late"
        assert stage.cost is not None
        # 7 units of workload each, at a tenth of a cent per second
        assert stage.cost.per_unit_of_workload == pytest.approx(0.001 / 7 / stage.throughput, rel=0.01)


def test_users_without_an_objective_have_their_knee_where_the_asymptotes_cross(tmp_path: Path) -> None:
    """The whole command, with its files."""
    files = [tmp_path / f"sweep.{kind}" for kind in ("json", "html", "csv")]
    with TimedWorker(SERVICE, slots=SLOTS) as worker:
        argv = ["--worker-url", worker.url, "--sweep", "--concurrency", "1", "--duration", "1"]
        argv += [part for file in files for part in (f"--{file.suffix[1:]}", str(file))]
        assert execute(Question, "/generate", argv) == 0
    raw = json.loads(files[0].read_text())
    assert (raw["format"], raw["version"], raw["closed"]) == ("pyworker-loadtest-sweep", 1, True)
    assert raw["knee"] == pytest.approx(SLOTS, abs=0.4)
    assert [SATURATED] in [stage["failing"] for stage in raw["stages"]]
    page = files[1].read_text()
    assert page.count("<svg") == 2
    assert "Latency over load (users)" in page
    rows = list(csv.DictReader(files[2].read_text().splitlines()))
    assert [float(row["load"]) for row in rows] == [stage["load"] for stage in raw["stages"]]


# -- the search -------------------------------------------------------------------------------------------


def search(
    capacity: float, steps: str, first: float = 1.0, precision: float = 0.05, *, whole: bool = False
) -> tuple[list[float], Search]:
    """The loads that are tried of a server that holds up to `capacity`."""
    made = Search(Steps.parsed(steps), first, precision, whole=whole)
    tried: list[float] = []
    while (load := made.next()) is not None:
        assert len(tried) < 200
        tried.append(load)
        made.tell(load, holds=load <= capacity)
    return tried, made


@given(st.floats(0.2, 1e5), st.sampled_from(["x2", "x1.3", "+5000", "3:x4"]))
def test_the_search_comes_within_its_precision(capacity: float, steps: str) -> None:
    _, made = search(capacity, steps)
    assert made.held is not None
    assert made.held <= capacity <= made.held * 1.055


@given(st.integers(1, 8000), st.sampled_from(["x2", "+700", "x1.5"]))
def test_users_are_whole_numbers(capacity: int, steps: str) -> None:
    tried, made = search(capacity, steps, whole=True)
    assert all(load == int(load) for load in tried)
    assert made.held is not None
    assert made.held <= capacity < max(made.held + 1, made.held * 1.05 + 0.5)


def test_stages_as_they_were_asked_for() -> None:
    assert search(7, "1,2,5,10,20")[0] == [1, 2, 5, 10]
    assert search(7, "1:50:+5", precision=1)[0] == [1, 6, 11]
    assert search(1e9, "10:40:x2")[0] == [10, 20, 40], "up to the last"
    tried, made = search(0, "x2")
    assert tried[-1] == pytest.approx(1 / 64, rel=0.01), "then it gives up"
    assert made.held is None


@pytest.mark.parametrize(
    "text", ["", "x1", "+0", "x0.5", "0:x2", "9:3:+1", "2,1", "1,1", "0,1", "a", "1;2", "x" * 500]
)
def test_stages_that_are_none(text: str) -> None:
    with pytest.raises(ValueError, match="stages"):
        Steps.parsed(text)


# -- the sweep --------------------------------------------------------------------------------------------


def stage(load: float, throughput: float, mean: float, *failing: str) -> Stage:
    times = Times(mean, mean, mean)
    return Stage(
        load, 10.0, 100, 0, throughput, throughput, 0.0, 0.0, mean, times, None, None, 0.0, {}, 0, failing
    )


def run_sweep(run: Callable[[float], Stage | None], *argv: str) -> SweepResult:
    return Sweep(sweep_plan(*argv), run, lambda _stage, _remark: None).result("any", "now")


def test_a_stage_that_failed_once_is_run_again() -> None:
    """Half of the loads have a hiccup the first time."""
    seen: dict[float, int] = {}

    def run(load: float) -> Stage:
        seen[load] = seen.get(load, 0) + 1
        hiccup = len(seen) % 2 == 0 and seen[load] == 1
        return stage(load, load, 0.1, *(["p99=1s"] if hiccup or load > 50 else []))

    result = run_sweep(run, "--objective", "p99=1s")
    assert result.knee is not None
    assert 50 / 1.06 <= result.knee <= 50
    assert max(seen.values()) == 2


def test_the_asymptotes_of_users() -> None:
    def run(load: float) -> Stage:
        return stage(load, min(load, 10.0) / 0.5, max(load, 10.0) * 0.05)

    result = run_sweep(run, "--concurrency", "1")
    assert (result.knee, result.saturated) == (10, True)
    assert headline(result).startswith("the knee is at 10 at a time: 20 good responses per second")
    interrupted = run_sweep(lambda load: run(load) if load < 16 else None, "--concurrency", "1")
    assert (interrupted.knee, interrupted.interrupted) == (8, True)
    assert "was interrupted" in text_sweep(interrupted)


def test_what_a_sweep_cannot_tell() -> None:
    result = run_sweep(lambda load: stage(load, load, 0.1, "p99=1s"), "--objective", "p99=1s")
    assert result.knee is None
    assert "not even the lowest load holds" in text_sweep(result)
    result = run_sweep(lambda load: stage(load, load, 0.1), "--stages", "1,2")
    assert result.knee == 2
    assert "no load failed: the knee may lie higher" in text_sweep(result)
    assert "none" in sweep_page(run_sweep(lambda _load: None))


# -- a stage ----------------------------------------------------------------------------------------------


def measured(
    latency: Callable[[float], float], rate: float = 20.0, failed: Callable[[float], bool] = lambda _: False
) -> Measurement:
    """Requests at an even rate for 10 s."""
    measurement = Measurement(Objective({}), parsed_goals("p90=1s,errors=10%", Objective({})))
    for place in range(int(10 * rate)):
        at = place / rate
        measurement.started()
        record = Record(measurement.begin + at, measurement.begin + at, workload=1.0)
        record.ended = record.due + latency(at)
        record.failure = Failure("5xx", "x") if failed(at) else None
        measurement.ended(record)
    return measurement


def test_warm_up_and_cool_down_do_not_count() -> None:
    measurement = measured(lambda at: 0.1 if 2 <= at < 9 else 5.0, failed=lambda at: at < 1)
    made = stage_of(measurement, 20, Window(2, 9), None, closed=False)
    assert (made.requests, made.failed, made.failing) == (140, 0, [])
    assert made.total.p99 == pytest.approx(0.1)
    whole = stage_of(measurement, 20, Window(0, 10), None, closed=False)
    assert whole.missed == {"p90=1s": 0.3, "errors=10%": 0.1}
    assert whole.failing[0] == "p90=1s"


def test_a_server_that_falls_behind_fails_without_an_objective() -> None:
    made = stage_of(measured(lambda at: 0.3 * at), 20, Window(1, 9), None, closed=False)
    assert "the server falls behind" in made.failing
    assert made.behind == pytest.approx(0.3 / 1.3 * 20 * 8, rel=0.1)
    assert stage_of(measured(lambda at: 0.3 * at), 20, Window(1, 9), None, closed=True).behind == 0


def test_a_failed_request_is_one_that_never_ended() -> None:
    made = stage_of(measured(lambda _: 0.1, failed=lambda at: at >= 5), 20, Window(0, 10), None, closed=False)
    assert made.total.p50 == pytest.approx(0.1)
    assert made.total.p90 is None


def test_a_hopeless_stage_is_not_waited_for() -> None:
    measurement = measured(lambda at: 2.0 if at > 5 else 0.1)
    assert Hopeless(measurement, Window(0, 10), 200)()
    assert not Hopeless(measurement, Window(0, 10), 2_000)()
    assert not Hopeless(measurement, Window(0, 5), 100)()


# -- objectives and options -------------------------------------------------------------------------------


def test_objectives() -> None:
    slo = Objective.parsed("total=1s")
    goals = parsed_goals("p99=2s, ttft-p95=500ms,tpot-p50=20ms,goodput=95%,errors=0.01", slo)
    assert [goal.allowed for goal in goals] == pytest.approx([0.01, 0.05, 0.5, 0.05, 0.01])
    assert [dict(goal.limits.limits) for goal in goals] == [
        {"total": 2.0}, {"ttft": 0.5}, {"tpot": 0.02}, {"total": 1.0}, {},
    ]  # fmt: skip
    for text in (
        "",
        "p99",
        "p99=2",
        "x-p99=2s",
        "p100=1s",
        "goodput=200%",
        "errors=x",
        ",".join(["p1=1s"] * 17),
    ):
        with pytest.raises(ValueError, match="objective"):
            parsed_goals(text, slo)
    loose_and_strict = parsed_goals("p99=2s,p50=1s,ttft-p95=1s,errors=1%", slo)
    assert good_response(loose_and_strict, slo) == slo
    assert good_response(loose_and_strict, Objective({})).limits == {"total": 2.0, "ttft": 1.0}
    with pytest.raises(ValueError, match="goodput=95% needs --slo"):
        parsed_goals("goodput=95%", Objective({}))


def test_what_a_sweep_asks_for() -> None:
    made = sweep_plan("--duration", "10", "--slo", "total=1s")
    assert (made.warm_up, made.seconds, made.cool_down) == (2, 10, 1)
    assert [(goal.name, goal.allowed) for goal in made.goals] == [
        ("goodput=0.99", 0.01),
        ("errors=0.01", 0.01),
    ]
    assert not sweep_plan("--concurrency", "1", "--slo", "total=1s").asymptotic
    assert sweep_plan("--concurrency", "1", "--objective", "errors=5%").asymptotic
    assert sweep_plan("--warm-up", "0").warm_up == 0


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--sweep", "-n", "5"], "--sweep has stages of its own: leave out -n"),
        (["--sweep", "--compare", "x.json"], "leave out --compare"),
        (["-n", "1", "--stages", "1,2"], "--stages is for --sweep"),
        (["--sweep", "--stages", "2,1"], "stages rise"),
        (["--sweep", "--concurrency", "1", "--stages", "1.5,2"], "are whole numbers"),
        (["--sweep", "--warm-up", "-1"], "-1 is not a number of seconds"),
        (["-n", "1", "--objective", "foo"], "'foo' is no objective; it is like p99=2s"),
        (["-n", "1", "--burstiness", "2"], "--burstiness is for --arrival gamma"),
        (["-n", "1", "--body", "{}"], "--body is for --url"),
        (["-n", "1", "--url", "ftp://x"], "a URL is needed that can be called"),
        (["-n", "1", "--url", "http://x", "-l"], "--url is a target by itself"),
    ],
)
def test_options_that_contradict_each_other(
    argv: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        execute(Question, "/generate", argv)
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1
