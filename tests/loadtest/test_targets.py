"""The load test against any URL, and the worker compared with its model server."""

from __future__ import annotations

import csv
import json
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from pyworker.client import Client
from pyworker.data_types import ApiPayload
from pyworker.loadtest import command, execute
from pyworker.loadtest.own_figures import own_figures
from tests.support.in_process import InProcessWorker
from tests.support.process import ROOT
from tests.support.scripted import Act, ScriptedServer, whole
from tests.support.timed_worker import TimedWorker
from tests.support.waiting import DEADLINE


@dataclass
class Text(ApiPayload):
    prompt: str

    @classmethod
    def for_test(cls) -> Text:
        return cls("x")

    def count_workload(self) -> float:
        return 1.0

    def generate_payload_json(self) -> dict[str, object]:
        return {"inputs": self.prompt}


def test_any_url_gets_a_bare_body(
    scripted_model: ScriptedServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = "/v1/do?token=a-secret-in-the-query"
    scripted_model.script(path, whole(b"{}"))
    url = scripted_model.url + path
    argv = ["--url", url, "-n", "3", "-rps", "100"]
    assert execute(Text("x"), "/generate", [*argv, "--body", '{"prompt": "a"}', "-k", "my-key"]) == 0
    assert "3 of 3 to " in (out := capsys.readouterr().out)
    assert "secret" not in out

    scripted_model.script(path, Act.CLOSE)
    assert execute(Text("x"), "/generate", [*argv, "--body", "{}", "--html", str(tmp_path / "x.html")]) == 1
    assert "/v1/do…: the connection" in (out := capsys.readouterr().out)
    assert "secret" not in out + (tmp_path / "x.html").read_text()
    scripted_model.script(path, whole(b"{}"))
    [first, *_] = scripted_model.requests(path)
    assert (first.body, first.header("authorization")) == (b'{"prompt": "a"}', "Bearer my-key")

    file = tmp_path / "any.jsonl"
    file.write_text('{"of": "no payload class"}\n')
    assert execute(Text("x"), "/generate", [*argv, "--payload", str(file)]) == 0
    last = scripted_model.requests(path)[-1]
    assert (json.loads(last.body), last.header("authorization")) == ({"of": "no payload class"}, None)


def test_without_a_worker_the_options_say_what_is_sent(
    scripted_model: ScriptedServer, capsys: pytest.CaptureFixture[str]
) -> None:
    scripted_model.script("/do", whole(b"{}"))
    url = f"{scripted_model.url}/do"

    def run(*argv: str) -> subprocess.CompletedProcess[str]:
        program = [sys.executable, "-m", "pyworker.loadtest", "-n", "2", "-rps", "100", *argv]
        return subprocess.run(
            program, cwd=ROOT, capture_output=True, text=True, timeout=DEADLINE, check=False
        )

    assert "-w NAME is needed, or --url URL" in run("-l").stderr
    with pytest.raises(SystemExit, match="2"):
        command.execute(command.Target(None, "/", "/", None), ["--url", url, "-n", "1"])
    assert "say what to send: -w NAME" in capsys.readouterr().err
    done = run("--url", url, "--body", '{"a": 1}')
    assert (done.returncode, len(scripted_model.requests("/do"))) == (0, 2), done.stderr


def test_a_route_has_payloads_of_its_own(scripted_model: ScriptedServer) -> None:
    """Though the worker has a `test_load`, which is of another route."""
    program = [sys.executable, "-m", "pyworker.loadtest", "-w", "openai", "--url", f"{scripted_model.url}/do"]
    done = subprocess.run(
        [*program, "--route", "/v1/chat/completions", "-n", "1"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    [sent] = [request.json() for request in scripted_model.requests("/do")]
    assert (sent["messages"][0]["role"], sent["max_tokens"]) == ("user", 500)


def test_the_worker_is_compared_with_its_model_server(
    tmp_path: Path, scripted_model: ScriptedServer, capsys: pytest.CaptureFixture[str]
) -> None:
    """And what the worker says itself stands beside the figures of the client."""
    with InProcessWorker(tmp_path, scripted_model.url, "http://127.0.0.1:9") as worker:
        argv = ["--worker-url", worker.url, "--route", "/pass", "-n", "20", "-rps", "50"]
        argv += ["--compare", scripted_model.url, "-k", "for-nobody-else", "--html", str(tmp_path / "x.html")]
        assert execute(Text, "/pass", argv) == 0
    out = capsys.readouterr().out
    alone, through = scripted_model.requests("/pass")[:20], scripted_model.requests("/pass")[20:]
    assert [json.loads(request.body) for request in alone] == [{"inputs": "x"}] * 20
    assert len(through) == 20
    assert not any(request.header("authorization") for request in alone)
    [line] = [line for line in out.splitlines() if line.startswith("the worker costs: ")]
    assert re.fullmatch(
        r"the worker costs: latency p50 [+-]\S+ \S+ \(.*\), latency p99 .*, "
        r"throughput \S+ times that of the model server alone",
        line,
    )
    [own] = [line for line in out.splitlines() if line.startswith("by the worker")]
    assert f"{worker.url}, its last minute: 20 Success" in own
    assert "Compared with" in (tmp_path / "x.html").read_text()


def test_only_the_named_worker_gets_the_token(tmp_path: Path, scripted_model: ScriptedServer) -> None:
    with (
        InProcessWorker(tmp_path, scripted_model.url, "http://127.0.0.1:9") as worker,
        Client.of_worker("http://127.0.0.1:9") as client,
    ):
        [own] = own_figures(client, None, [worker.url, "http://203.0.113.7:1"], "secret")
        assert (own.url, own.trouble, own.outcomes) == (worker.url, "", {})
        scripted_model.script("/status", whole(b"[]"))
        [own] = own_figures(client, scripted_model.url, [], "secret")
        assert own.trouble == "it has no /status of a worker"
        scripted_model.script("/status", whole(b"no", status="404 Not Found"))
        assert own_figures(client, scripted_model.url, [], "secret")[0].trouble == "/status answered 404"
        assert scripted_model.requests("/status")[0].header("authorization") == "Bearer secret"
        assert own_figures(client, "http://203.0.113.7:1", [], "") == []


def test_a_test_stops_after_some_errors(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    with TimedWorker() as worker:
        worker.status = 500
        file = tmp_path / "x.csv"
        argv = [
            "--worker-url",
            worker.url,
            "-n",
            "1000",
            "-rps",
            "40",
            "--max-errors",
            "3",
            "--csv",
            str(file),
        ]
        assert execute(Text, "/generate", [*argv, "--objective", "errors=5%", "--csv", str(file)]) == 1
    out = capsys.readouterr().out
    assert re.search(r"^Stopped after \d+ failures", out, re.MULTILINE)
    assert "errors=5%     100.0% missed it: fails" in out
    rows = list(csv.DictReader(file.read_text().splitlines()))
    assert 3 <= len(rows) < 100
    assert {row["good"] for row in rows} == {"0"}
    assert {row["worker"] for row in rows} == {worker.url}
