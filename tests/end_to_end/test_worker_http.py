"""What a worker answers to a client: the table of the wire contract, over raw sockets."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from typing import Any

import pytest

from tests.support.http import Answer, RawClient, ask, next_request_idx, request_bytes
from tests.support.ports import free_port
from tests.support.scripted import chunk, head, whole
from tests.support.stack import ERROR_LINE, MASTER_TOKEN, MAX_BODY, MODEL_API_KEY, NewStack, Stack
from tests.support.waiting import wait_until

MISSING = "missing parameter"


def error_of(answer: Answer) -> str:
    """The message of a JSON error that gives nothing away."""
    message = answer.object()["error"]
    assert isinstance(message, str)
    assert message
    assert "Traceback" not in answer.body.decode()
    return message


# -- good requests ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "headers",
    [
        {"Content-Type": "application/json"},
        {"Content-Type": "text/plain"},
        {"Content-Type": "application/x-www-form-urlencoded"},
        {"Content-Type": "multipart/form-data; boundary=none"},
        {},
    ],
    ids=lambda headers: str(headers.get("Content-Type")),
)
def test_the_content_type_of_a_request_is_not_checked(stack: Stack, headers: dict[str, str]) -> None:
    answer = ask(stack.url, "POST", "/pass", stack.envelope("a prompt"), headers)
    assert answer.status == 200
    assert answer.object() == {"ok": True}
    assert stack.model.request("/pass").json() == {"prompt": "a prompt", "work": 1.0}


def test_unknown_fields_are_ignored(stack: Stack) -> None:
    body = {
        "auth_data": stack.auth_data(colour="red", nested={"a": 1}),
        "payload": {"prompt": "a prompt", "shape": [1, 2]},
        "session_id": None,
        "extra": True,
    }
    assert ask(stack.url, "POST", "/pass", json.dumps(body).encode()).status == 200
    assert stack.model.request("/pass").json() == {"prompt": "a prompt", "work": 1.0}


def test_a_request_body_may_be_chunked(stack: Stack) -> None:
    body = stack.envelope("a prompt in pieces")
    with RawClient(stack.url) as client:
        client.send(b"POST /pass HTTP/1.1\r\nHost: worker\r\nTransfer-Encoding: chunked\r\n\r\n")
        for start in range(0, len(body), 50):
            client.send(chunk(body[start : start + 50]))
        client.send(chunk(b""))
        assert client.answer().status == 200
    assert stack.model.request("/pass").json()["prompt"] == "a prompt in pieces"


def test_a_connection_serves_many_requests(stack: Stack) -> None:
    with RawClient(stack.url) as client:
        for number in range(5):
            client.post("/pass", stack.envelope(str(number)))
            assert client.answer().status == 200
    assert [request.json()["prompt"] for request in stack.model.requests("/pass")] == list("01234")


def test_one_signature_serves_any_number_of_times(stack: Stack) -> None:
    body = stack.envelope(request_idx=next_request_idx())
    assert [ask(stack.url, "POST", "/pass", body).status for _ in range(3)] == [200] * 3


# -- bodies at fault -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"not json",
        b"[]",
        b'"text"',
        b"null",
        b"7",
        b"\xff\xfe",
        b"[" * 5000,
        b'{"a":' * 5000,
        b'{"payload": {}} trailing',
    ],
    ids=lambda body: repr(body[:24]),
)
def test_what_is_no_json_object_is_unprocessable(stack: Stack, body: bytes) -> None:
    answer = ask(stack.url, "POST", "/pass", body)
    assert answer.status == 422
    assert answer.object()["error"].startswith("invalid JSON: ")


def without(body: dict[str, Any], *path: str) -> dict[str, Any]:
    """`body` without the field at `path`."""
    first, *rest = path
    copy = dict(body)
    if rest:
        copy[first] = without(copy[first], *rest)
    else:
        del copy[first]
    return copy


@pytest.mark.parametrize(
    ("missing", "faults"),
    [
        ([("auth_data",)], {"auth_data": "field missing"}),
        ([("payload",)], {"payload": "field missing"}),
        ([("auth_data",), ("payload",)], {"auth_data": "field missing", "payload": "field missing"}),
        ([("auth_data", "signature")], {"auth_data": {"signature": MISSING}}),
        ([("payload", "prompt")], {"payload": {"prompt": MISSING}}),
        (
            [("auth_data", "signature"), ("payload", "prompt")],
            {"auth_data": {"signature": MISSING}, "payload": {"prompt": MISSING}},
        ),
        (
            [("auth_data", "url"), ("auth_data", "cost"), ("payload",)],
            {"auth_data": {"url": MISSING, "cost": MISSING}, "payload": "field missing"},
        ),
    ],
    ids=str,
)
def test_each_missing_field_is_named(
    stack: Stack, missing: list[tuple[str, ...]], faults: dict[str, object]
) -> None:
    body = json.loads(stack.envelope())
    for path in missing:
        body = without(body, *path)
    answer = ask(stack.url, "POST", "/pass", json.dumps(body).encode())
    assert answer.status == 422
    assert error_of(answer)
    assert without(answer.object(), "error") == faults


@pytest.mark.parametrize(
    "change",
    [
        {"reqnum": "7"},
        {"reqnum": True},
        {"reqnum": 2**70},
        {"request_idx": [1]},
        {"request_idx": 1.5},
        {"cost": "much"},
        {"cost": -1},
        {"signature": 7},
        {"url": None},
        {"endpoint": {}},
    ],
    ids=str,
)
def test_a_field_of_a_wrong_type_is_named(stack: Stack, change: dict[str, object]) -> None:
    body = {"auth_data": {**stack.auth_data(), **change}, "payload": {"prompt": "p"}}
    answer = ask(stack.url, "POST", "/pass", json.dumps(body).encode())
    assert answer.status == 422
    assert list(answer.object()["auth_data"]) == list(change)


@pytest.mark.parametrize("work", [-1.0, 1e16, 1e308])
def test_a_workload_that_would_spoil_the_sums_is_refused(stack: Stack, work: float) -> None:
    answer = stack.post("/pass", work=work)
    assert answer.status == 422
    assert "workload must be between" in answer.object()["payload"]
    assert stack.model.requests() == []


@pytest.mark.parametrize("payload", [{"prompt": 7}, {"prompt": None}, {"prompt": ["p"]}], ids=str)
def test_a_wrong_payload_is_refused(stack: Stack, payload: dict[str, object]) -> None:
    body = {"auth_data": stack.auth_data(), "payload": payload}
    answer = ask(stack.url, "POST", "/pass", json.dumps(body).encode())
    assert answer.status == 422
    assert list(answer.object()["payload"]) == ["prompt"]
    assert stack.model.requests("/pass") == []


@pytest.mark.parametrize(
    ("framing", "body"),
    [
        ("Transfer-Encoding: chunked", b"zz\r\nbody\r\n0\r\n\r\n"),
        ("Transfer-Encoding: chunked", b"5\r\ntoo long\r\n0\r\n\r\n"),
        ("Transfer-Encoding: chunked", b"-1\r\n\r\n0\r\n\r\n"),
        ("Content-Length: 5\r\nTransfer-Encoding: chunked", b"5\r\nhello\r\n0\r\n\r\n"),
        ("Content-Length: minus", b"hello"),
        ("Content-Length: 5\r\nContent-Length: 6", b"hello!"),
    ],
    ids=str,
)
def test_broken_framing_is_a_bad_request(stack: Stack, framing: str, body: bytes) -> None:
    with RawClient(stack.url) as client:
        client.send(f"POST /pass HTTP/1.1\r\nHost: worker\r\n{framing}\r\n\r\n".encode() + body)
        answer = client.answer()
        assert answer.status == 400
        assert error_of(answer)
        assert client.rest() == b"", "what follows broken framing must not be taken for a request"
    assert stack.model.requests() == []


@pytest.mark.parametrize("framing", ["length", "chunked"])
def test_a_body_that_ends_early_never_reaches_the_model(stack: Stack, framing: str) -> None:
    body = stack.envelope()
    with RawClient(stack.url) as client:
        if framing == "length":
            client.send(request_bytes("POST", "/pass", body)[:-1])
        else:
            client.send(b"POST /pass HTTP/1.1\r\nHost: worker\r\nTransfer-Encoding: chunked\r\n\r\n")
            client.send(chunk(body))  # without the last one
        client.socket.shutdown(1)
        data = client.rest()
    assert data == b"" or data.startswith(b"HTTP/1.1 400 "), data
    assert stack.post("/json").status == 200
    assert stack.model.requests("/pass") == []


def test_a_body_above_the_limit_is_refused_before_it_arrives(stack: Stack) -> None:
    with RawClient(stack.url) as client:
        client.send(f"POST /pass HTTP/1.1\r\nHost: worker\r\nContent-Length: {MAX_BODY + 1}\r\n\r\n".encode())
        answer = client.answer()  # not one byte of the body was sent
    assert answer.status == 413
    assert error_of(answer)


def test_a_chunked_body_above_the_limit_is_refused(stack: Stack) -> None:
    piece = chunk(b" " * (MAX_BODY // 4))
    with RawClient(stack.url) as client:
        client.send(b"POST /pass HTTP/1.1\r\nHost: worker\r\nTransfer-Encoding: chunked\r\n\r\n")
        client.send(piece * 5)  # more would follow
        answer = client.answer()
    assert answer.status == 413
    assert error_of(answer)


def test_a_body_of_exactly_the_limit_is_served(stack: Stack) -> None:
    body = stack.envelope()
    body += b" " * (MAX_BODY - len(body))
    assert ask(stack.url, "POST", "/pass", body).status == 200


# -- who may -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [
        {"signature": ""},
        {"signature": "bm90IGEgc2lnbmF0dXJl"},
        {"signature": "not base64 at all!"},
        {"signature": "é"},
        {"url": "http://127.0.0.1:9"},
    ],
    ids=str,
)
def test_a_signature_that_does_not_verify_opens_nothing(stack: Stack, change: dict[str, str]) -> None:
    auth_data = stack.auth_data() | change
    body = {"auth_data": auth_data, "payload": {"prompt": "p"}}
    answer = ask(stack.url, "POST", "/pass", json.dumps(body).encode())
    assert answer.status == 401
    assert error_of(answer)
    assert stack.model.requests() == []


def test_a_signature_made_for_another_worker_does_not_open_this_one(stack: Stack) -> None:
    auth_data = stack.auth_data(url=f"http://127.0.0.1:{free_port()}")
    body = {"auth_data": auth_data, "payload": {"prompt": "p"}}
    assert ask(stack.url, "POST", "/pass", json.dumps(body).encode()).status == 401


def test_an_unknown_session_is_gone(stack: Stack) -> None:
    body = {"auth_data": stack.auth_data(), "payload": {"prompt": "p"}, "session_id": "unknown"}
    answer = ask(stack.url, "POST", "/pass", json.dumps(body).encode())
    assert answer.status == 410
    assert answer.object() == {"error": "invalid session"}


def test_forged_requests_are_in_no_report(new_stack: NewStack) -> None:
    stack = new_stack()
    stack.start_ready()
    forged = next_request_idx()
    body = {
        "auth_data": stack.auth_data(request_idx=forged) | {"signature": "bm8="},
        "payload": {"prompt": ""},
    }
    for _ in range(5):
        assert ask(stack.url, "POST", "/pass", json.dumps(body).encode()).status == 401
    good = next_request_idx()
    assert stack.post("/pass", request_idx=good).status == 200
    assert stack.outcome(good) == "Success"
    stack.wait_for_report(lambda report: report["cur_perf"] == 1.0, "the work of one request")
    assert {report["num_requests_recieved"] for report in stack.reports} == {0, 1}
    assert sum(report["new_load"] for report in stack.reports) == 1.0
    assert stack.records(forged) == []


# -- the worker's own routes -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/", 404),
        ("POST", "/nowhere", 404),
        ("GET", "/static/x", 404),
        ("GET", "/pass", 405),
        ("PUT", "/pass", 405),
        ("DELETE", "/stream", 405),
        ("POST", "/ping", 405),
        ("GET", "/pyworker/update", 405),
    ],
)
def test_other_paths_and_methods_are_answered_in_json(
    stack: Stack, method: str, path: str, status: int
) -> None:
    answer = ask(stack.url, method, path)
    assert answer.status == status
    assert error_of(answer)
    if status == 405:
        assert answer.header("Allow")


def test_ping(stack: Stack) -> None:
    answer = ask(stack.url, "GET", "/ping")
    assert (answer.status, answer.body) == (200, b"pong")


def healthcheck(stack: Stack, status: int) -> Answer:
    """The answer with this status, which comes once an earlier one is older than a second."""
    answers: list[Answer] = []

    def is_there() -> bool:
        answers.append(ask(stack.url, "GET", "/healthcheck"))
        return answers[-1].status == status

    wait_until(is_there, f"a health answer with status {status}")
    return answers[-1]


@pytest.mark.parametrize("status", [200, 404, 500])
def test_healthcheck_is_the_model_servers_own(stack: Stack, status: int) -> None:
    stack.model.script(
        "/healthcheck", whole(b'{"gpu":  "warm"}', "Content-Type: text/x-health", status=f"{status} Any")
    )
    answer = healthcheck(stack, status)
    assert (answer.status, answer.body) == (status, b'{"gpu":  "warm"}')
    assert answer.header("Content-Type") == "text/x-health"


def test_healthcheck_follows_no_redirect(stack: Stack) -> None:
    stack.model.script("/healthcheck", head("Location: /pass", "Content-Length: 0", status="302 Found"))
    assert healthcheck(stack, 302).header("Location") is None
    assert stack.model.requests("/pass") == []


def test_healthcheck_without_a_model_server(new_stack: NewStack) -> None:
    stack = new_stack({"MODEL_HEALTH_ENDPOINT": f"http://127.0.0.1:{free_port()}/health"})
    stack.worker.start()
    answer = ask(stack.url, "GET", "/healthcheck")
    assert answer.status == 503
    assert answer.header("Retry-After")
    assert error_of(answer)


@pytest.mark.parametrize(
    "authorization",
    [None, "", "Bearer", "Bearer ", "Bearer wrong", MASTER_TOKEN, f"Basic {MASTER_TOKEN}", "Bearer \xe9"],
    ids=str,
)
def test_update_wants_the_master_token(stack: Stack, authorization: str | None) -> None:
    headers = {} if authorization is None else {"Authorization": authorization}
    answer = ask(stack.url, "POST", "/pyworker/update", b"", headers)
    assert answer.status == 401
    assert error_of(answer)
    assert not (stack.folder / "update").exists()


def test_update_writes_its_flag(stack: Stack) -> None:
    flag = stack.folder / "update"
    try:
        answer = ask(stack.url, "POST", "/pyworker/update", b"", {"Authorization": f"Bearer {MASTER_TOKEN}"})
        assert answer.status == 200
        assert answer.object() == {"ok": True}
        assert flag.exists()
    finally:
        flag.unlink(missing_ok=True)


@pytest.mark.parametrize("authorization", ["Bearer ", "Bearer"])
def test_update_stays_closed_without_a_master_token(new_stack: NewStack, authorization: str) -> None:
    stack = new_stack({"MASTER_TOKEN": ""})
    stack.worker.start()
    answer = ask(stack.url, "POST", "/pyworker/update", b"", {"Authorization": authorization})
    assert answer.status == 401
    assert not (stack.folder / "update").exists()


# -- what must not travel ----------------------------------------------------------------------------------


def test_what_the_client_sends_besides_its_payload_stays_here(stack: Stack) -> None:
    headers = {
        "Authorization": "Bearer the-users-own-key",
        "Cookie": "session=users-cookie",
        "Origin": "http://users-page.example",
        "Referer": "http://users-page.example/private",
        "X-Forwarded-For": "203.0.113.9",
        "X-Custom": "custom",
    }
    path = "/pass?api_key=the-users-own-key"
    assert ask(stack.url, "POST", path, stack.envelope(), headers).status == 200
    request = stack.model.request("/pass")
    assert request.header("Authorization") == f"Bearer {MODEL_API_KEY}"
    for name in ("Cookie", "Origin", "Referer", "X-Forwarded-For", "X-Custom"):
        assert request.header(name) is None, name
    assert "users" not in repr((request.path, request.headers, request.body))
    assert "signature" not in repr(request.body)


def test_secrets_and_prompts_are_not_in_the_workers_log(stack: Stack) -> None:
    mark = f"mark{time.monotonic_ns()}"
    headers = {"Authorization": f"Bearer {mark}", "Cookie": mark, "X-Anything": mark}
    attempts: list[Callable[[], Answer]] = [
        lambda: ask(stack.url, "POST", f"/pass?api_key={mark}", stack.envelope(mark), headers),
        lambda: ask(stack.url, "POST", f"/json?api_key={mark}", stack.envelope(mark), headers),
        lambda: ask(stack.url, "POST", f"/serial/fail?api_key={mark}", stack.envelope(mark), headers),
        lambda: ask(stack.url, "POST", f"/pass?api_key={mark}", f'{{"payload": "{mark}"'.encode(), headers),
        lambda: ask(stack.url, "POST", f"/pass?api_key={mark}", f'{{"payload": "{mark}"}}'.encode(), headers),
        lambda: ask(stack.url, "GET", f"/ping?api_key={mark}", b"", headers),
        lambda: ask(stack.url, "GET", f"/{mark}?api_key={mark}", b"", headers),
        lambda: ask(stack.url, "POST", "/pyworker/update", b"", headers),
        lambda: ask(stack.url, "POST", "/pass", json.dumps({"auth_data": {"url": mark}}).encode()),
        lambda: ask(stack.url, f"{mark}\x01", "/pass"),
        lambda: ask(stack.url, "POST", "/pass", b"", {f"Bad Header {mark}": mark}),
        lambda: ask(stack.url, "POST", f"/pass?{mark * 1000}"),
    ]
    stack.model.once("/json", whole(b"no json"))
    statuses = [attempt().status for attempt in attempts]
    assert statuses == [200, 502, 500, 422, 422, 200, 404, 401, 422, 400, 400, 414]
    # Something that is certainly logged, and after all of it.
    stack.worker.say(f"echo model says the end of {mark[4:]}")
    stack.worker.wait_for_log(f"the end of {mark[4:]}")
    assert mark not in stack.worker.log
    assert MASTER_TOKEN not in stack.worker.log
    assert MODEL_API_KEY not in stack.worker.log
    assert not re.search(r"Bearer|api_key", stack.worker.log)


def test_a_fault_of_the_handler_is_answered_without_its_details(stack: Stack) -> None:
    request_idx = next_request_idx()
    answer = stack.post("/serial/fail", request_idx=request_idx)
    assert answer.status == 500
    assert "fault of the handler" not in error_of(answer)
    assert stack.outcome(request_idx) == "Error"
    assert "a fault of the handler" in stack.worker.log


def test_the_workers_redirects_and_cookies_of_the_model_are_not_followed(stack: Stack) -> None:
    stack.model.script(
        "/pass",
        head("Location: /json", "Set-Cookie: model=1", "Content-Length: 0", status="307 Temporary Redirect"),
    )
    answer = stack.post("/pass")
    assert answer.status == 307
    assert answer.header("Location") == "/json"
    assert stack.model.requests("/json") == []
    assert stack.post("/pass").status == 307
    assert [request.header("Cookie") for request in stack.model.requests("/pass")] == [None, None]


# -- not ready -----------------------------------------------------------------------------------------------


def test_a_worker_that_still_loads_says_so(new_stack: NewStack) -> None:
    stack = new_stack()
    stack.worker.start()
    stack.worker.wait_for_log("fetched the autoscaler's public key")
    answer = stack.post("/pass")
    assert answer.status == 503
    assert answer.header("Retry-After")
    assert "loading" in error_of(answer)
    assert stack.model.requests() == []
    # A forged request learns nothing of the state.
    body = {"auth_data": stack.auth_data() | {"signature": "bm8="}, "payload": {"prompt": "p"}}
    assert ask(stack.url, "POST", "/pass", json.dumps(body).encode()).status == 401


def test_without_the_public_key_nobody_is_served(new_stack: NewStack) -> None:
    stack = new_stack()
    stack.autoscaler.faults.fail_with(500, "/pubkey/", times=10_000)
    stack.keep_benchmark(100.0)
    stack.worker.say("echo model is loaded")
    stack.worker.start()
    stack.worker.wait_for_log("the worker is ready")
    stack.wait_for_next_report(lambda _: True, "a report of a model that is ready")
    assert {(report["max_perf"], report["loadtime"]) for report in stack.reports} == {(0, 0)}, (
        "nobody is sent"
    )
    answer = stack.post("/pass")
    assert answer.status == 503
    assert answer.header("Retry-After")
    assert "public key" in error_of(answer)
    # The key comes late, and without a restart; the report that says ready comes with it.
    stack.autoscaler.faults.clear()
    stack.worker.wait_for_log("fetched the autoscaler's public key")
    assert stack.post("/pass").status == 200
    stack.wait_for_report(
        lambda report: report["max_perf"] == 100 and report["loadtime"] > 0, "a report of a ready worker", 5
    )


def test_a_report_that_was_accepted_brings_the_key(new_stack: NewStack) -> None:
    """Seven tries with their growing pauses would take more than half a minute."""
    stack = new_stack()
    stack.autoscaler.faults.fail_with(500, "/pubkey/", times=7)
    stack.worker.start()
    seen = 0

    def key_is_there() -> bool:
        nonlocal seen
        if len(stack.reports) > seen:  # what changes is reported at once
            seen = len(stack.reports)
            stack.worker.say(f"{ERROR_LINE}: {seen}")
        return "fetched the autoscaler's public key" in stack.worker.log

    wait_until(key_is_there, "the public key")
