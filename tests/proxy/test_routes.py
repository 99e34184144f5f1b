"""What a route may say: methods, path variables, query, headers, open routes, timeouts, priorities."""

from __future__ import annotations

import contextlib
import json
import re
import threading
from collections.abc import Mapping

import pytest

from pyworker.proxy.undeclared import MOST_NAMES
from tests.support.http import Answer, RawClient, ask, next_request_idx, request_bytes
from tests.support.scripted import Act, Deaf, Tell, chunk, head, whole
from tests.support.stack import Stack
from tests.support.waiting import wait_until

JSON = "Content-Type: application/json"
DONE = whole(b'{"ok": true}', JSON)


def signed(plain: Stack, method: str, path: str, headers: Mapping[str, str] | None = None) -> Answer:
    """A request without a body."""
    fields = {"X-Auth-Data": json.dumps(plain.auth_data()), **(headers or {})}
    return ask(plain.url, method, path, headers=fields)


def in_hand(plain: Stack) -> int:
    """How many requests it holds."""
    return ask(plain.url, "GET", "/status").object()["queue"]["requests_in_hand"]


# -- methods, variables, query, headers ------------------------------------------------------------------


@pytest.mark.parametrize("method", ["GET", "DELETE"])
def test_a_request_without_a_body_is_signed_in_its_header(plain: Stack, method: str) -> None:
    plain.model.script("/files/a1", DONE)
    assert signed(plain, method, "/files/a1").object() == {"ok": True}
    received = plain.model.request("/files/a1")
    assert (received.method, received.body, received.header("Content-Type")) == (method, b"", None)
    answer = ask(plain.url, method, "/files/a1")
    assert answer.status == 401
    assert "X-Auth-Data" in answer.object()["error"]


def test_a_response_to_head_is_a_success(plain: Stack) -> None:
    plain.model.script("/files/h1", DONE)
    answer = signed(plain, "HEAD", "/files/h1")
    assert (answer.status, answer.body) == (200, b"")
    request_id = answer.header("X-Request-Id")

    def ended() -> list[str]:
        told = ask(plain.url, "GET", "/status/requests").object()["ended"]
        return [one["outcome"] for one in told if one["request_id"] == request_id]

    wait_until(ended, "its end")
    assert ended() == ["Success"]


@pytest.mark.parametrize("method", ["PUT", "PATCH"])
def test_a_request_with_a_body_comes_in_the_envelope(plain: Stack, method: str) -> None:
    plain.model.script("/files/a1/text", DONE)
    answer = ask(plain.url, method, "/files/a1/text", plain.envelope("hello", max_tokens=3))
    assert answer.object() == {"ok": True}
    received = plain.model.request("/files/a1/text")
    assert (received.method, received.json()) == (method, {"prompt": "hello", "max_tokens": 3})
    answer = ask(plain.url, method, "/files/a1/text", plain.envelope("hello", max_tokens=0))
    assert list(answer.object()["payload"]) == ["max_tokens"]


def test_a_fixed_workload_stands_in_for_a_payload_class(plain: Stack) -> None:
    before = plain.served()
    plain.model.script("/files/a1/copy", DONE)
    assert plain.post("/files/a1/copy", tools=[1]).status == 200
    assert plain.model.request("/files/a1/copy").json() == {"prompt": "hello", "tools": [1]}
    assert plain.served() - before == 7


@pytest.mark.parametrize(
    ("sent", "received"),
    [
        ("/files/a%20b%3Fc%23d", "/files/a%20b%3Fc%23d"),
        ("/files/%E4%BD%A0", "/files/%E4%BD%A0"),
        ("/files/a%253Fb", "/files/a%253Fb"),
        ("/files/a;b=c", "/files/a%3Bb%3Dc"),
        ("/files/..%5C..", "/files/..%5C.."),
        ("/files/a1?b=1&c=%2F..%2f&d", "/files/a1?b=1&c=%2F..%2F&d"),
        ("/files/a1?x=a|b{}%22", "/files/a1?x=a%7Cb%7B%7D%22"),
        ("/trees/a/b%20c/d", "/trees/a/b%20c/d"),
        ("/trees/a/...", "/trees/a/..."),
    ],
)
def test_path_and_query_reach_the_model_server_encoded(plain: Stack, sent: str, received: str) -> None:
    plain.model.script(received, DONE)
    assert signed(plain, "GET", sent).status == 200
    assert [one.path for one in plain.model.requests()] == [received]


@pytest.mark.parametrize(
    "path",
    [
        "/files/..",
        "/files/.",
        "/files/%2e%2e",
        "/files/%2E",
        "/files/a%2fb",
        "/files/..%2fmodels",
        "/files/",
        "/files//",
        "/files/a//copy",
        "/files/%FF",
        "/files/../models",
        "/trees/../models",
        "/trees/a/../b",
        "/trees/%2e%2e/models",
        "/trees/a%2f%2e%2e%2fb",
        "/trees//a",
        "/trees/a//b",
        "/trees/a/",
    ],
)
def test_no_variable_leaves_the_path_of_its_route(plain: Stack, path: str) -> None:
    assert signed(plain, "GET", path).status in (404, 405)
    assert plain.model.requests() == []


def test_only_the_chosen_header_fields_are_passed_on(plain: Stack) -> None:
    plain.model.script("/files/a1", DONE)
    fields = {"Accept-Language": "de, en", "Accept": "text/plain", "Cookie": "a=1", "X-Other": "1"}
    assert signed(plain, "GET", "/files/a1", fields).status == 200
    received = plain.model.request("/files/a1")
    lower = [name.lower() for name, _ in received.headers]
    assert received.header("Accept-Language") == "de, en"
    assert (received.header("Accept"), lower.count("accept")) == ("text/plain", 1)
    assert not {"cookie", "x-other", "x-auth-data"} & set(lower)


def test_no_query_and_no_variable_is_in_a_log_or_a_figure(plain: Stack) -> None:
    plain.model.script("/files/secret-of-path?token=secret-of-query", Act.CLOSE)
    assert signed(plain, "GET", "/files/secret-of-path?token=secret-of-query").status == 502
    said = plain.worker.log + ask(plain.url, "GET", "/metrics").body.decode()
    said += ask(plain.url, "GET", "/status/requests").body.decode()
    assert "/files/<file_id>" in said
    assert "secret-of" not in said


# -- open routes -----------------------------------------------------------------------------------------


def test_an_open_route_needs_no_signature(plain: Stack) -> None:
    plain.model.script("/open", DONE)
    plain.model.script("/free", DONE)
    assert ask(plain.url, "GET", "/open").status == 200
    assert ask(plain.url, "POST", "/free", b'{"prompt": "hi", "max_tokens": 2}').status == 200
    assert plain.model.request("/free").json() == {"prompt": "hi", "max_tokens": 2}
    assert plain.post("/free").status == 200, "in an envelope, too"
    bad = json.loads(plain.envelope())
    bad["auth_data"]["signature"] = "bm8="
    assert ask(plain.url, "POST", "/free", json.dumps(bad).encode()).status == 401, "an envelope is checked"
    assert ask(plain.url, "POST", "/free", b'{"max_tokens": 0}').object()["error"].endswith("max_tokens")


def test_few_open_requests_run_at_once(plain: Stack) -> None:
    go = threading.Event()
    plain.model.script("/open", go, DONE)
    plain.model.script("/models", DONE)
    with contextlib.ExitStack() as closing:
        clients = [closing.enter_context(RawClient(plain.url)) for _ in range(2)]
        for client in clients:
            client.send(request_bytes("GET", "/open", b""))
        plain.model.request("/open", 2)
        refused = ask(plain.url, "GET", "/open")
        assert refused.status == 429
        assert refused.header("Retry-After") == "1"
        assert signed(plain, "GET", "/models").status == 200, "signed ones have places of their own"
        go.set()
        assert [client.answer().status for client in clients] == [200, 200]
    wait_until(lambda: ask(plain.url, "GET", "/open").status == 200, "a free place")


# -- timeout and priority --------------------------------------------------------------------------------


def test_a_route_has_a_timeout_of_its_own(plain: Stack) -> None:
    plain.model.once("/quick", Act.HANG)
    assert plain.post("/quick").status == 504
    plain.model.once("/quick", head("Transfer-Encoding: chunked"), chunk(b"a"), Act.HANG)
    answer = plain.post("/quick")
    assert (answer.status, answer.body, answer.complete) == (200, b"a", False)


def test_higher_priorities_go_first(plain: Stack) -> None:
    go = threading.Event()
    for path in ("/told", "/first-rank", "/last-rank"):
        plain.model.script(path, go, DONE)
    with contextlib.ExitStack() as closing:
        order = ["/told", "/last-rank", "/told", "/first-rank"]
        clients: list[RawClient] = []
        for number, path in enumerate(order):
            clients.append(closing.enter_context(plain.open(path)))
            wait_until(lambda count=number + 1: in_hand(plain) == count, "the request in hand")
        plain.model.request("/told")
        go.set()
        assert [client.answer().status for client in clients] == [200] * 4
    assert [one.path for one in plain.model.requests()] == ["/told", "/first-rank", "/told", "/last-rank"]


# -- a client that has gone ------------------------------------------------------------------------------


@pytest.mark.parametrize("begun", [False, True])
def test_the_model_server_is_told_that_a_client_has_gone(plain: Stack, begun: bool) -> None:
    """The slot of a serial route is held until that has returned."""
    may_end, telling, may_stop = threading.Event(), threading.Event(), threading.Event()
    first = [head("Transfer-Encoding: chunked"), chunk(b"a")] if begun else []
    plain.model.once("/told", *first, Deaf(may_end), Act.CLOSE)
    plain.model.once("/told", DONE)
    plain.model.once("/interrupt", Tell(telling), Deaf(may_stop), DONE)
    gone, waiting = next_request_idx(), next_request_idx()
    with plain.open("/told", "of the one who goes", request_idx=gone) as client:
        plain.model.request("/told")
        if begun:
            assert client.head() == 200
            assert client.chunk() == b"a"
        with plain.open("/told", request_idx=waiting) as other:
            wait_until(lambda: in_hand(plain) == 2, "both in hand")
            client.close()
            assert telling.wait(10)
            assert plain.outcome(gone) == "Cancelled"
            may_end.set()
            assert len(plain.model.requests("/told")) == 1, "the next one waits for the hook"
            may_stop.set()
            assert other.answer().status == 200
    assert [one.json() for one in plain.model.requests("/interrupt")] == [{"of": "of the one who goes"}]


def test_the_model_server_is_told_on_a_parallel_route_too(plain: Stack) -> None:
    plain.model.script("/told-parallel", Act.HANG)
    plain.model.script("/interrupt", DONE)
    with plain.open("/told-parallel", "p"):
        plain.model.request("/told-parallel")
    assert plain.model.request("/interrupt").json() == {"of": "p"}


def test_nothing_is_told_of_a_request_that_only_waited(plain: Stack) -> None:
    go, gone = threading.Event(), next_request_idx()
    plain.model.script("/told", go, DONE)
    with plain.open("/told") as first:
        plain.model.request("/told")
        with plain.open("/told", request_idx=gone):
            wait_until(lambda: in_hand(plain) == 2, "both in hand")
        assert plain.outcome(gone) == "Cancelled"
        go.set()
        assert first.answer().status == 200
    assert plain.model.requests("/interrupt") == []


# -- what a handler gets, and what it returns ------------------------------------------------------------


def test_a_handler_may_look_at_the_payload(plain: Stack) -> None:
    plain.model.script("/looking", DONE)
    assert plain.post("/looking", max_tokens=4).header("X-Max-Tokens") == "4"


def test_a_handler_that_returns_nothing_is_named_in_the_log(plain: Stack) -> None:
    plain.model.script("/forgetful", DONE)
    assert plain.post("/forgetful").status == 500
    plain.worker.wait_for_log("class ForgetfulHandler.generate_client_response returned None: return a flask")


@pytest.mark.parametrize("path", ["/read", "/read/streamed"])
@pytest.mark.parametrize("framing", ["length", "chunks", "zipped"])
def test_a_response_that_was_read_already_is_passed_on(plain: Stack, path: str, framing: str) -> None:
    plain.model.script(
        path,
        *{
            "length": [whole(b'{"a": 1}', JSON)],
            "chunks": [head(JSON, "Transfer-Encoding: chunked"), chunk(b'{"a": '), chunk(b"1}"), chunk(b"")],
            "zipped": [whole(_zipped(b'{"a": 1}'), JSON, "Content-Encoding: gzip")],
        }[framing],
    )
    answer = plain.post(path)
    assert (answer.status, answer.object(), answer.header("Content-Encoding")) == (200, {"a": 1}, None)
    assert answer.header("Content-Length") == "8"


def test_a_response_of_which_nothing_is_left_is_no_empty_answer(plain: Stack) -> None:
    plain.model.script("/read/in-pieces", whole(b'{"a": 1}', JSON))
    assert plain.post("/read/in-pieces").status == 500
    plain.worker.wait_for_log("was taken by iter_content or iter_lines, so it cannot be passed on")


def _zipped(data: bytes) -> bytes:
    import gzip

    return gzip.compress(data)


# -- fields that are not declared ------------------------------------------------------------------------


def post_fields(plain: Stack, fields: Mapping[str, object]) -> Answer:
    body = {"auth_data": plain.auth_data(), "payload": {"prompt": "hello", **fields}}
    return ask(plain.url, "POST", "/declared", json.dumps(body).encode())


def test_fields_that_do_not_reach_the_model_server_are_told_once(plain: Stack) -> None:
    plain.model.script("/declared", DONE)
    for _ in range(3):
        assert post_fields(plain, {"temperature": 0.5, "st\nop\x1b[31m": 1}).status == 200
    assert plain.model.request("/declared").json() == {"prompt": "hello"}
    plain.worker.wait_for_log("the field 'temperature' is not declared in Declared, so it does not reach the")
    assert plain.worker.log.count("'temperature' is not declared") == 1
    assert plain.worker.log.count("the field 'st?op?[31m' is not declared") == 1


def test_few_undeclared_names_are_told(plain: Stack) -> None:
    for number in range(2):
        names: dict[str, object] = {f"name-{number}-{place}-{'x' * 100}": 1 for place in range(50)}
        assert post_fields(plain, names).status == 200
    told = re.findall(r"the field '(.*)' is not declared in Declared", plain.worker.log)
    assert len(told) <= MOST_NAMES
    assert max(map(len, told)) <= 60


# -- views of an author's own ----------------------------------------------------------------------------


def test_a_function_may_make_the_response(plain: Stack) -> None:
    plain.model.script("/first", whole(b'{"a": 1}', JSON))
    plain.model.script("/second", whole(b'{"b": 2}', JSON))
    assert plain.post("/described", max_tokens=5).object() == {"a": 1, "b": 2}


def test_a_counted_view_is_signed_queued_and_counted(plain: Stack) -> None:
    before = plain.served()
    plain.model.script("/first", whole(b'{"a": 1}', JSON))
    request_idx = next_request_idx()
    answer = plain.post("/views/sea", request_idx=request_idx, max_tokens=100)
    assert answer.object() == {"name": "sea", "model": {"a": 1}}
    assert plain.outcome(request_idx) == "Success"
    assert plain.served() - before == 5
    assert ask(plain.url, "POST", "/views/sea", b'{"prompt": "x"}').status == 422
    bad = json.loads(plain.envelope())
    bad["auth_data"]["signature"] = "bm8="
    assert ask(plain.url, "POST", "/views/sea", json.dumps(bad).encode()).status == 401


@pytest.mark.parametrize(("act", "status"), [(Act.CLOSE, 502), (Act.HANG, 504)])
def test_a_view_tells_that_the_model_server_is_down(plain: Stack, act: Act, status: int) -> None:
    plain.model.script("/first", act)
    plain.model.script("/second?secret=1", act)
    request_idx = next_request_idx()
    if act is Act.CLOSE:
        assert plain.post("/views/sea", request_idx=request_idx).status == status
        assert plain.outcome(request_idx) == "Error"
    before = len(plain.worker.log)
    answer = ask(plain.url, "GET", "/plain-view")
    assert (answer.status, "model server" in answer.object()["error"]) == (status, True)
    said = plain.worker.log[before:]
    assert "Traceback" not in said
    assert "secret=1" not in said
