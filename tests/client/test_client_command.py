"""`python -m pyworker.client` and `python -m pyworker.loadtest` with a worker that is a single server.py."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from tests.support.process import ROOT
from tests.support.scripted import chunk, head, whole
from tests.support.stack import API_KEY, Stack
from tests.support.waiting import DEADLINE

WORKER = "tests.support.plain_worker"
JSON = "Content-Type: application/json"


def run(module: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", module, "-w", WORKER, *arguments],
        cwd=ROOT,
        env=os.environ | {"PYTHONIOENCODING": "utf-8"},
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=False,
    )


def by_autoscaler(plain: Stack) -> tuple[str, ...]:
    return ("--autoscaler", plain.autoscaler.url, "-k", "any", "-e", "echo")


def test_the_request_of_its_benchmark_is_sent(plain: Stack) -> None:
    plain.model.script("/pass", whole(b'{"text": "all"}', JSON))
    done = run("pyworker.client", *by_autoscaler(plain))
    assert (done.returncode, done.stdout, done.stderr) == (0, '{"text": "all"}\n', "")
    assert plain.model.request("/pass").json() == {"prompt": "of the benchmark", "max_tokens": 10}


def test_a_request_of_ones_own_is_streamed_from_another_route(plain: Stack) -> None:
    events = head("Content-Type: text/event-stream", "Transfer-Encoding: chunked")
    plain.model.script("/chat", events, chunk(b"data: 1\n\n"), chunk(b"data: 2\n\n"), chunk(b""))
    sent = {"prompt": "x", "max_tokens": 3}
    arguments = ("--route", "/chat", "--payload", json.dumps(sent), "--stream")
    done = run("pyworker.client", "--openai", plain.url, "-k", API_KEY, *arguments)
    assert (done.returncode, done.stdout, done.stderr) == (0, "1\n2\n\n", "")
    assert plain.model.request("/chat").json() == sent


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--payload", "{"], "--payload is not JSON"),
        (["--payload", "[1]"], "--payload must be a JSON object"),
        (["--payload", '{"max_tokens": 0}'], '--payload: {"max_tokens": "Input should be greater'),
        (["--route", "/models"], "has no route /models that takes a payload"),
        (["-w", "nothing_here"], "there is no worker 'nothing_here'; workers here: auto, comfyui"),
        ([], "an API key is needed"),
    ],
)
def test_wrong_usage(arguments: list[str], told: str) -> None:
    done = run("pyworker.client", *arguments)
    assert done.returncode == 2
    assert told in done.stderr


def test_a_load_test_sends_the_requests_of_the_benchmark(plain: Stack) -> None:
    plain.model.script("/pass", whole(b'{"text": "all"}', JSON))
    done = run("pyworker.loadtest", *by_autoscaler(plain), "-n", "5", "-rps", "100")
    assert (done.returncode, done.stderr) == (0, "")
    assert "succeeded     5 (100.0%)\n" in done.stdout
    assert {one.json()["prompt"] for one in plain.model.requests("/pass")} == {"of the benchmark"}


def test_a_load_test_of_another_route_needs_payloads(plain: Stack) -> None:
    done = run("pyworker.loadtest", *by_autoscaler(plain), "-n", "5", "--route", "/files/<file_id>/copy")
    assert done.returncode == 2
    assert "AnyPayload has no for_test: write one, or give its route a benchmark payload" in done.stderr
    assert "or send payloads of your own with --payload FILE.jsonl" in done.stderr
