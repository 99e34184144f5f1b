"""Loads as recorded, in bursts, from a scenario; responses that are broken off."""

from __future__ import annotations

import itertools
import json
import statistics
from dataclasses import dataclass
from pathlib import Path

import pytest

from pyworker.data_types import ApiPayload
from pyworker.errors import ConfigError
from pyworker.loadtest import execute
from pyworker.loadtest.arrivals import Rate, due_times
from pyworker.loadtest.parser import expanded, make_parser
from pyworker.loadtest.trace import read_trace
from tests.support.scripted import Act, ScriptedServer, chunk, head, whole
from tests.support.waiting import wait_until


@dataclass
class Text(ApiPayload):
    prompt: str
    max_tokens: int = 1

    @classmethod
    def for_test(cls) -> Text:
        return cls("x")

    def count_workload(self) -> float:
        return 1.0


@pytest.mark.parametrize("burstiness", [0.25, 1.0, 4.0])
def test_bursts_have_the_rate_and_the_spread_they_should(burstiness: float) -> None:
    times = list(due_times(Rate(50, 50), "gamma", count=None, duration=400, seed=1, burstiness=burstiness))
    gaps = [later - earlier for earlier, later in itertools.pairwise(times)]
    assert len(times) == pytest.approx(20_000, rel=0.05)
    # The coefficient of variation of a gamma distribution is one over the root of its shape.
    assert statistics.stdev(gaps) / statistics.mean(gaps) == pytest.approx(burstiness**-0.5, rel=0.05)


# -- traces -----------------------------------------------------------------------------------------------


def test_a_trace_is_replayed_with_its_lengths(scripted_model: ScriptedServer, tmp_path: Path) -> None:
    scripted_model.script("/do", whole(b"{}"))
    trace, made = tmp_path / "mooncake.jsonl", tmp_path / "made.json"
    trace.write_text(
        '{"timestamp": 300, "input_length": 40, "output_length": 7, "hash_ids": [1]}\n'
        '{"at": 0.1, "input_length": 4000, "output_length": 9}\n\n'
        '{"timestamp": 0}\n'
    )
    argv = ["--url", f"{scripted_model.url}/do", "--trace", str(trace), "--json", str(made)]
    assert execute(Text, "/do", [*argv, "--trace-fields", "prompt,max_tokens"]) == 0
    result = json.loads(made.read_text())
    assert (result["sent"], result["wanted"]) == (3, "the times of mooncake.jsonl")
    assert result["sending_seconds"] >= 0.3
    sent = [request.json() for request in scripted_model.requests("/do")]
    assert [(len(one["prompt"].split()), one["max_tokens"]) for one in sent] == [(1, 1), (3000, 9), (30, 7)]
    assert not sent[1]["prompt"].startswith(sent[2]["prompt"][:20])
    assert result["lengths"]["request_bytes"]["largest"] == len(scripted_model.requests("/do")[1].body)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("", "is empty"),
        ("x", "line 1: Invalid JSON"),
        ("{}", "line 1: it has no time"),
        ('{"at": -1}', "line 1: at: "),
        ('{"at": 1, "input_length": 99999999}', "line 1: input_length: "),
    ],
)
def test_traces_at_fault(line: str, message: str, tmp_path: Path) -> None:
    file = tmp_path / "trace.jsonl"
    file.write_text(line)
    with pytest.raises(ConfigError) as caught:
        read_trace(file)
    assert message in str(caught.value)


@pytest.mark.parametrize("fields", ["prompt", "a,b,c", "missing.inner,max_tokens", "prompt.0,max_tokens"])
def test_fields_that_a_payload_does_not_have(
    fields: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "trace.jsonl"
    file.write_text('{"at": 0, "input_length": 1}')
    with pytest.raises(SystemExit, match="2"):
        execute(Text, "/do", ["-l", "--trace", str(file), "--trace-fields", fields])
    assert "--trace-fields" in capsys.readouterr().err


# -- cancelled requests, scenarios --------------------------------------------------------------------------


def test_responses_are_broken_off_as_users_do(scripted_model: ScriptedServer, tmp_path: Path) -> None:
    """Each stream has an end that does not come until its client has gone."""
    script = [head("Content-Type: text/event-stream", "Transfer-Encoding: chunked")]
    script += [chunk(b"data: 1\n\n")] * 3
    scripted_model.script("/do", *script, Act.HANG)
    made = tmp_path / "made.json"
    argv = ["--url", f"{scripted_model.url}/do", "-n", "4", "-rps", "100", "--stream", "--json", str(made)]
    assert execute(Text, "/do", [*argv, "--cancel-share", "1", "--cancel-after", "1e-9"]) == 0
    result = json.loads(made.read_text())
    assert (result["cancelled"], result["succeeded"]) == (4, 4)
    wait_until(
        lambda: all(request.gone.is_set() for request in scripted_model.requests("/do")), "four hang-ups"
    )


def test_a_scenario_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "peak.txt"
    file.write_text("# as on a Monday\n-rps 40 --duration 600\n--slo 'total=10s'  # of all\n")
    parser = make_parser("x")
    assert expanded(parser, ["-l", f"@{file}"]) == [
        "-l", "-rps", "40", "--duration", "600", "--slo", "total=10s",
    ]  # fmt: skip
    file.write_text("--slo 'total")
    for name, message in ((str(file), "is none: No closing quotation"), ("/no/such", "cannot be read")):
        with pytest.raises(SystemExit, match="2"):
            execute(Text, "/do", [f"@{name}"])
        assert message in capsys.readouterr().err
