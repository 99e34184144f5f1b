"""A smoke run of the benchmark, without the network: this worker and the bare model server."""

from __future__ import annotations

import shutil
from pathlib import Path
from xml.etree import ElementTree

import pytest

from pyworker.errors import ConfigError
from tests.benchmarks import figures, plot, report, scenarios
from tests.benchmarks.figures import Result
from tests.benchmarks.measure import Measurement, Options
from tests.benchmarks.programs import compile_programs
from tests.benchmarks.scenarios import Load, Scenario
from tests.benchmarks.servers import Bare, Hello, OpenAI, Ours

needs_compiler = pytest.mark.skipif(shutil.which("cc") is None, reason="cc is not here")

SHORT = (
    Scenario("requests-8", "requests", [Load(8)]),
    Scenario("requests-new", "connections", [Load(2, new_connections=True)]),
    Scenario("streams-64", "streams", [Load(8, "/stream", tokens=5, gap_ms=10)]),
    Scenario("request-1mb", "large requests", [Load(1, prompt_bytes=10**6)]),
    Scenario("response-1mb", "large responses", [Load(1, response_bytes=10**6)]),
    Scenario("mix", "both", [Load(4, "/stream", tokens=5, gap_ms=10), Load(2)]),
)


@needs_compiler
@pytest.mark.timeout(180)
def test_every_figure_comes_out(tmp_path: Path) -> None:
    said: list[str] = []
    programs = compile_programs(tmp_path / "build")
    todo = [*SHORT, *([SHORT[2].over_tls()] if programs.speaks_tls else [])]
    servers = {"bare": Bare.where_plain, "ours": Ours}
    results = Measurement(programs, servers, tmp_path, Options(rounds=1, seconds=0.6), said.append).run(todo)
    assert [result.scenario for result in results] == [scenario.name for scenario in todo]
    for result in results:
        for server in result.rounds:
            assert result.median(server, "errors") == 0
            assert (result.median(server, figures.MEMORY) or 0) > 1
    measured = {
        result.scenario: {kind.name for kind in figures.KINDS if result.median("ours", kind.name) is not None}
        for result in results
    }
    latencies = {"requests_per_s", "p50_ms", "p99_ms"}
    first = {"first_request_p50_ms", "first_request_p99_ms"}
    tokens = {"first_token_p50_ms", "first_token_p99_ms", "token_p50_ms", "token_p99_ms"}
    always = {"errors", figures.MEMORY}
    assert measured["requests-8"] == latencies | first | always | {"cpu_ms_per_request"}
    assert measured["requests-new"] == latencies | always | {"cpu_ms_per_request"}
    assert measured["streams-64"] == tokens | always | {"cpu_ms_per_1000_tokens"}
    assert measured["mix"] == latencies | first | tokens | always
    if programs.speaks_tls:
        assert measured["streams-64-tls"] == measured["streams-64"]
    assert any("requests/s" in line for line in said)


@needs_compiler
@pytest.mark.timeout(120)
def test_the_openai_worker_is_measured_on_its_own_route(tmp_path: Path) -> None:
    programs = compile_programs(tmp_path / "build")
    servers = {"hello": Hello, "openai": OpenAI}
    options = Options(rounds=1, seconds=1.0)
    results = Measurement(programs, servers, tmp_path, options, lambda _: None).run([SHORT[0], SHORT[2]])
    for result in results:
        assert result.median("openai", "errors") == result.median("hello", "errors") == 0
    assert results[0].median("openai", "requests_per_s")
    assert results[1].ratio("cpu_ms_per_1000_tokens", "openai", "hello")


def test_ratios_are_of_each_round() -> None:
    result = Result(
        "requests-64", {"ours": [{"p99_ms": 1.0}] * 2, "peer": [{"p99_ms": 4.0}, {"p99_ms": 8.0}]}
    )
    assert result.ratio("p99_ms") == 0.1875
    assert result.ratio("p50_ms") is None
    assert result.ratio("p99_ms", to="nginx") is None
    [verdict] = report.verdicts([result])
    assert (verdict.target.figure, verdict.value, verdict.reached) == ("p99_ms", 0.1875, True)
    assert any("| 0.19 | reached |" in line for line in report.targets_table([result]))
    ElementTree.fromstring(plot.svg([result]))


def test_figures_over_tls_are_held_against_the_plain_ones() -> None:
    plain = Result("requests-64", {"ours": [{"p99_ms": 1.0}], "peer": [{"p99_ms": 4.0}]})
    slower = Result("requests-64-tls", {"ours": [{"p99_ms": 2.0}], "peer": [{"p99_ms": 4.0}]})
    assert [verdict.value for verdict in report.verdicts([plain, slower])] == [0.25, 2.0]
    assert [verdict.reached for verdict in report.verdicts([plain, slower])] == [True, False]


def test_scenarios_are_chosen_by_patterns() -> None:
    assert [one.name for one in scenarios.chosen(["mix", "streams-64*"])] == [
        *("streams-64", "mix", "streams-64-tls")
    ]
    with pytest.raises(ConfigError, match="'streams-7'"):
        scenarios.chosen(["streams-7"])
