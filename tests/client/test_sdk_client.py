"""The public SDK, unmodified, against a local autoscaler and a worker under gunicorn: over http and over TLS.

The SDK is installed from the package registry into an environment of its own under `.pyworker/`, once.
PYWORKER_TEST_SDK_PYTHON names a Python that has it already.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
import time
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from pyworker.local.autoscaler import Autoscaler
from pyworker.local.signing import Signer
from tests.support import tls
from tests.support.http import ask
from tests.support.leaks import share_port, unshare_port
from tests.support.ports import free_port
from tests.support.process import ROOT
from tests.support.scripted import Act, ScriptedServer, chunk, head, whole
from tests.support.sdk import API_KEY, ENDPOINT, SdkClient, installed_sdk
from tests.support.stack import LOADED_LINE, Stack
from tests.support.status import status_report
from tests.support.waiting import DEADLINE, wait_until

# The first test may have to install the SDK.
pytestmark = pytest.mark.timeout(700)

JSON = "Content-Type: application/json"


@pytest.fixture(scope="session")
def sdk_python() -> Path:
    """The Python of the SDK."""
    named = os.environ.get("PYWORKER_TEST_SDK_PYTHON")
    return Path(named) if named else installed_sdk(ROOT / ".pyworker")


@contextlib.contextmanager
def surroundings(signer: Signer) -> Generator[tuple[Autoscaler, ScriptedServer]]:
    with (
        Autoscaler(signer=signer, endpoints=[ENDPOINT], api_key=API_KEY) as autoscaler,
        ScriptedServer() as model,
    ):
        yield autoscaler, model


def new_worker(
    scheme: str,
    folder: Path,
    autoscaler: Autoscaler,
    model: ScriptedServer,
    variables: dict[str, str] | None = None,
) -> Stack:
    """A worker that speaks this scheme; over TLS with a certificate of the autoscaler's root. Not started."""
    certificate, key = folder / "instance.crt", folder / "instance.key"
    secure: dict[str, str] = {}
    if scheme == "https":
        tls.certify(autoscaler, certificate, key)
        secure = {"USE_SSL": "true", "SSL_CERTFILE": str(certificate), "SSL_KEYFILE": str(key)}
    return Stack(folder, autoscaler, model, {**secure, **(variables or {})})


@pytest.fixture(scope="module", params=["http", "https"])
def ready_stack(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, signing_key: Signer
) -> Iterator[Stack]:
    """One ready worker for each scheme."""
    with surroundings(signing_key) as (autoscaler, model):
        shared = {
            urlsplit(autoscaler.url).port or 0: "pyworker-autoscaler",
            model.port: f"scripted-{model.port}",
        }
        for port, prefix in shared.items():
            share_port(port, prefix)
        stack = new_worker(request.param, tmp_path_factory.mktemp("sdk"), autoscaler, model)
        try:
            stack.start_ready()
            yield stack
        finally:
            stack.worker.stop()
            for port in shared:
                unshare_port(port)


@pytest.fixture(scope="module")
def running_sdk(ready_stack: Stack, sdk_python: Path) -> Iterator[SdkClient]:
    with SdkClient(sdk_python, ready_stack.autoscaler.url) as client:
        assert client.began() == {"ready": True}
        yield client


@pytest.fixture
def stack(ready_stack: Stack) -> Stack:
    ready_stack.model.forget()
    assert ready_stack.worker.is_alive, ready_stack.worker.log
    return ready_stack


@pytest.fixture
def sdk(running_sdk: SdkClient, stack: Stack) -> SdkClient:
    return running_sdk


@pytest.fixture(params=["http", "https"])
def scheme(request: pytest.FixtureRequest) -> str:
    """For tests with a worker of their own."""
    return request.param


def outcomes(stack: Stack, request_idx: int) -> list[str]:
    return [record.status for record in stack.records(request_idx)]


def wait_for_outcomes(stack: Stack, request_idx: int, expected: list[str]) -> None:
    found = stack.autoscaler.fleet.wait_for(lambda _: outcomes(stack, request_idx) == expected, DEADLINE)
    assert found, outcomes(stack, request_idx)


# -- requests --------------------------------------------------------------------------------------------


def test_a_whole_request(sdk: SdkClient, stack: Stack) -> None:
    stack.model.script("/pass", whole(b'{"text": "a tide"}', JSON))

    result = sdk.do("request", route="/pass", payload={"prompt": "What is a tide?", "work": 7}, cost=7)

    assert (result["ok"], result["status"], result["response"]) == (True, 200, {"text": "a tide"})
    assert result["url"] == stack.url
    assert result["auth_data"]["cost"] == 7
    call = stack.model.request("/pass")
    assert call.json() == {"prompt": "What is a tide?", "work": 7}
    assert API_KEY not in f"{call.path}{call.headers}"
    assert API_KEY not in stack.worker.log
    wait_for_outcomes(stack, result["request_idx"], ["Success"])


def test_a_stream_item_by_item(sdk: SdkClient, stack: Stack) -> None:
    more = threading.Event()
    stack.model.script(
        "/stream",
        head("Content-Type: text/event-stream", "Transfer-Encoding: chunked"),
        chunk(b'data: {"token": "a"}\n\n'),
        more,
        chunk(b'data: {"token": "tide"}\n\ndata: [DONE]\n\n'),
        chunk(b""),
    )

    number = sdk.order("request", route="/stream", payload={"prompt": "go"}, stream=True)

    assert sdk.next(number) == {"item": {"token": "a"}}
    assert sdk.silent(number)
    more.set()
    assert sdk.next(number) == {"item": {"token": "tide"}}
    result = sdk.next(number)
    assert (result["ok"], result["response"]) == (True, None)
    wait_for_outcomes(stack, result["request_idx"], ["Success"])


def test_other_types_of_answers(sdk: SdkClient, stack: Stack) -> None:
    stack.model.once("/pass", whole(b"a tide", "Content-Type: text/plain"))
    stack.model.once("/pass", whole(b'["a", "tide"]', JSON))

    results = [sdk.do("request", route="/pass", payload={"prompt": "?"}) for _ in range(2)]

    assert [result["response"] for result in results] == ["a tide", ["a", "tide"]]


def test_an_error_of_the_model_is_the_answer(sdk: SdkClient, stack: Stack) -> None:
    stack.model.script("/pass", whole(b'{"error": "too long"}', JSON, status="400 Bad Request"))

    result = sdk.do("request", route="/pass", payload={"prompt": "?"})

    assert (result["ok"], result["status"], result["response"]) == (False, 400, {"error": "too long"})


def test_fields_at_fault_are_told(sdk: SdkClient, stack: Stack) -> None:
    result = sdk.do("request", route="/pass", payload={"text": "?"})

    assert (result["ok"], result["status"]) == (False, 422)
    assert result["response"]["payload"] == {"prompt": "missing parameter"}


def test_a_broken_model_call_is_tried_again(sdk: SdkClient, stack: Stack) -> None:
    stack.model.once("/pass", b"HTTP/1.1 200 OK\r\n", Act.RESET)

    result = sdk.do("request", route="/pass", payload={"prompt": "again"})

    assert (result["ok"], result["response"]) == (True, {"ok": True})
    assert len(stack.model.requests("/pass")) == 2
    wait_for_outcomes(stack, result["request_idx"], ["Error", "Success"])


def test_retry_after_429(sdk: SdkClient, stack: Stack) -> None:
    done = threading.Event()
    stack.model.once("/serial/limited", done, whole(b'{"first": true}', JSON))
    stack.model.once("/serial/limited", whole(b'{"second": true}', JSON))
    # More work than the worker does in max_queue_time, of 1000 a second.
    first = sdk.order("request", route="/serial/limited", payload={"prompt": "1", "work": 10_000})
    stack.model.request("/serial/limited")
    before = stack.autoscaler.fleet.finished_counts.get("Rejected", 0)

    second = sdk.order("request", route="/serial/limited", payload={"prompt": "2", "work": 1})
    rejected = stack.autoscaler.fleet.wait_for(
        lambda fleet: fleet.finished_counts.get("Rejected", 0) > before, DEADLINE
    )
    assert rejected, stack.autoscaler.fleet.finished_counts
    assert sdk.silent(second)
    done.set()

    assert sdk.next(first)["response"] == {"first": True}
    result = sdk.next(second)
    assert result["response"] == {"second": True}
    # How often it was refused is a matter of the pauses between its tries.
    index = result["request_idx"]
    stack.autoscaler.fleet.wait_for(lambda _: "Success" in outcomes(stack, index), DEADLINE)
    *refused, last = outcomes(stack, index)
    assert (set(refused), last) == ({"Rejected"}, "Success")


def test_endpoint_and_workers(sdk: SdkClient, stack: Stack) -> None:
    assert sdk.do("refresh") == {"name": ENDPOINT, "endpoint_id": 1}
    [worker] = sdk.do("workers")["workers"]
    assert (worker["id"], worker["status"], worker["reqs_working"]) == (1, "ready", 0)
    assert worker["perf"] == worker["measured_perf"] == 1000.0
    assert 0 < worker["started_at"] <= worker["loaded_at"] <= time.time()


# -- sessions --------------------------------------------------------------------------------------------


def open_session(sdk: SdkClient, **options: object) -> dict[str, Any]:
    session = sdk.do("open_session", **options)
    assert "raised" not in session, session
    return session


def test_a_session_from_its_creation_to_its_end(sdk: SdkClient, stack: Stack) -> None:
    begun = time.time()
    session = open_session(
        sdk, lifetime=30, cost=5, on_close_route="/closed", on_close_payload={"why": "end"}
    )
    name = session["session_id"]
    assert session["url"] == stack.url
    assert begun + 30 <= session["expiration"] + 1 <= time.time() + 32
    stack.wait_in_hand(1)

    results = [
        sdk.do("session_request", session=name, route="/pass", payload={"prompt": str(number)})
        for number in range(2)
    ]
    assert [result["response"] for result in results] == [{"ok": True}] * 2

    known = sdk.do("get_session", session=name)
    assert (known["session_id"], known["lifetime"]) == (name, 30)
    assert known["auth_data"] == session["auth_data"]
    assert known["expiration"] >= session["expiration"]
    assert sdk.do("is_open", session=name) == {"open": True}

    assert sdk.do("end_session", session=name) == {"ended": name}
    assert stack.model.request("/closed").json() == {"why": "end", "session_id": name}
    stack.wait_in_hand(0)
    assert "session" in sdk.do("get_session", session=name)["message"]
    refused = sdk.do("session_request", session=name, route="/pass", payload={"prompt": "late"})
    assert refused == {"raised": "ValueError", "message": "Cannot make request on closed session."}


def test_a_stream_in_a_session(sdk: SdkClient, stack: Stack) -> None:
    stack.model.script(
        "/stream",
        head("Content-Type: text/event-stream", "Transfer-Encoding: chunked"),
        chunk(b'data: {"token": "a"}\n\n'),
        chunk(b""),
    )
    name = open_session(sdk)["session_id"]

    number = sdk.order(
        "session_request", session=name, route="/stream", payload={"prompt": "go"}, stream=True
    )

    assert sdk.next(number) == {"item": {"token": "a"}}
    assert sdk.next(number)["ok"]
    sdk.do("end_session", session=name)


def test_a_session_expires(sdk: SdkClient, stack: Stack) -> None:
    name = open_session(sdk, lifetime=0.5, on_close_route="/closed", on_close_payload={})["session_id"]

    assert stack.model.request("/closed").json() == {"session_id": name}
    refused = sdk.do("session_request", session=name, route="/pass", payload={"prompt": "late"})
    assert refused["message"] == "Cannot make request on closed session."
    assert "raised" in sdk.do("is_open", session=name)
    stack.wait_in_hand(0)


def test_the_session_of_another_is_refused(sdk: SdkClient, stack: Stack) -> None:
    session = open_session(sdk)
    name = session["session_id"]

    stolen = sdk.do("get_session", session=name, auth_data={**session["auth_data"], "signature": "none"})

    assert "raised" in stolen
    assert sdk.do("is_open", session=name) == {"open": True}
    sdk.do("end_session", session=name)


# -- with surroundings of their own ----------------------------------------------------------------------


def test_waiting_for_a_worker_that_is_still_loading(
    sdk_python: Path, scheme: str, tmp_path: Path, signing_key: Signer
) -> None:
    with surroundings(signing_key) as (autoscaler, model), contextlib.ExitStack() as ending:
        sdk = ending.enter_context(SdkClient(sdk_python, autoscaler.url))
        assert sdk.began() == {"ready": True}
        # Nobody is there yet, then a worker that loads, then one that is ready.
        number = sdk.order("request", route="/pass", payload={"prompt": "early"})
        wait_until(lambda: autoscaler.fleet.requests_seen == 1, "a client that waits")
        stack = new_worker(scheme, tmp_path, autoscaler, model)
        ending.callback(stack.worker.stop)
        stack.keep_benchmark(1000.0)
        stack.worker.start()
        stack.wait_for_report(lambda report: report["max_perf"] == 0, "a report while it loads")
        assert [worker["status"] for worker in sdk.do("workers")["workers"]] == ["loading"]
        assert sdk.silent(number)
        stack.worker.say(LOADED_LINE)

        result = sdk.next(number)

        assert (result["ok"], result["request_idx"]) == (True, 1)
        assert autoscaler.fleet.requests_seen == 1, "the client asked again for its own request"


def test_a_client_whose_worker_is_gone_harms_nobody(
    sdk_python: Path, scheme: str, tmp_path: Path, signing_key: Signer
) -> None:
    with surroundings(signing_key) as (autoscaler, model), contextlib.ExitStack() as ending:
        sdk = ending.enter_context(SdkClient(sdk_python, autoscaler.url))
        assert sdk.began() == {"ready": True}
        gone = status_report(f"{scheme}://127.0.0.1:{free_port()}")
        report = json.dumps(gone).encode()
        assert ask(autoscaler.url, "POST", "/worker_status/", report).status == 200
        threads = threading.active_count()
        number = sdk.order("request", route="/pass", payload={"prompt": "lost"})
        wait_until(lambda: autoscaler.fleet.routes_given > 200, "a client that asks without a pause")

        begun = time.monotonic()
        assert ask(autoscaler.url, "GET", "/workers/").status == 200
        assert ask(autoscaler.url, "POST", "/worker_status/", report).status == 200
        assert time.monotonic() - begun < 1
        assert threading.active_count() <= threads + 3
        assert autoscaler.fleet.requests_seen == 1
        assert sdk.silent(number)

        stack = new_worker(scheme, tmp_path, autoscaler, model)
        ending.callback(stack.worker.stop)
        stack.start_ready()
        assert sdk.next(number)["ok"]


def test_a_wrong_key_and_an_unknown_endpoint_are_told(sdk_python: Path, signing_key: Signer) -> None:
    with surroundings(signing_key) as (autoscaler, _):
        with SdkClient(sdk_python, autoscaler.url, api_key="wrong") as sdk:
            assert "HTTP 401" in sdk.began()["message"]
        with SdkClient(sdk_python, autoscaler.url, endpoint="other") as sdk:
            assert sdk.began()["message"] == "Endpoint other could not be found"


def test_a_certificate_of_another_root_is_not_trusted(
    sdk_python: Path, tmp_path: Path, signing_key: Signer
) -> None:
    with (
        surroundings(signing_key) as (autoscaler, model),
        Autoscaler() as stranger,
        contextlib.ExitStack() as ending,
    ):
        stack = new_worker("https", tmp_path, autoscaler, model)
        tls.certify(stranger, tmp_path / "instance.crt", tmp_path / "instance.key")
        ending.callback(stack.worker.stop)
        stack.start_ready()
        sdk = ending.enter_context(SdkClient(sdk_python, autoscaler.url))
        assert sdk.began() == {"ready": True}

        number = sdk.order("request", route="/pass", payload={"prompt": "secret"})
        wait_until(lambda: autoscaler.fleet.routes_given > 3, "a client that asks again and again")

        assert sdk.silent(number)
        assert model.requests("/pass") == []
