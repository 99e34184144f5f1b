"""The HTTP of sessions, against a real worker: each code and each body of the wire contract's section 7."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.support.dripping import DRIPS, Dripping
from tests.support.http import Answer, RawClient, ask
from tests.support.ports import free_port
from tests.support.scripted import Act, ScriptedServer, chunk, head, whole
from tests.support.stack import LOADED_LINE, MODEL_API_KEY, NewStack, Stack
from tests.support.waiting import wait_until

Create = Callable[..., "Open"]


class Open:
    """A session as its client knows it."""

    def __init__(self, stack: Stack, auth: dict[str, Any], response: Answer) -> None:
        self.stack = stack
        self.auth = auth
        self.request_idx = int(auth["request_idx"])
        self.id = str(response.object()["session_id"])
        self.expiration = float(response.object()["expiration"])

    def ask(self, what: str, **changes: object) -> Answer:
        body = {"session_id": self.id, "session_auth": self.auth, **changes}
        return ask(self.stack.url, "POST", f"/session/{what}", json.dumps(body).encode())

    def request_body(self, prompt: str = "hello", **payload: object) -> bytes:
        payload = {"prompt": prompt, **payload}
        return json.dumps({"auth_data": self.auth, "payload": payload, "session_id": self.id}).encode()

    def post(self, path: str, prompt: str = "hello", **payload: object) -> Answer:
        return ask(self.stack.url, "POST", path, self.request_body(prompt, **payload))


def attempt(stack: Stack, auth: object, payload: object) -> Answer:
    body = json.dumps({"auth_data": auth, "payload": payload}).encode()
    return ask(stack.url, "POST", "/session/create", body)


def create(stack: Stack, *, cost: float = 1.0, **payload: object) -> Open:
    auth = stack.auth_data(cost=cost, extra={"kept": [1]})
    response = attempt(stack, auth, payload)
    assert response.status == 201, response
    assert set(response.object()) == {"session_id", "expiration"}
    return Open(stack, auth, response)


@pytest.fixture
def opened(stack: Stack) -> Iterator[Create]:
    """Makes sessions that the test need not end."""
    made: list[Open] = []

    def make(**options: Any) -> Open:
        made.append(create(stack, **options))
        return made[-1]

    yield make
    for session in made:
        session.ask("end")


# -- create ----------------------------------------------------------------------------------------------


def test_the_life_of_a_session(stack: Stack, opened: Create) -> None:
    before = time.time()
    session = opened(lifetime=30, on_close_route="/done", on_close_payload={"job": 7}, cost=5.0)
    assert before + 29 < session.expiration < time.time() + 31
    stack.wait_in_hand(1)
    stack.wait_for_report(
        lambda report: report["working_request_idxs"] == [session.request_idx] and report["cur_load"] == 5,
        "the session as a request in hand",
    )

    known = session.ask("get")
    assert known.status == 200
    body = known.object()
    assert abs(body.pop("expiration") - session.expiration) < 1
    assert before - 1 < body.pop("created_at") < time.time() + 1
    assert body == {
        "session_id": session.id,
        "auth_data": session.auth,
        "lifetime": 30,
        "on_close_route": "/done",
        "on_close_payload": {"job": 7},
    }
    assert session.ask("health").object() == {"ok": True}

    assert session.post("/pass", "in a session").object() == {"ok": True}
    assert stack.model.request("/pass").json()["prompt"] == "in a session"
    assert stack.records(session.request_idx) == []

    ended = session.ask("end")
    assert ended.status == 200
    assert ended.object() == {"ended": True, "removed_session": session.id}
    callback = stack.model.request("/done")
    assert callback.json() == {"job": 7, "session_id": session.id}
    assert stack.outcome(session.request_idx) == "Success"
    stack.wait_in_hand(0)

    after = session.ask("end")
    assert (after.status, after.object()) == (410, {"error": "session_id: the session is already closed"})
    assert session.ask("get").status == 400
    assert session.ask("health").object() == {"ok": False}
    late = session.post("/pass")
    assert (late.status, late.object()) == (410, {"error": "invalid session"})


def test_what_a_session_has_by_default(opened: Create) -> None:
    known = opened().ask("get").object()
    assert (known["lifetime"], known["on_close_route"], known["on_close_payload"]) == (60, None, None)
    known = opened(on_close_route=None, on_close_payload=None, lifetime=0.5, colour="red").ask("get").object()
    assert (known["lifetime"], known["on_close_route"], known["on_close_payload"]) == (0.5, None, None)


#: What is no loopback address, or would be another host's for another parser.
FOREIGN = [
    "http://10.0.0.1/x",
    "http://128.0.0.1/x",
    "http://127.0.0.1.evil.example/x",
    "http://127.0.0.999/x",
    "http://127.1/x",
    "http://2130706433/x",
    "http://0x7f.0.0.1/x",
    "http://127.0.0.1@evil.example/x",
    "http://user@127.0.0.1/x",
    "http://evil.example#@127.0.0.1/x",
    "http://127.0.0.1\\@evil.example/x",
    "http://127.0.0.1 /x",
    "http://127.0.0.1\r\nX: y/",
    "http://127.0.0.1:0/x",
    "http://127.0.0.1:65536/x",
    "http://127.0.0.1:/x",
    "http://127.0.0.1?x",
    "http://localhost.evil.example/x",
    "http://localhost./x",
    "http://[::1]evil/x",
    "http://[::2]/x",
    "http://[::ffff:10.0.0.1]/x",
    "http://0.0.0.0/x",
    "http:///x",
    "http:/127.0.0.1/x",
    "ftp://127.0.0.1/x",
    "file:///etc/passwd",
    "http://\uff11\uff12\uff17.0.0.1/x",
    "http://127." + "0" * 100_000,
]


@pytest.mark.parametrize(
    ("payload", "field"),
    [
        ({"lifetime": 0}, "lifetime"),
        ({"lifetime": -1}, "lifetime"),
        ({"lifetime": 604800.5}, "lifetime"),
        ({"lifetime": 10**400}, "lifetime"),
        ({"lifetime": float("nan")}, None),
        ({"lifetime": float("inf")}, None),
        ({"lifetime": "60"}, "lifetime"),
        ({"lifetime": True}, "lifetime"),
        ({"lifetime": None}, "lifetime"),
        ({"lifetime": [1]}, "lifetime"),
        ({"on_close_route": "http://elsewhere/x"}, "on_close_route"),
        ({"on_close_route": "//elsewhere/x"}, "on_close_route"),
        ({"on_close_route": "done"}, "on_close_route"),
        ({"on_close_route": ""}, "on_close_route"),
        ({"on_close_route": "/a b"}, "on_close_route"),
        ({"on_close_route": "/a\r\nHost: x"}, "on_close_route"),
        ({"on_close_route": 7}, "on_close_route"),
        *(({"on_close_route": url}, "on_close_route") for url in FOREIGN),
        ({"on_close_payload": "text"}, "on_close_payload"),
        ({"on_close_payload": [1]}, "on_close_payload"),
    ],
    ids=lambda value: str(value)[:60],
)
def test_bad_terms_are_422_and_named(stack: Stack, payload: dict[str, object], field: str | None) -> None:
    response = attempt(stack, stack.auth_data(), payload)
    assert response.status == 422, response
    assert response.object()["error"]
    if field is not None:
        assert list(response.object()["payload"]) == [field]


def test_create_needs_a_good_signature(stack: Stack) -> None:
    forged = stack.auth_data(signature="Zm9yZ2Vk")
    assert attempt(stack, forged, {}).status == 401
    foreign = stack.auth_data(url="http://203.0.113.7:1")
    assert attempt(stack, foreign, {}).status == 401
    assert stack.records(forged["request_idx"]) == stack.records(foreign["request_idx"]) == []


def test_create_wants_an_envelope(stack: Stack) -> None:
    response = ask(stack.url, "POST", "/session/create", b"{}")
    assert response.status == 422
    assert response.object()["auth_data"] == response.object()["payload"] == "field missing"
    response = ask(stack.url, "POST", "/session/create", b"[" * 1000)
    assert response.status == 422
    assert response.object()["error"].startswith("invalid JSON: recursion limit exceeded at line 1 column ")
    assert ask(stack.url, "POST", "/session/create", b" " * (2**20 + 1)).status == 413
    assert ask(stack.url, "GET", "/session/create").status == 405


def test_at_most_so_many_sessions(new_stack: NewStack) -> None:
    stack = new_stack({"MAX_SESSIONS": "2"})
    stack.start_ready()
    first, _ = create(stack), create(stack)
    auth = stack.auth_data()

    refused = attempt(stack, auth, {})
    assert refused.status == 429
    assert int(refused.header("Retry-After") or 0) >= 1
    assert refused.object() == {"error": "too busy: 2 sessions are open already", "open_sessions": 2}
    assert stack.outcome(auth["request_idx"]) == "Rejected"
    # Whoever is in no session is served as ever.
    assert stack.post("/pass").status == 200

    assert first.ask("end").status == 200
    assert attempt(stack, auth, {}).status == 201


def test_a_worker_that_is_not_ready_opens_no_session(new_stack: NewStack) -> None:
    stack = new_stack()
    stack.keep_benchmark(100.0)
    stack.worker.start()
    wait_until(lambda: attempt(stack, stack.auth_data(), {}).status == 503, "a refusal")
    # An expired session stays 410 whatever the worker's state: its client would ask for ever.
    body = {"auth_data": stack.auth_data(), "payload": {"prompt": ""}, "session_id": "gone"}

    def gone() -> bool:
        return ask(stack.url, "POST", "/pass", json.dumps(body).encode()).status == 410

    wait_until(gone, "the public key")
    refused = attempt(stack, stack.auth_data(), {})
    assert refused.status == 503
    assert refused.object() == {"error": "the worker cannot serve now: loading"}
    assert refused.header("Retry-After")
    stack.worker.say(LOADED_LINE)
    stack.wait_ready()
    create(stack)


# -- get, health, end ------------------------------------------------------------------------------------


@pytest.mark.parametrize("route", ["get", "health", "end"])
def test_what_a_session_is_asked_with(stack: Stack, opened: Create, route: str) -> None:
    session = opened()
    url = f"/session/{route}"
    for body in (b"", b"no json", b"[]", b'"text"', b"7", b"{" * 5000, b'{"session_id": NaN}'):
        response = ask(stack.url, "POST", url, body)
        assert response.status == 422, body
        assert response.object()["error"].startswith("invalid JSON: "), body
    for body, fault in (
        ({}, "missing parameter"),
        ({"session_auth": session.auth}, "missing parameter"),
        ({"session_id": 7, "session_auth": session.auth}, "Input should be a valid string"),
        ({"session_id": None}, "Input should be a valid string"),
    ):
        response = ask(stack.url, "POST", url, json.dumps(body).encode())
        assert (response.status, response.object()["session_id"]) == (422, fault)
    wrong: list[object] = [
        None,
        "text",
        [],
        {},
        {**session.auth, "signature": "x"},
        {**session.auth, "request_idx": session.request_idx + 1},
        {**session.auth, "cost": "2"},
        {key: value for key, value in session.auth.items() if key != "signature"},
    ]
    for auth in wrong:
        response = session.ask(route, session_auth=auth)
        assert response.status == 401, auth
        assert response.object() == {
            "error": "session_auth: not the auth_data that this session was created with"
        }
    assert session.ask("health").object() == {"ok": True}


def test_a_session_that_never_was(stack: Stack, opened: Create) -> None:
    session = opened()
    for route in ("get", "end"):
        response = session.ask(route, session_id="never")
        assert (response.status, response.object()) == (400, {"error": "session_id: no such session"})
    assert session.ask("health", session_id="never").object() == {"ok": False}


# -- requests in a session -------------------------------------------------------------------------------


def test_a_session_belongs_to_its_auth_data(stack: Stack, opened: Create) -> None:
    session = opened()
    stranger = stack.auth_data()
    body = {"auth_data": stranger, "payload": {"prompt": "x"}, "session_id": session.id}
    response = ask(stack.url, "POST", "/pass", json.dumps(body).encode())
    assert (response.status, response.object()) == (410, {"error": "invalid session"})
    body["auth_data"] = stack.auth_data(signature="Zm9yZ2Vk")
    assert ask(stack.url, "POST", "/pass", json.dumps(body).encode()).status == 401
    assert stack.model.requests("/pass") == []


def test_a_request_extends_its_session_and_expiry_is_at_once(stack: Stack) -> None:
    session = create(stack, lifetime=1.0, on_close_route="/expired")
    while time.time() < session.expiration + 0.5:
        began = time.time()
        assert session.post("/pass").status == 200
        extended = session.ask("get").object()["expiration"]
        assert began + 0.9 < extended < time.time() + 1.1
    callback = stack.model.request("/expired")
    assert callback.json() == {"session_id": session.id}
    assert session.post("/pass").status == 410
    assert session.ask("end").status == 410
    assert stack.outcome(session.request_idx) == "Success"


@pytest.mark.parametrize("end", ["end", "expiry"])
def test_the_end_of_a_session_cancels_its_requests(stack: Stack, end: str) -> None:
    stack.model.script("/pass", Act.HANG)
    stack.model.script("/stream", head("Transfer-Encoding: chunked"), chunk(b"one"), Act.HANG)
    stack.model.script("/serial", Act.HANG)
    session = create(stack, lifetime=2.0 if end == "expiry" else 60.0)
    with (
        RawClient(stack.url) as waiting,
        RawClient(stack.url) as streaming,
        RawClient(stack.url) as queued,
        stack.open("/serial", "of somebody else") as other,
    ):
        stack.model.request("/serial")
        queued.post("/serial", session.request_body("queued"))
        waiting.post("/pass", session.request_body("waiting"))
        streaming.post("/stream", session.request_body("streaming"))
        assert streaming.head() == 200
        assert streaming.chunk() == b"one"
        called = stack.model.request("/pass")
        stack.wait_for_report(lambda report: report["cur_load"] == 5, "five units in hand")
        if end == "end":
            assert session.ask("end").status == 200

        for client in (waiting, queued):
            response = client.answer()
            assert (response.status, response.object()) == (410, {"error": "invalid session"})
        assert not streaming.rest().endswith(b"0\r\n\r\n"), "a cut stream looks complete"
        assert called.gone.wait(5), "the model still works in vain"
        assert stack.model.request("/stream").gone.wait(5)
        # The request that is in no session goes on.
        assert not stack.model.request("/serial").gone.is_set()
        other.reset()
    assert stack.outcome(session.request_idx) == "Success"
    assert [request.json()["prompt"] for request in stack.model.requests("/serial")] == ["of somebody else"]
    stack.wait_in_hand(0)


def test_figures_of_a_session(new_stack: NewStack) -> None:
    stack = new_stack()
    stack.start_ready()
    session = create(stack, cost=3.0)
    for _ in range(4):
        assert session.post("/pass", work=10.0).status == 200
    assert session.ask("end").status == 200
    stack.wait_for_report(
        lambda _: sum(report["cur_perf"] for report in stack.reports) > 42, "the workload served"
    )
    reports = stack.reports
    assert sum(report["new_load"] for report in reports) == pytest.approx(43)
    assert sum(report["cur_perf"] for report in reports) == pytest.approx(43)
    assert max(report["num_requests_working"] for report in reports) <= 1
    assert stack.outcome(session.request_idx) == "Success"


# -- callbacks -------------------------------------------------------------------------------------------


def test_a_callback_that_fails_harms_nobody(stack: Stack, opened: Create) -> None:
    slow = opened(on_close_route="/slow")
    stack.model.script("/slow", Act.HANG)
    broken = opened(on_close_route="/broken?with=query")
    stack.model.script("/broken?with=query", whole(b"no", status="500 Internal Server Error"))
    began = time.monotonic()
    assert slow.ask("end").status == broken.ask("end").status == 200
    assert time.monotonic() - began < 5, "the client waits for the callback"
    # One after the other: the second comes when the first has had its ten seconds.
    stack.model.request("/slow")
    stack.model.wait_for(lambda: stack.model.requests("/broken?with=query"), "the next callback", 20)
    assert 9 < time.monotonic() - began < 15
    stack.worker.wait_for_log("session callback: status 500")
    assert "with=query" not in stack.worker.log
    assert stack.post("/pass").status == 200


def test_a_callback_may_go_to_another_server_of_this_machine(stack: Stack, opened: Create) -> None:
    with ScriptedServer() as other:
        local = other.url.replace("127.0.0.1", "localhost")
        sessions = {
            "/ip": opened(on_close_route=f"{other.url}/ip", on_close_payload={"job": 7}),
            "/name?with=query": opened(on_close_route=f"{local}/name?with=query"),
        }
        other.script("/ip", whole(b"", "Location: http://127.0.0.1:1/", status="302 Found"))
        for session in sessions.values():
            assert session.ask("end").status == 200
        received = other.request("/ip")
        assert received.json() == {"job": 7, "session_id": sessions["/ip"].id}
        assert received.header("Authorization") is None, "the key of the model server is for that alone"
        assert other.request("/name?with=query").json() == {"session_id": sessions["/name?with=query"].id}
        stack.worker.wait_for_log("session callback: status 302")
    gone = opened(on_close_route=f"{other.url}/gone")
    assert gone.ask("end").status == 200
    stack.worker.wait_for_log("session callback failed: ConnectionError")
    assert "with=query" not in stack.worker.log
    # The model server's own URL is what its paths are: with its key, over its pool.
    own = opened(on_close_route=f"{stack.model.url}/own")
    assert own.ask("end").status == 200
    assert stack.model.request("/own").header("Authorization") == f"Bearer {MODEL_API_KEY}"
    for url in ("http://127.8.9.10/x", "https://[::1]:8/x", "HTTP://LOCALHOST/x", "http://127.0.0.1"):
        assert opened(on_close_route=url).ask("end").status == 200


def test_a_callback_that_drips_is_given_up(stack: Stack, opened: Create) -> None:
    with Dripping(DRIPS["header block"]) as dripping:
        session = opened(on_close_route=f"{dripping.url}/x")
        began = time.monotonic()
        assert session.ask("end").status == 200
        stack.worker.wait_for_log("session callback: no response within 10 s")
        assert time.monotonic() - began < 15


def test_without_a_limit_any_number_of_sessions_may_be_open(new_stack: NewStack) -> None:
    port = free_port()
    stack = new_stack({"MAX_SESSIONS": "0", "WORKER_HTTP_PORT": str(port)})
    stack.start_ready()
    sessions = [create(stack) for _ in range(30)]
    # The model server can end them as ever.
    for session in sessions:
        body = {"session_id": session.id, "session_auth": session.auth}
        response = ask(f"http://127.0.0.1:{port}", "POST", "/session/end", json.dumps(body).encode())
        assert response.status == 200


def test_the_end_of_the_worker_ends_its_sessions(new_stack: NewStack) -> None:
    stack = new_stack({"DRAIN_TIMEOUT": "1"})
    stack.start_ready()
    session = create(stack, on_close_route="/over", lifetime=600)
    stack.worker.terminate()
    assert stack.worker.wait() == 0
    assert stack.model.request("/over").json() == {"session_id": session.id}
    assert stack.outcome(session.request_idx) == "Error"


# -- the loopback port -----------------------------------------------------------------------------------


def test_the_model_server_ends_a_session_on_the_loopback_port(new_stack: NewStack) -> None:
    port = free_port()
    stack = new_stack({"WORKER_HTTP_PORT": str(port), "WORKER_HOST": "0.0.0.0"})
    stack.start_ready()
    session = create(stack)
    url = f"http://127.0.0.1:{port}"

    def end(**changes: object) -> Answer:
        body = {"session_id": session.id, "session_auth": session.auth, **changes}
        return ask(url, "POST", "/session/end", json.dumps(body).encode())

    assert end(session_auth={}).status == 401
    assert end(session_id="never").status == 400
    assert end(session_id=7).status == 422
    assert end().object() == {"ended": True, "removed_session": session.id}
    assert end().status == 410
    assert session.ask("health").object() == {"ok": False}
    # Nothing else is there, and no other client gets there.
    for method, path in (("GET", "/ping"), ("POST", "/session/create"), ("POST", "/pass")):
        response = ask(url, method, path, b"{}")
        assert (response.status, response.object()) == (404, {"error": "not found"})
    addresses = {info[4][0] for info in socket.getaddrinfo(socket.gethostname(), port, socket.AF_INET)}
    for address in addresses - {"127.0.0.1"}:
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection((str(address), port), timeout=5)


def test_a_loopback_port_that_is_taken_is_taken_over_once_it_is_free(new_stack: NewStack) -> None:
    with socket.create_server(("127.0.0.1", 0)) as holder:
        port = holder.getsockname()[1]
        stack = new_stack({"WORKER_HTTP_PORT": str(port)})
        stack.start_ready()
        stack.worker.wait_for_log(f"cannot end sessions through port {port}")
        assert create(stack).ask("end").status == 200
    # As it is once the process before has finished its requests.
    stack.worker.wait_for_log(f"port {port} is free now")
    session = create(stack)
    body = {"session_id": session.id, "session_auth": session.auth}
    response = ask(f"http://127.0.0.1:{port}", "POST", "/session/end", json.dumps(body).encode())
    assert response.object() == {"ended": True, "removed_session": session.id}


def test_what_was_answered_is_served_though_its_session_ends_at_once(new_stack: NewStack) -> None:
    """The client has the last byte before the worker has looked up from sending it."""
    stack = new_stack()
    stack.start_ready()
    for _ in range(100):
        session = create(stack, cost=0.0)
        assert session.post("/pass", work=1.0).status == 200
        assert session.ask("end").status == 200
    stack.wait_for_report(lambda _: sum(report["cur_perf"] for report in stack.reports) == 100, "all served")


def test_sessions_under_load(stack: Stack) -> None:
    """Sessions are opened, used and closed concurrently; nothing of them stays."""
    failures: list[object] = []

    def client(number: int) -> None:
        try:
            session = create(stack, lifetime=20)
            for attempt_no in range(5):
                response = session.post("/serial" if number % 2 else "/pass", f"{number} {attempt_no}")
                assert response.status == 200, response
            assert session.ask("end").status == 200
            assert stack.outcome(session.request_idx) == "Success"
        except (AssertionError, OSError) as error:
            failures.append(error)

    threads = [threading.Thread(target=client, args=(number,)) for number in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert len(stack.model.requests("/serial")) == len(stack.model.requests("/pass")) == 25
    stack.wait_in_hand(0)
