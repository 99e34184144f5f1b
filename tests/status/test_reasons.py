"""In each state and for each refusal, /status and /status/requests name the reason."""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping
from typing import Any

import pytest

from pyworker.local.signing import first_message
from tests.support.http import Answer, RawClient, ask
from tests.support.scripted import Act, ScriptedServer, Step, whole
from tests.support.stack import API_KEY, ERROR_LINE, INFO_LINE, LOADED_LINE, MAX_BODY, NewStack, Stack
from tests.support.waiting import wait_until

JSON = "Content-Type: application/json"
GOOD = whole(b"{}", JSON)
SICK = whole(b"no", status="503 Service Unavailable")


def status(stack: Stack) -> Mapping[str, Any]:
    return ask(stack.url, "GET", "/status").object()


def wait_for(stack: Stack, state: str, awaited: str) -> Mapping[str, Any]:
    """Until the worker is in this state and waits for this; returns the status."""
    found: list[Mapping[str, Any]] = []

    def is_so() -> bool:
        found.append(status(stack))
        return found[-1]["state"] == state and awaited in found[-1]["waits_for"]

    wait_until(is_so, f"{state}, waiting for {awaited!r}")
    return found[-1]


# -- states ----------------------------------------------------------------------------------------------


def test_a_start_by_the_log_names_each_phase(new_stack: NewStack) -> None:
    stack = new_stack({"MODEL_READY_TIMEOUT": "20"})
    stack.worker.start()
    missing = wait_for(stack, "loading", "model.log, which does not exist")
    assert repr(LOADED_LINE) in missing["waits_for"]
    assert (missing["last_phrase"], missing["log_silent_seconds"]) == (None, None)

    stack.worker.say(f"{INFO_LINE} 10 %")
    silent = wait_for(stack, "loading", f"last: '{INFO_LINE} 10 %'")
    assert silent["last_model_lines"] == [f"{INFO_LINE} 10 %"]
    assert silent["last_phrase"]["action"] == "Info"
    assert silent["log_silent_seconds"] >= 0

    refused = ask(stack.url, "POST", "/pass", stack.envelope())
    wait_until(stack.checks_signatures, "the public key")
    refused = ask(stack.url, "POST", "/pass", stack.envelope())
    assert refused.status == 503
    assert reason_of(stack, refused) == "the worker cannot serve now: loading"

    stack.worker.say(f"{ERROR_LINE}: no memory")
    errored = wait_for(stack, "errored", repr(LOADED_LINE))
    assert errored["error"] == f"{ERROR_LINE}: no memory"
    assert errored["last_phrase"]["line"] == f"{ERROR_LINE}: no memory"

    stack.model.script("/benchmark", whole(b"no", status="500 Internal Server Error"))
    stack.worker.say(LOADED_LINE)
    failed = wait_for(stack, "errored", "the next try of the benchmark, 5 s after the last one")
    assert "/benchmark" in failed["error"]
    assert "500" in failed["error"]
    assert failed["can_serve"] is False


def test_a_loaded_line_of_an_earlier_start_waits_for_the_model_server(new_stack: NewStack) -> None:
    with ScriptedServer(listening=False) as late:
        stack = new_stack({"MODEL_SERVER_URL": late.url})
        stack.worker.say(LOADED_LINE)
        stack.worker.start()
        loading = wait_for(stack, "loading", "the model server has to confirm it")
        assert "not seen" not in loading["waits_for"]
        stack.worker.stop()


def test_a_start_by_health_names_each_phase_and_the_drain_what_is_left(new_stack: NewStack) -> None:
    stack = new_stack(
        {"MODEL_HEALTH_ENDPOINT": "/health", "MODEL_READINESS": "either", "HEALTH_FAILURES": "1"}
    )
    stack.keep_benchmark(1000.0)
    stack.model.script("/health", SICK)
    stack.worker.start()
    loading = wait_for(stack, "loading", "its last answer: ")
    assert "/health" in loading["waits_for"]
    assert "503" in loading["health_problem"]

    stack.worker.say(LOADED_LINE)
    refusing = wait_for(stack, "benchmarking", "the health of the model server: ")
    assert "503" in refusing["waits_for"]

    stack.model.script("/health", GOOD)
    stack.wait_ready()
    assert status(stack)["waits_for"] == ""

    gate = threading.Event()
    stack.model.script("/pass", gate, GOOD)
    with stack.open("/pass") as client:
        stack.model.request("/pass")
        stack.model.script("/health", SICK)
        stack.worker.say(ERROR_LINE)
        errored = wait_for(stack, "errored", "a health check that succeeds; the last one: ")
        assert "503" in errored["error"]
        assert ERROR_LINE in errored["error"]
        # New connections are refused during a drain, but a request that has begun is read.
        with RawClient(stack.url) as kept:
            kept.send(b"GET /status HTTP/1.1\r\n")
            stack.worker.terminate()
            stack.wait_draining()
            kept.send(b"Host: worker\r\n\r\n")
            draining = kept.answer().object()
        assert draining["state"] == "draining"
        assert draining["waits_for"].startswith("1 request")
        gate.set()
        assert client.answer().status == 200
    stack.worker.wait()


def test_without_the_public_key_it_is_ready_in_vain(new_stack: NewStack) -> None:
    stack = new_stack({"REPORT_ADDR": "http://127.0.0.1:1"})
    stack.keep_benchmark(1000.0)
    stack.worker.say(LOADED_LINE)
    stack.worker.start()
    ready = wait_for(stack, "ready", "the autoscaler's public key has not been fetched yet")
    assert ready["can_serve"] is False
    answer = ask(stack.url, "POST", "/pass", stack.envelope())
    assert answer.status == 503
    assert "public key" in reason_of(stack, answer)
    assert [(one["status"], one["count"]) for one in status(stack)["last_refusals"]] == [(503, 1)]


def test_settings_that_are_not_valid_are_named(new_stack: NewStack) -> None:
    stack = new_stack({"MODEL_TIMEOUT": "soon", "LOG_FORMAT": "xml"})
    stack.worker.launch()
    assert stack.worker.wait() != 0
    assert "MODEL_TIMEOUT='soon' is not valid" in stack.worker.log
    assert "LOG_FORMAT='xml' is not valid" in stack.worker.log


# -- refusals and failures -------------------------------------------------------------------------------


def record_of(stack: Stack, answer: Answer) -> Mapping[str, Any]:
    """The record of the request with this answer."""
    name = answer.header("X-Request-Id")
    found: list[Mapping[str, Any]] = []

    def is_there() -> bool:
        told = ask(stack.url, "GET", "/status/requests").object()
        found[:] = [one for one in (*told["ended"], *told["refused"]) if one["request_id"] == name]
        return bool(found)

    wait_until(is_there, "the record")
    assert found[0]["status"] == answer.status
    return found[0]


def reason_of(stack: Stack, answer: Answer) -> str:
    return str(record_of(stack, answer)["reason"])


def sent(stack: Stack, path: str = "/pass", *, session: str = "", **auth: object) -> Answer:
    body: dict[str, object] = {"auth_data": stack.auth_data(**auth), "payload": {"prompt": "x"}}
    if session:
        body["session_id"] = session
    return ask(stack.url, "POST", path, json.dumps(body).encode())


def test_each_refusal_is_told_with_its_reason(stack: Stack) -> None:
    message = first_message(cost=1.0, endpoint="echo", reqnum=1, url=stack.url)
    once = stack.autoscaler.signer.sign(message)
    assert sent(stack, signature=once).status == 200
    gate = threading.Event()
    stack.model.script("/serial/limited", gate, GOOD)
    with stack.open("/serial/limited", work=1e6) as first:
        stack.model.request("/serial/limited")
        busy = stack.post("/serial/limited", work=1e6)
        gate.set()
        assert first.answer().status == 200
    cases = [
        (sent(stack, signature=once), 401, "this signature was used before"),
        (sent(stack, signature="AAAA"), 401, "the signature does not verify"),
        (sent(stack, url="http://elsewhere"), 401, "the signature was made for the URL of another worker"),
        (ask(stack.url, "POST", "/pass", b"{"), 422, "invalid JSON: "),
        (ask(stack.url, "POST", "/pass", b"{}"), 422, "invalid request: auth_data, payload"),
        (sent(stack, session="unknown"), 410, "invalid session"),
        (stack.post("/pass", work=-1.0), 422, "invalid request: payload"),
        (busy, 429, "too busy: the estimated wait of 1000.0 s is above the limit of 2 s"),
        (
            ask(stack.url, "POST", "/pass", b"x", {"Content-Encoding": "gzip"}),
            415,
            "content coding",
        ),
        (ask(stack.url, "POST", "/pass", b"x" * (MAX_BODY + 1)), 413, str(MAX_BODY)),
    ]
    for answer, code, reason in cases:
        assert answer.status == code, answer
        assert reason in reason_of(stack, answer)
    told = {one["status"]: one for one in status(stack)["last_refusals"]}
    assert {401, 410, 413, 415, 422} <= told.keys()
    assert told[410]["reason"] == "invalid session"


@pytest.mark.parametrize(
    ("script", "code", "reason"),
    [
        ((Act.RESET,), 502, "the model server reset the connection before its response"),
        ((b"garbage\r\n\r\n",), 502, "the model server's response is malformed"),
        ((SICK,), 503, "the model server's response has status 503"),
        ((whole(b"no", status="400 Bad Request"),), 400, "the model server's response has status 400"),
    ],
    ids=["reset", "garbage", "busy", "refused"],
)
def test_each_failure_of_the_model_server_is_told(
    stack: Stack, script: tuple[Step, ...], code: int, reason: str
) -> None:
    stack.model.once("/pass", *script)
    answer = stack.post("/pass")
    assert answer.status == code
    assert reason in reason_of(stack, answer)


def test_an_error_object_with_status_200_is_told(stack: Stack) -> None:
    stack.model.once("/judged", whole(b'{"error": "secret"}', JSON))
    answer = stack.post("/judged")
    assert reason_of(stack, answer) == "the model server's response tells of an error"


def test_a_request_that_waited_too_long_is_told(stack: Stack) -> None:
    gate = threading.Event()
    stack.model.script("/serial/limited", gate, GOOD)
    with stack.open("/serial/limited") as first:
        stack.model.request("/serial/limited")
        answer = stack.post("/serial/limited")
        assert answer.status == 429
        assert reason_of(stack, answer) == "too busy: waited 2 s in the queue, which is the limit"
        assert record_of(stack, answer)["outcome"] == "Rejected"
        gate.set()
        assert first.answer().status == 200


def test_a_model_server_that_is_silent_and_a_wrong_key_are_told(plain: Stack) -> None:
    plain.model.once("/chat", Act.HANG)
    headers = {"Authorization": f"Bearer {API_KEY}"}
    body = json.dumps({"prompt": "x"}).encode()
    late = ask(plain.url, "POST", "/chat", body, headers)
    assert late.status == 504
    assert "answer in time" in reason_of(plain, late)
    wrong = ask(plain.url, "POST", "/chat", body, {"Authorization": "Bearer wrong-key"})
    assert wrong.status == 401
    assert reason_of(plain, wrong) == "the API key is not known to this worker"
