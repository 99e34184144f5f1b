"""What a worker tells of itself: in each state, of each refusal, and nothing that is a secret."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Mapping
from typing import Any

import pytest

from pyworker.status.views import is_local
from tests.support.http import Answer, RawClient, ask, next_request_idx, request_bytes
from tests.support.scripted import Act, chunk, head, whole
from tests.support.stack import (
    ERROR_LINE,
    LOADED_LINE,
    MASTER_TOKEN,
    MAX_BODY,
    MODEL_API_KEY,
    NewStack,
    Stack,
)
from tests.support.waiting import wait_until

JSON = "Content-Type: application/json"
TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def status(stack: Stack) -> Mapping[str, Any]:
    answer = ask(stack.url, "GET", "/status")
    assert answer.status == 200, answer
    return answer.object()


def probe(stack: Stack, name: str) -> tuple[int, str]:
    answer = ask(stack.url, "GET", name)
    return answer.status, answer.object().get("reason", "")


def records(stack: Stack, kind: str = "ended") -> list[dict[str, Any]]:
    return ask(stack.url, "GET", "/status/requests").object()[kind]


# -- states ----------------------------------------------------------------------------------------------


def test_each_state_says_what_it_waits_for(new_stack: NewStack) -> None:
    stack = new_stack()
    gate = threading.Event()
    stack.model.script("/benchmark", gate, whole(b"{}", JSON))
    stack.worker.start()

    loading = status(stack)
    assert loading["state"] == "loading"
    assert repr(LOADED_LINE) in loading["waits_for"]
    assert str(stack.folder) in loading["waits_for"]
    assert probe(stack, "/readyz") == (503, "loading")
    assert probe(stack, "/startupz") == (503, "loading")
    assert ask(stack.url, "GET", "/livez").status == 200

    stack.worker.say("a line that says nothing")
    wait_until(lambda: "a line that says nothing" in status(stack)["waits_for"], "the last line of the log")

    stack.worker.say(LOADED_LINE)
    stack.model.request("/benchmark")
    benchmarking = status(stack)
    assert benchmarking["state"] == "benchmarking"
    assert benchmarking["waits_for"] == "the first response of the model server"
    gate.set()

    stack.wait_ready()
    ready = status(stack)
    assert (ready["state"], ready["waits_for"], ready["can_serve"]) == ("ready", "", True)
    assert [phase["state"] for phase in ready["phases"]] == ["loading", "benchmarking", "ready"]
    assert ready["benchmark"]["throughput"] > 0
    assert ready["autoscaler"]["problem"] == ""
    assert ready["settings"]["MODEL_SERVER_URL"] == stack.model.url
    assert probe(stack, "/readyz") == (200, "")

    stack.worker.say(ERROR_LINE)
    wait_until(lambda: status(stack)["state"] == "errored", "the error")
    assert ERROR_LINE in status(stack)["error"]
    code, reason = probe(stack, "/readyz")
    assert code == 503
    assert ERROR_LINE in reason
    assert probe(stack, "/startupz") == (200, ""), "it was ready once"


def test_a_round_of_the_benchmark_is_named(new_stack: NewStack) -> None:
    stack = new_stack()
    gate = threading.Event()
    stack.model.once("/benchmark", whole(b"{}", JSON))
    stack.model.script("/benchmark", gate, whole(b"{}", JSON))
    stack.worker.start()
    stack.worker.say(LOADED_LINE)
    stack.model.request("/benchmark", 2)
    assert status(stack)["waits_for"] == "round 1 of 2 of the benchmark"
    gate.set()
    stack.wait_ready()


def test_an_autoscaler_that_refuses_reports_is_seen(new_stack: NewStack) -> None:
    stack = new_stack({"REPORT_ADDR": "http://127.0.0.1:1"})
    stack.worker.start()
    wait_until(lambda: status(stack)["autoscaler"]["failures"] > 0, "a report that failed")
    assert status(stack)["autoscaler"]["problem"]
    assert "public key" in probe(stack, "/readyz")[1] or probe(stack, "/readyz")[1] == "loading"


def test_requests_in_hand_are_told_until_the_drain(new_stack: NewStack) -> None:
    stack = new_stack()
    stack.start_ready()
    gate = threading.Event()
    stack.model.script("/pass", gate, whole(b"{}", JSON))
    with stack.open("/pass") as client, stack.open("/pass") as other:
        stack.model.request("/pass", 2)
        assert status(stack)["queue"]["requests_running"] == 2
        stack.worker.terminate()
        stack.wait_draining()
        gate.set()
        assert client.answer().status == other.answer().status == 200
    stack.worker.wait()


# -- requests --------------------------------------------------------------------------------------------


def test_a_request_has_an_id_everywhere(stack: Stack) -> None:
    body = stack.envelope()
    answer = ask(stack.url, "POST", "/pass", body, {"X-Request-Id": "of-the-client/1", "traceparent": TRACE})
    assert answer.header("X-Request-Id") == "of-the-client/1"
    request = stack.model.request("/pass")
    assert request.header("X-Request-Id") == "of-the-client/1"
    assert request.header("traceparent") == TRACE
    wait_until(lambda: any(one["request_id"] == "of-the-client/1" for one in records(stack)), "its record")


@pytest.mark.parametrize("given", ["", "a b", "a" * 129, 'a"b', "ü"])
def test_an_id_that_could_do_harm_is_replaced(stack: Stack, given: str) -> None:
    answers = [ask(stack.url, "GET", "/ping", headers={"X-Request-Id": given}) for _ in range(2)]
    ids = [answer.header("X-Request-Id") for answer in answers]
    assert ids[0] != ids[1]
    assert all(re.fullmatch(r"[0-9a-f]{12}-[0-9a-f]+", one or "") for one in ids)


def test_a_traceparent_that_is_none_stays_here(stack: Stack) -> None:
    assert ask(stack.url, "POST", "/pass", stack.envelope(), {"traceparent": "zz"}).status == 200
    assert stack.model.request("/pass").header("traceparent") is None


def timing(answer: Answer) -> dict[str, float]:
    header = answer.header("Server-Timing") or ""
    return {name: float(value) for name, value in re.findall(r"(\w+);dur=([0-9.]+)", header)}


@pytest.mark.parametrize("path", ["/pass", "/stream", "/serial"])
def test_the_parts_of_server_timing_add_up(stack: Stack, path: str) -> None:
    parts = timing(stack.post(path))
    assert set(parts) == {"auth", "queue", "first", "total"}
    assert parts["auth"] + parts["queue"] + parts["first"] == pytest.approx(parts["total"], rel=0.05)


def test_a_response_without_a_request_to_the_model_has_no_parts(stack: Stack) -> None:
    assert ask(stack.url, "GET", "/ping").header("Server-Timing") is None


def test_the_record_of_a_request(stack: Stack) -> None:
    stack.model.once("/stream", head("Transfer-Encoding: chunked"), chunk(b"x"), Act.CLOSE)
    cut, good = next_request_idx(), next_request_idx()
    stack.post("/stream", request_idx=cut, work=5.0)
    stack.post("/pass", request_idx=good, work=7.0)

    def found() -> dict[int, dict[str, Any]]:
        return {one["request_idx"]: one for one in records(stack) if one["request_idx"] in (cut, good)}

    wait_until(lambda: len(found()) == 2, "both records")
    of_good, of_cut = found()[good], found()[cut]
    assert (of_good["status"], of_good["outcome"], of_good["reason"]) == (200, "Success", "")
    assert (of_good["route"], of_good["workload"], of_good["work"]) == ("/pass", 7.0, 7.0)
    assert (of_cut["outcome"], of_cut["work"]) == ("Error", 0.0)
    assert "broke off" in of_cut["reason"]
    assert 0 <= of_good["first_byte"] <= of_good["total"]


def test_a_client_that_hangs_up_is_recorded_as_such(stack: Stack) -> None:
    stack.model.once("/pass", Act.HANG)
    request_idx = next_request_idx()
    with stack.open("/pass", request_idx=request_idx):
        stack.model.request("/pass")
    assert stack.outcome(request_idx) == "Cancelled"
    wait_until(lambda: any(one["request_idx"] == request_idx for one in records(stack)), "its record")
    [found] = [one for one in records(stack) if one["request_idx"] == request_idx]
    assert (found["status"], found["reason"], found["outcome"]) == (499, "the client hung up", "Cancelled")


def test_a_refusal_is_found_with_its_reason(stack: Stack) -> None:
    forged = {"auth_data": stack.auth_data(signature="AAAA"), "payload": {"prompt": "x"}}
    answers = [
        ask(stack.url, "POST", "/pass", json.dumps(forged).encode()),
        ask(stack.url, "POST", "/pass", b"{"),
    ]
    ids = {answer.header("X-Request-Id"): answer for answer in answers}
    found = {one["request_id"]: one for one in records(stack, "refused") if one["request_id"] in ids}
    for request_id, answer in ids.items():
        assert found[request_id or ""]["status"] == answer.status
        assert found[request_id or ""]["reason"] == answer.object()["error"]
    assert status(stack)["last_minute"]["refused_by_status"]["401"] >= 1


def test_metrics_are_told_to_prometheus(stack: Stack) -> None:
    stack.post("/pass")

    def lines() -> list[str]:
        return ask(stack.url, "GET", "/metrics").body.decode().splitlines()

    wait_until(lambda: any(line.startswith("pyworker_requests_total{") for line in lines()), "a request")
    assert "pyworker_ready 1.0" in lines()
    assert "pyworker_num_requests_waiting 0.0" in lines()


def series(stack: Stack, name: str) -> float:
    lines = ask(stack.url, "GET", "/metrics").body.decode().splitlines()
    return next((float(line.split()[-1]) for line in lines if line.startswith(name)), 0.0)


def test_a_stream_that_tells_no_tokens_counts_by_its_events(stack: Stack) -> None:
    name = "pyworker_inter_token_latency_seconds_count"
    before = series(stack, name), series(stack, "pyworker_generation_tokens_total")
    events = [chunk(b"data: {}\n\n")] * 4
    content_type = "Content-Type: text/event-stream"
    stack.model.once("/judged/stream", head(content_type, "Transfer-Encoding: chunked"), *events, chunk(b""))
    assert stack.post("/judged/stream").status == 200
    wait_until(lambda: series(stack, name) == before[0] + 3, "three steps between four events")
    assert series(stack, "pyworker_generation_tokens_total") == before[1]


@pytest.mark.parametrize(
    ("path", "body", "reason"),
    [
        ("/pass", b"{", "invalid"),
        ("/pass", b"x" * (MAX_BODY + 1), "too_large"),
        ("/pass", json.dumps({"auth_data": {}, "payload": {}}).encode(), "invalid"),
    ],
)
def test_a_refusal_is_counted_by_its_reason(stack: Stack, path: str, body: bytes, reason: str) -> None:
    name = f'pyworker_requests_shed_total{{reason="{reason}"}}'
    before = series(stack, name)
    assert ask(stack.url, "POST", path, body).status in (413, 422)
    wait_until(lambda: series(stack, name) == before + 1, reason)


# -- who may ask -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("address", "local"),
    [
        ("127.0.0.1", True),
        ("127.8.9.1", True),
        ("::1", True),
        ("::ffff:127.0.0.1", True),
        ("203.0.113.7", False),
        ("::ffff:203.0.113.7", False),
        ("", False),
        (None, False),
        ("localhost", False),
    ],
)
def test_who_is_on_this_machine(address: str | None, local: bool) -> None:
    assert is_local(address) is local


def test_secrets_and_prompts_are_told_to_nobody(stack: Stack) -> None:
    prompt = "a prompt that nobody may see"
    key = "sk-of-the-client"
    body = stack.envelope(prompt)
    with_key = {"Authorization": f"Bearer {key}"}
    assert ask(stack.url, "POST", f"/pass?api_key={key}", body, with_key).status == 200
    ask(stack.url, "POST", f"/pass?api_key={key}", body[:-1], with_key)
    stack.model.once("/pass", b"garbage\r\n\r\n")
    stack.post("/pass", prompt)
    told = b"".join(ask(stack.url, "GET", path).body for path in ("/status", "/status/requests", "/metrics"))
    signature = stack.auth_data()["signature"]
    for secret in (prompt, key, MASTER_TOKEN, MODEL_API_KEY, signature):
        assert secret.encode() not in told
        assert secret not in stack.worker.log


def test_it_answers_while_every_request_waits(stack: Stack) -> None:
    gate = threading.Event()
    stack.model.script("/serial", gate, whole(b"{}", JSON))
    clients = [stack.open("/serial") for _ in range(40)]
    try:
        wait_until(lambda: status(stack)["queue"]["requests_in_hand"] == 40, "all of them")
        queue = status(stack)["queue"]
        assert (queue["requests_running"], queue["requests_waiting"]) == (1, 39)
        gate.set()
        assert [client.answer().status for client in clients] == [200] * 40
    finally:
        for client in clients:
            client.close()


def test_a_request_over_a_kept_connection_has_an_id_of_its_own(stack: Stack) -> None:
    with RawClient(stack.url) as client:
        ids: list[str | None] = []
        for _ in range(2):
            client.send(request_bytes("POST", "/pass", stack.envelope()))
            ids.append(client.answer().header("X-Request-Id"))
    assert len(set(ids)) == 2
