"""The parts of the load test, each by itself."""

from __future__ import annotations

import io
import itertools
import json
import math
import random
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from pyworker.client import Trace
from pyworker.data_types import ApiPayload
from pyworker.errors import ConfigError
from pyworker.loadtest import execute
from pyworker.loadtest.arrivals import Arrival, Rate, due_times
from pyworker.loadtest.compare import changes, interval, mann_whitney
from pyworker.loadtest.cost import cost_of, idle_share
from pyworker.loadtest.engine import ClosedLoop, Engine, OpenLoop, Send
from pyworker.loadtest.histogram import Histogram
from pyworker.loadtest.html import page
from pyworker.loadtest.live import Picture, progress_line, sparkline, view_for
from pyworker.loadtest.measurement import Measurement
from pyworker.loadtest.objective import Objective
from pyworker.loadtest.options import plan_from
from pyworker.loadtest.parser import make_parser
from pyworker.loadtest.plan import Plan
from pyworker.loadtest.record import Failure, Record
from pyworker.loadtest.report import cost_line, duration, percent, text_report
from pyworker.loadtest.result import Result, read_result, result_of
from tests.support.process import ROOT
from tests.support.waiting import DEADLINE, wait_event, wait_until


@dataclass
class Question(ApiPayload):
    number: int

    @classmethod
    def for_test(cls) -> Question:
        return cls(1)

    def count_workload(self) -> float:
        return 7.0


# -- the schedule ----------------------------------------------------------------------------------------


def moments(
    rate: Rate,
    arrival: Arrival = "constant",
    count: int | None = None,
    duration: float = math.inf,
    seed: int | None = 1,
) -> list[float]:
    return list(due_times(rate, arrival, count=count, duration=duration, seed=seed))


def test_constant_arrivals() -> None:
    assert moments(Rate(4, 4), count=5) == [0, 0.25, 0.5, 0.75, 1.0]
    assert moments(Rate(4, 4), duration=1.0) == [0, 0.25, 0.5, 0.75]


def test_poisson_arrivals_are_as_many_and_as_irregular_as_they_should() -> None:
    times = moments(Rate(50, 50), "poisson", duration=400)
    gaps = [later - earlier for earlier, later in itertools.pairwise(times)]
    mean = sum(gaps) / len(gaps)
    spread = math.sqrt(sum((gap - mean) ** 2 for gap in gaps) / len(gaps))
    assert len(times) == pytest.approx(20_000, rel=0.03)
    assert spread == pytest.approx(mean, rel=0.05)
    assert times == moments(Rate(50, 50), "poisson", duration=400)
    assert times != moments(Rate(50, 50), "poisson", duration=400, seed=2)


@given(st.floats(0, 100), st.floats(0.1, 100), st.floats(0.1, 100), st.floats(0.01, 500))
def test_a_ramp_is_turned_around_exactly(first: float, last: float, seconds: float, position: float) -> None:
    rate = Rate(first, last, seconds)
    moment = rate.due(position)
    ramp = min(moment, seconds)
    area = (first + rate_at(rate, ramp)) / 2 * ramp + (moment - ramp) * last
    assert area == pytest.approx(position, rel=1e-6, abs=1e-6)


def rate_at(rate: Rate, moment: float) -> float:
    return rate.first + (rate.last - rate.first) * moment / rate.seconds


def test_a_ramp_from_and_to_nothing() -> None:
    assert moments(Rate(0, 10, 2.0), duration=2.0)[:2] == [0, pytest.approx(math.sqrt(2 / 5))]
    assert len(moments(Rate(10, 0, 2.0), count=50)) == 10, "behind the ramp nothing is due any more"


# -- the engine ------------------------------------------------------------------------------------------


def test_requests_start_on_schedule_though_none_ends() -> None:
    all_here = threading.Barrier(11)
    engine = OpenLoop(lambda _number, _due: _pass(all_here), iter([0.0] * 10))
    engine.start()
    all_here.wait(DEADLINE)
    assert engine.wait(DEADLINE)
    assert repr(engine) == "<OpenLoop [done]>"


def _pass(barrier: threading.Barrier) -> None:
    barrier.wait(DEADLINE)


def test_a_thread_that_has_ended_its_request_takes_the_next() -> None:
    names: set[str] = set()
    ended = threading.Semaphore(0)

    def send(_number: int, _due: float) -> None:
        names.add(threading.current_thread().name)
        ended.release()

    def one_by_one() -> Iterator[float]:
        for _ in range(5):
            yield 0.0
            assert ended.acquire(timeout=DEADLINE)

    engine = OpenLoop(send, one_by_one())
    engine.start()
    assert engine.wait(DEADLINE)
    assert len(names) <= 2, "one, or two if a request was due before the first was free again"


def open_loop(send: Send) -> Engine:
    return OpenLoop(send, iter([0.0, 0.0, 1e6]))


def closed_loop(send: Send) -> Engine:
    return ClosedLoop(send, 2, None, 1e6)


@pytest.mark.parametrize("make", [open_loop, closed_loop])
def test_stopping_starts_nothing_more(make: Callable[[Send], Engine]) -> None:
    begun = threading.Semaphore(0)
    gate = threading.Event()
    sent: list[int] = []

    def send(number: int, _due: float) -> None:
        sent.append(number)
        begun.release()
        wait_event(gate, "the end of the request")

    engine = make(send)
    engine.start()
    assert all(begun.acquire(timeout=DEADLINE) for _ in range(2))
    engine.stop()
    assert not engine.wait(0), "what is open goes on"
    gate.set()
    assert engine.wait(DEADLINE)
    assert sorted(sent) == [0, 1]


def test_without_a_free_thread_a_request_waits_and_is_late() -> None:
    gate = threading.Event()
    measurement = Measurement(Objective({}))
    begun = threading.Semaphore(0)

    def send(_number: int, due: float) -> None:
        record = Record(due, started=time.monotonic(), workload=1.0)
        measurement.started()
        begun.release()
        wait_event(gate, "the end of the request")
        record.ended = time.monotonic()
        measurement.ended(record)

    engine = OpenLoop(send, iter([0.0] * 3), max_threads=2)
    measurement.start()
    engine.start()
    assert all(begun.acquire(timeout=DEADLINE) for _ in range(2))
    wait_until(lambda: measurement.glimpse().seconds > 0.1, "a tenth of a second")
    assert measurement.sent == 2
    gate.set()
    assert engine.wait(DEADLINE)
    assert measurement.histograms["late"].largest > 0.09


def test_a_broken_schedule_ends_the_test() -> None:
    seen: list[BaseException | None] = []

    def note(arguments: threading.ExceptHookArgs) -> None:
        seen.append(arguments.exc_value)

    hook, threading.excepthook = threading.excepthook, note
    try:
        engine = OpenLoop(lambda _number, _due: None, (1 / (2 - n) for n in range(5)))
        engine.start()
        assert engine.wait(DEADLINE)
        wait_until(lambda: seen, "the news of it")
    finally:
        threading.excepthook = hook
    assert isinstance(seen[0], ZeroDivisionError)


# -- figures ---------------------------------------------------------------------------------------------


def histogram(values: Sequence[float]) -> Histogram:
    made = Histogram()
    for value in values:
        made.add(value)
    return made


@settings(deadline=None, max_examples=50)  # a histogram of a day in microseconds takes a while to walk
@given(st.lists(st.floats(1e-5, 3000), min_size=1, max_size=200), st.sampled_from([50.0, 90.0, 99.0, 99.9]))
def test_percentiles_to_three_digits(values: list[float], wanted: float) -> None:
    made = histogram(values)
    rank = max(1, int(wanted / 100 * len(values) + 0.5))
    assert made.percentile(wanted) == pytest.approx(sorted(values)[rank - 1], rel=2e-3, abs=2e-6)
    assert made.largest == pytest.approx(max(values), rel=2e-3, abs=2e-6)
    again = Histogram.decoded(made.encoded())
    assert list(again.bins()) == list(made.bins())
    assert sum(count for _, count in made.bins()) == made.count == len(values)


def test_what_is_no_histogram() -> None:
    for text in ("", "x", "HISTFAAA", "é"):
        with pytest.raises(ValueError, match="encoded histogram"):
            Histogram.decoded(text)
    assert Histogram().percentile(50) == 0


def record(
    latency: float = 1.0, worker: str = "http://w:1", failure: Failure | None = None, begin: float = 0.0
) -> Record:
    trace = Trace(worker=worker, first_byte_at=begin + latency / 2, status=200, attempts=1)
    return Record(
        begin, begin, 3.0, trace, begin + latency, begin + latency / 2, [latency / 4] * 2, 3, failure
    )


def test_objectives() -> None:
    assert Objective({}).met_by(record())
    assert not Objective({}).met_by(record(failure=Failure("5xx", "")))
    text = "ttft=500ms, total=1s,gap=250000us,ttfb=0.1m"
    assert Objective.parsed(text).limits == {"ttft": 0.5, "total": 1.0, "gap": 0.25, "ttfb": 6.0}
    assert Objective.parsed(text).met_by(record(1.0))
    assert not Objective.parsed(text).met_by(record(1.1))
    assert not Objective.parsed("ttfb=1s").met_by(replace(record(), trace=Trace()))


PLAN = plan_from(parser := make_parser("x"), parser.parse_args(["-n", "40", "-rps", "5"]))


def result(latencies: Sequence[float], failures: int = 0, objective: str = "total=1s") -> Result:
    measurement = Measurement(Objective.parsed(objective))
    for place, latency in enumerate(latencies):
        measurement.started()
        measurement.ended(
            record(latency, worker=f"http://worker-{place % 9}:1", begin=measurement.begin + place / 5)
        )
    for _ in range(failures):
        measurement.started()
        failed = record(failure=Failure("5xx", "500: <script>alert(1)</script>"), begin=measurement.begin)
        measurement.ended(failed)
    plan = replace(PLAN, objective=measurement.objective)
    return result_of(measurement, plan, "any/generate")


def test_what_a_test_has_cost() -> None:
    with_price = replace(PLAN, dollars_per_hour=3.6)
    measurement = Measurement(Objective({}))
    for _ in range(5):
        measurement.started()
        measurement.ended(record(10.0, begin=measurement.begin))
    made = result_of(measurement, with_price, "any/generate")
    assert made.cost is not None
    assert made.cost.total == pytest.approx(0.01, rel=1e-3)  # 10 s
    assert made.cost.per_million_tokens == pytest.approx(0.01 / 15 * 1e6, rel=1e-3)
    assert made.cost.per_unit_of_workload == pytest.approx(0.01 / 15, rel=1e-3)
    facts = text_report(made)
    assert "$0.01 at $3.60 an hour, $666.67 for each million tokens" in facts
    assert made.idle_share == pytest.approx(0.0, abs=1e-3)
    assert cost_of(1.0, 60, 0, 0.0).per_million_tokens is None
    assert "unit of workload" in cost_line(cost_of(1.0, 60, 0, 5.0))


@pytest.mark.parametrize(
    ("spans", "idle"),
    [
        ([], 1.0),
        ([(0, 10)], 0.0),
        ([(0, 4), (1, 2), (3, 5)], 0.5),
        ([(8, 9), (0, 1), (0.5, 1)], 0.8),
        ([(5, 20)], 0.0),
    ],
)
def test_the_time_without_an_open_request(spans: list[tuple[float, float]], idle: float) -> None:
    assert idle_share(spans, 10) == pytest.approx(idle)


def test_a_file_of_before_costs_were_known_is_read(tmp_path: Path) -> None:
    raw = json.loads(result([1.0]).to_json())
    del raw["idle_share"], raw["cost"], raw["goals"], raw["own"], raw["lengths"]
    del raw["seed"], raw["shape"], raw["tokens_by"], raw["conversations"], raw["sessions"], raw["turns"]
    file = tmp_path / "old.json"
    file.write_text(json.dumps(raw))
    assert read_result(file).cost is None


def normal(mean: float, count: int, seed: int) -> list[float]:
    generator = random.Random(seed)
    return [max(0.01, generator.gauss(mean, mean / 5)) for _ in range(count)]


FIELDS = {
    "started_at", "target", "wanted", "planned", "sent", "succeeded", "failed", "unfinished", "retried",
    "seconds", "sending_seconds", "start_rate", "throughput", "goodput", "workload_rate", "token_rate",
    "tokens", "received", "objective", "met", "times", "failures", "workers", "step", "steps", "format",
    "version", "idle_share", "cost", "goals", "own", "token_goodput", "cancelled", "lengths",
    "seed", "shape", "tokens_by", "conversations", "sessions", "turns",
}  # fmt: skip


def test_the_schema_of_the_json_file_is_stable(tmp_path: Path) -> None:
    """A change of it needs a new version, so that older files are refused with a message."""
    made = result(normal(1, 40, 1), failures=2)
    raw = json.loads(made.to_json())
    assert set(raw) == FIELDS
    assert (raw["format"], raw["version"]) == ("pyworker-loadtest", 1)
    assert set(raw["times"]) == {
        "total", "first_byte", "first_token", "gap", "per_token", "normalized", "routing", "waiting", "late",
    }  # fmt: skip
    assert set(raw["times"]["total"]) == {"count", "smallest", "mean", "largest", "percentiles", "hdr"}
    assert list(raw["times"]["total"]["percentiles"]) == ["p50", "p75", "p90", "p95", "p99", "p99.9"]
    assert set(raw["failures"][0]) == {"kind", "count", "statuses", "example"}
    assert set(raw["workers"][0]) == {"url", "requests", "failed", "p50", "p99"}
    assert set(raw["steps"][0]) == {
        "at", "due", "succeeded", "failed", "in_flight", "p50", "p90", "p99", "largest", "by_worker",
    }  # fmt: skip
    file = tmp_path / "result.json"
    file.write_text(made.to_json())
    assert read_result(file).to_json() == made.to_json()


@pytest.mark.parametrize("spoil", ["", "{}", "[1]", '{"version": 2}', "other version", "other histogram"])
def test_files_that_cannot_be_compared_with(spoil: str, tmp_path: Path) -> None:
    raw = json.loads(result([1.0]).to_json())
    if spoil == "other version":
        spoil = json.dumps(raw | {"version": 2})
    elif spoil == "other histogram":
        raw["times"]["total"]["hdr"] = "x"
        spoil = json.dumps(raw)
    file = tmp_path / "old.json"
    file.write_text(spoil)
    with pytest.raises(ConfigError, match=r"--compare .*old\.json (was not written|is of another version)"):
        read_result(file)


def test_steps_add_up_to_the_whole() -> None:
    made = result(normal(1, 300, 2), failures=3)
    assert sum(step.due for step in made.steps) == made.sent == 303
    assert sum(step.succeeded for step in made.steps) == 300
    assert sum(step.failed for step in made.steps) == 3
    assert sum(sum(step.by_worker) for step in made.steps) == 300
    assert len(made.steps) <= 121
    assert max(step.in_flight for step in made.steps) >= 5


# -- comparison ------------------------------------------------------------------------------------------


def test_a_real_change_is_told_from_noise() -> None:
    old = result(normal(1.0, 500, 1))
    same, slower = result(normal(1.0, 500, 2)), result(normal(1.2, 500, 3), failures=60)

    verdicts = {change.name: change.verdict for change in changes(old, same)}
    assert verdicts["latency p50"] == verdicts["failed"] == "within noise"
    assert verdicts["latency, all of it"].startswith("within noise (p =")
    verdicts = {change.name: change.verdict for change in changes(old, slower)}
    assert verdicts["latency p50"] == verdicts["latency p90"] == verdicts["failed"] == "worse"
    assert verdicts["met the objective"] == "worse"
    assert verdicts["latency, all of it"] == "worse (p < 0.001)"
    better = {change.name: change.verdict for change in changes(slower, old)}
    assert better["latency p50"] == better["failed"] == better["met the objective"] == "better"


def test_noise_is_rarely_taken_for_a_change() -> None:
    """At a level of 1 %: of two hundred pairs about two."""
    pairs = [(histogram(normal(1, 80, n)), histogram(normal(1, 80, 1000 + n))) for n in range(200)]
    assert sum(mann_whitney(first, second) < 0.01 for first, second in pairs) <= 8
    apart = [
        interval(a, 50)[0] > interval(b, 50)[1] or interval(a, 50)[1] < interval(b, 50)[0] for a, b in pairs
    ]
    assert sum(apart) <= 8


def test_the_u_test_against_values_worked_out_by_hand() -> None:
    # U = 0 of 4 * 4 pairs without ties: z = (8 - 0.5) / sqrt(4 * 4 * 9 / 12)
    p = mann_whitney(histogram([1, 2, 3, 4]), histogram([5, 6, 7, 8]))
    assert p == pytest.approx(math.erfc(7.5 / math.sqrt(12) / math.sqrt(2)), rel=1e-6)
    assert mann_whitney(histogram([1.0] * 5), histogram([1.0] * 7)) == 1.0
    assert interval(histogram([1.0, 2.0]), 50) == (0.0, math.inf)


# -- reports ---------------------------------------------------------------------------------------------


def test_the_text_report() -> None:
    text = text_report(result(normal(1.0, 90, 1), failures=10))
    assert "succeeded     90 (90.0%)\nfailed        10\n" in text
    assert "… 500: <script>" not in text
    assert "10 x 5xx, for example 500: <script>alert(1)</script>" in text
    assert re.search(r"^between tokens +\d", text, re.MULTILINE)
    assert "http://worker-0:1" in text
    assert "latency" not in text_report(result([], failures=1)).partition("failures")[0]


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0 s"), (4e-6, "4 µs"), (0.01234, "12.3 ms"), (0.1234, "123 ms"), (0.9999, "1 s"), (5.678, "5.68 s"),
     (99.4, "99.4 s"), (100.2, "100 s")],
)  # fmt: skip
def test_durations(value: float, text: str) -> None:
    assert duration(value) == text


def test_shares_are_not_rounded_to_nothing_nor_to_all() -> None:
    assert [percent(share) for share in (0, 0.0001, 0.5, 0.9999, 1)] == [
        "0.0%",
        "<0.1%",
        "50.0%",
        ">99.9%",
        "100.0%",
    ]


class Page(HTMLParser):
    """The tags of the page; fails if they do not match or something would be fetched."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert not {"src", "href", "onload"} & {name for name, _ in attrs}
        self.tags.append(tag)
        if tag not in ("meta", "line", "rect", "circle", "polyline") or (tag == "rect"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@pytest.mark.parametrize(
    "made",
    [result(normal(1.0, 300, 1), failures=3), result([0.5]), result([], failures=2), result([])],
    ids=["many", "one", "failures", "nothing"],
)
def test_the_page_is_whole_and_needs_nothing_else(made: Result) -> None:
    text = page(made, result(normal(1.1, 300, 2)))
    parsed = Page()
    parsed.feed(text)
    assert parsed.open == []
    assert "script" not in parsed.tags
    assert "link" not in parsed.tags
    assert parsed.tags.count("svg") >= 3
    assert "@import" not in text
    assert "url(" not in text
    assert "nan" not in re.sub(r"[a-z-]*nan[a-z]+", "", text)
    assert "prefers-color-scheme: dark" in text
    assert "@media print" in text


# -- what is shown meanwhile -----------------------------------------------------------------------------


def test_the_picture_shows_what_goes_on() -> None:
    measurement = Measurement(Objective({}))
    for place in range(12):
        measurement.started()
        measurement.ended(record(1.0, worker=f"http://worker-{place}:1", begin=measurement.begin - 2))
    measurement.started()
    measurement.ended(record(failure=Failure("cut", "x"), begin=measurement.begin))
    measurement.started()
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=100)
    with Picture(PLAN, "load test of any/generate", console) as view:
        view.say("Stopped sending")
        view.show(measurement.glimpse())
    drawn = screen.getvalue()
    for text in (
        "any/generate",
        "14 of 40 sent",
        "truncated response",
        "http://worker-0:1",
        "and 5 more",
        "Stopped",
    ):
        assert text in drawn


def test_lines_where_there_is_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    measurement = Measurement(Objective({}))
    measurement.started()
    measurement.ended(record(1.0, begin=measurement.begin))
    with view_for(PLAN, "title") as view:
        view.show(measurement.glimpse())
    out = capsys.readouterr().out
    assert "sent 1/40  ok 1  failed 0  in flight 0  p50 1 s  p90 1 s  p99 1 s\n" in out
    assert progress_line(Measurement(Objective({})).glimpse(), PLAN).endswith("in flight 0")


def test_sparklines() -> None:
    assert sparkline((0, 7, 14)) == "▁▅█"
    assert sparkline((0, 0)) == "▁▁"
    assert sparkline(()) == ""


# -- options ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "say how much to send: -n COUNT or --duration SECONDS"),
        (["-n", "0"], "0 is not a whole number above 0"),
        (["-n", "x"], "x is not a whole number above 0"),
        (["-n", "1", "-rps", "-3"], "-3 is not a number above 0"),
        (["-n", "1", "-rps", "nan"], "nan is not a number above 0"),
        (["-n", "1", "-rps", "fast"], "fast is not a number above 0"),
        (["--duration", "0"], "0 is not a number above 0"),
        (["--ramp", "1:2"], "1:2 is no ramp; it is FROM:TO:SECONDS, such as 1:50:600"),
        (["--ramp", "0:0:5"], "0:0:5 is no ramp"),
        (["--ramp", "1:2:3", "-rps", "4"], "--ramp says the rate: leave out -rps"),
        (["-n", "1", "--slo", "foo"], "it is like ttft=500ms,total=10s"),
        (["-n", "1", "--slo", "ttft=5"], "the units us, ms, s, m"),
        (["-n", "1", "--max-error-rate", "2"], "from 0 to 1, or from 0% to 100%"),
        (["-n", "1", "--dollars-per-hour", "free"], "free is not a number above 0"),
        (["-n", "1", "--retries", "-1"], "-1 is not a whole number"),
        (["-n", "1", "--concurrency", "2", "-rps", "3"], "--concurrency has no rate: leave out -rps"),
        (["-n", "1", "--concurrency", "9999"], "is more than 8192"),
        (["-n", "1", "-e", "x"], "-k KEY"),
        (["-n", "1", "-k", "x"], "-e NAME"),
        (["-n", "1", "-l", "--autoscaler", "http://x"], "not allowed with"),
        (["-n", "1", "-l", "--worker-url", "http://x"], "leave out -l and --autoscaler"),
        (["-n", "1", "-l", "--auth-data", "x"], "say which with --worker-url URL"),
        (["-n", "1", "-l", "--json", "/no/such/folder/x"], "there is no folder /no/such/folder"),
        (["-n", "1", "-l", "--compare", "/no/such/file"], "cannot be read: No such file or directory"),
        (["-n", "1", "-l", "--payload", "/no/such/file"], "cannot be read: No such file or directory"),
    ],
)
def test_wrong_options_get_one_line(
    argv: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        execute(Question, "/generate", argv)
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ('{"number": 1}\n\n{"number": \n', "line 3: not JSON"),
        ('{"number": 1}\n[2]\n', "line 2: a JSON object is needed"),
        ('{"number": 1}\n{"number": "x"}\n', 'line 2: {"number": '),
        ("{}\n", 'line 1: {"number": "missing parameter"}'),
    ],
)
def test_payload_files_at_fault(
    text: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "mine.jsonl"
    file.write_text(text)
    with pytest.raises(SystemExit, match="2"):
        execute(Question, "/generate", ["-n", "1", "-l", "--payload", str(file)])
    assert f"--payload {file}" in (err := capsys.readouterr().err)
    assert message in err


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x", "is not JSON"),
        ("[]", "is no response of /route/"),
        ('{"request_idx": 1, "status": "waiting"}', "is no response of /route/ with a worker"),
        ('{"url": "http://x", "signature": "s", "reqnum": 1}', "is good for one request"),
    ],
)
def test_auth_data_at_fault(
    text: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "auth.json"
    file.write_text(text)
    with pytest.raises(SystemExit, match="2"):
        execute(Question, "/generate", ["-n", "1", "--worker-url", "http://x", "--auth-data", str(file)])
    assert message in capsys.readouterr().err


def plan(*argv: str) -> Plan:
    parser = make_parser("x")
    return plan_from(parser, parser.parse_args(argv))


def test_plans() -> None:
    assert plan("-n", "5").wanted == "1 rps, constant"
    assert plan("-n", "5", "-rps", "1.5").arrival == "poisson"
    assert plan("-n", "5", "-rps", "9", "--arrival", "constant").arrival == "constant"
    ramp = plan("--ramp", "1:50:600")
    assert (ramp.duration, ramp.count, ramp.wanted) == (600, None, "1 to 50 rps in 600 s, poisson")
    assert plan("--ramp", "1:50:600", "-n", "9").duration == math.inf
    assert plan("-n", "5", "--max-error-rate", "1%").max_error_rate == 0.01


def test_a_workers_package_does_not_need_the_libraries_of_the_load_test() -> None:
    program = (
        "import sys\n"
        "import workers.hello_world.server, workers.hello_world.test_load, pyworker.loadtest\n"
        "print(sorted({'hdrh', 'rich'} & set(sys.modules)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.stdout, done.returncode) == ("[]\n", 0), done.stderr
