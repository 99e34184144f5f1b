"""The worker of templates that run the service's wrapper around ComfyUI."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

from pyworker.registry import known_workers, load_worker
from tests.support.http import ask, next_request_idx
from tests.support.process import ROOT
from tests.support.scripted import whole
from tests.support.stack import NewStack, Stack

APP = "pyworker:create_app('comfyui-json')"
PROCESS_SECONDS = 60
JSON = "Content-Type: application/json"
COMPLETED = json.dumps({"id": "r", "status": "completed", "output": []}).encode()


def start(new_stack: NewStack) -> Stack:
    """Ready, with a benchmark of its own."""
    stack: Stack = new_stack(None, APP)
    stack.model.script("/generate/sync", whole(COMPLETED, JSON))
    stack.worker.say("BACKENDS_READY")
    stack.worker.start()
    stack.wait_for_report(lambda report: report["max_perf"] > 0, "a report of a ready worker")
    return stack


def ask_for(stack: Stack, payload: dict[str, Any], request_idx: int | None = None) -> Any:
    idx = next_request_idx() if request_idx is None else request_idx
    body = {"auth_data": stack.auth_data(request_idx=idx), "payload": payload}
    return ask(stack.url, "POST", "/generate/sync", json.dumps(body).encode())


def test_a_folder_with_a_dash_is_a_worker() -> None:
    assert "comfyui-json" in known_workers()
    module = load_worker("comfyui-json")
    assert module is load_worker("workers.comfyui-json")
    assert module.__name__ == "workers.comfyui-json.server"


@pytest.mark.parametrize("program", ["server", "client", "test_load"])
def test_its_programs_run_by_name(program: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", f"workers.comfyui-json.{program}", "--help"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=PROCESS_SECONDS,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "usage: " in done.stdout


def test_requests_are_passed_on_as_they_are(new_stack: NewStack) -> None:
    stack = start(new_stack)
    benchmark = [request.json() for request in stack.model.requests("/generate/sync")]
    drawn = {body["input"]["workflow_json"]["3"]["inputs"]["seed"] for body in benchmark}
    assert len(drawn) == len(benchmark) == 3
    stack.model.forget_requests()
    payload = {"input": {"modifier": "x", "modifications": {"a": [1.5, None]}, "s3": {"b": "c"}}, "more": 1}
    request_idx = next_request_idx()
    answer = ask_for(stack, payload, request_idx)
    assert (answer.status, answer.body) == (200, COMPLETED)
    assert stack.model.request("/generate/sync").json() == payload
    assert stack.outcome(request_idx) == "Success"
    stack.wait_for_report(lambda _: sum(report["cur_perf"] for report in stack.reports) == 100, "its work")
    told = ask_for(stack, {"input": "a text"})
    assert (told.status, told.object()["payload"]) == (422, {"input": "must be an object"})


def test_its_errors_are_passed_on(new_stack: NewStack) -> None:
    stack = start(new_stack)
    request_idx = next_request_idx()
    stack.model.once("/generate/sync", whole(b'{"detail": "bad"}', JSON, status="422 No"))
    assert ask_for(stack, {"input": {}}, request_idx).status == 422
    assert stack.outcome(request_idx) == "Success"
    request_idx = next_request_idx()
    failed = json.dumps({"id": "r", "status": "failed", "message": "no", "output": []}).encode()
    stack.model.once("/generate/sync", whole(failed, JSON))
    assert ask_for(stack, {"input": {}}, request_idx).body == failed
    assert stack.outcome(request_idx) == "Error"


def test_a_wrapper_that_gives_up_is_told(new_stack: NewStack) -> None:
    stack: Stack = new_stack(None, APP)
    stack.model.script("/health", whole(b"no backend", status="503 Service Unavailable"))
    stack.worker.start()
    stack.worker.wait_for_log("fetched the autoscaler's public key")
    stack.worker.say("ERROR BACKENDS_READY_TIMEOUT after 600 s")
    stack.wait_for_report(lambda report: "BACKENDS_READY_TIMEOUT" in report["error_msg"], "the error")
