"""The benchmark against model servers that refuse, hang or only pretend to work, and handlers that fail."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import flask
import pytest
import requests
from typing_extensions import Self

from pyworker import responses
from pyworker.config import Settings
from pyworker.data_types import ApiPayload, EndpointHandler
from pyworker.lifecycle.benchmark import Benchmark, BenchmarkFailed
from pyworker.lifecycle.benchmark_file import load_result
from pyworker.lifecycle.benchmark_subject import describe
from pyworker.lifecycle.state import ModelLifecycle, ModelState
from pyworker.lifecycle.warm_up import WarmUp
from pyworker.runtime.sample import ResponseSample
from pyworker.upstream.client import ModelClient
from tests.support.process import ROOT
from tests.support.scripted import Act, ScriptedServer, chunk, head, whole
from tests.support.waiting import wait_event, wait_until

PATH = "/work"
TIMEOUT = 1.0
#: PROTOCOL: a hung benchmark is told within its own timeout plus 5 s.
TOLD_WITHIN = TIMEOUT + 5
ERROR = whole(b'{"error": "no such model"}', "Content-Type: application/json")


class Fault:
    """What a handler or payload does instead of its work; nothing by default."""

    def __init__(self) -> None:
        self.released = threading.Event()

    def hang(self) -> None:
        self.released.wait()

    def fail(self) -> None:
        raise RuntimeError("a fault of the author")

    def end(self) -> None:
        raise SystemExit(3)

    def nothing(self) -> None:
        pass


@dataclass
class Payload(ApiPayload):
    """Ten units of work."""

    prompt: str = "a prompt"

    #: What `prepare` does.
    preparation: ClassVar[Any] = None

    @classmethod
    def for_test(cls) -> Self:
        return cls()

    def count_workload(self) -> float:
        return 10.0

    @classmethod
    def prepare(cls, settings: Settings) -> None:  # noqa: ARG003 - the signature of the base class
        if cls.preparation is not None:
            cls.preparation()


@dataclass(kw_only=True)
class Handler(EndpointHandler[Payload]):
    """A route whose author's code does what the test says."""

    fault: Fault = field(default_factory=Fault)
    making: str = "nothing"
    generating: str = "nothing"
    judging: str = "nothing"

    @property
    def endpoint(self) -> str:
        return PATH

    @classmethod
    def payload_cls(cls) -> type[Payload]:
        return Payload

    def make_benchmark_payload(self) -> Payload:
        getattr(self.fault, self.making)()
        return Payload()

    def generate_payload_json(self, payload: Payload) -> dict[str, Any]:
        getattr(self.fault, self.generating)()
        return super().generate_payload_json(payload)

    def generate_client_response(
        self, client_request: flask.Request, model_response: requests.Response
    ) -> flask.Response:
        return responses.pass_through(model_response)

    def find_failure(self, response: ResponseSample) -> str:
        getattr(self.fault, self.judging)()
        return "it holds an error" if b'"error"' in response.beginning else ""


@pytest.fixture
def client(scripted_model: ScriptedServer) -> Iterator[ModelClient]:
    client = ModelClient(scripted_model.url, api_key="", timeout=None, pool_size=10)
    yield client
    client.close()


@pytest.fixture
def handler() -> Iterator[Handler]:
    handler = Handler(benchmark_runs=2)
    yield handler
    handler.fault.released.set()
    wait_until(
        lambda: not any("pyworker-benchmark" in thread.name for thread in threading.enumerate()),
        "the threads",
    )


def benchmark(handler: Handler, client: ModelClient, *, ready_timeout: float = 60.0) -> Benchmark:
    return Benchmark(handler, client, concurrency=3, timeout=TIMEOUT, ready_timeout=ready_timeout)


def failure(handler: Handler, client: ModelClient) -> str:
    """How the benchmark fails, which it has to do in time."""
    began = time.monotonic()
    with pytest.raises(BenchmarkFailed) as failed:
        benchmark(handler, client).run()
    assert time.monotonic() - began < TOLD_WITHIN
    return str(failed.value)


# -- work and what only looks like it --------------------------------------------------------------------


def test_work_is_measured(scripted_model: ScriptedServer, client: ModelClient, handler: Handler) -> None:
    assert benchmark(handler, client).run() > 0
    assert len(scripted_model.requests(PATH)) == 1 + 2 * 3
    assert benchmark(handler, client).problem() == ""
    assert len(scripted_model.requests(PATH)) == 8


@pytest.mark.parametrize(
    ("script", "text"),
    [
        (ERROR, 'status 200, but it holds an error: {"error": "no such model"}'),
        (whole(b""), "status 200 with an empty body"),
        (head(status="204 No Content"), "status 204 with an empty body"),
        (head("Transfer-Encoding: chunked") + chunk(b""), "status 200 with an empty body"),
        (whole(b"busy", status="429 Busy"), "status 429: busy"),
    ],
)
def test_what_is_no_work_is_no_success(
    scripted_model: ScriptedServer, client: ModelClient, handler: Handler, script: bytes, text: str
) -> None:
    scripted_model.script(PATH, script)
    message = failure(handler, client)
    assert text in message
    assert PATH in message
    assert text in benchmark(handler, client).problem()


def test_one_success_among_failures_is_what_counts(
    scripted_model: ScriptedServer, client: ModelClient, handler: Handler
) -> None:
    scripted_model.script(PATH, ERROR)
    scripted_model.once(PATH, ERROR)
    for _ in range(2):
        scripted_model.once(PATH, whole(b"work"))
        scripted_model.once(PATH, ERROR)
        scripted_model.once(PATH, ERROR)
    assert benchmark(handler, client).run() > 0


# -- what hangs ------------------------------------------------------------------------------------------


def test_a_model_that_hangs_is_told_in_time(
    scripted_model: ScriptedServer, client: ModelClient, handler: Handler
) -> None:
    scripted_model.script(PATH, Act.HANG)
    assert "no response in 1 s" in failure(handler, client)
    scripted_model.script(PATH, head("Transfer-Encoding: chunked"), chunk(b"half"), Act.HANG)
    assert "no complete response in 1 s" in failure(handler, client)


def test_a_model_that_nobody_can_connect_to_is_told_in_time(handler: Handler) -> None:
    """Its backlog is full, so that connecting hangs."""
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        client = ModelClient(
            f"http://127.0.0.1:{full.getsockname()[1]}", api_key="", timeout=None, pool_size=1
        )
        with ExitStack() as closing:
            for _ in range(2):
                other = closing.enter_context(socket.socket())
                other.setblocking(False)
                other.connect_ex(full.getsockname())
            message = failure(handler, client)
        client.close()
    assert "no response in 1 s" in message


@pytest.mark.parametrize("place", ["making", "generating", "judging"])
def test_a_handler_that_hangs_is_told_in_time(
    scripted_model: ScriptedServer, client: ModelClient, handler: Handler, place: str
) -> None:
    setattr(handler, place, "hang")
    message = failure(handler, client)
    assert f"{TIMEOUT:g} s" in message
    assert ("make_benchmark_payload" in message) == (place == "making")


@pytest.mark.parametrize("fault", ["fail", "end"])
@pytest.mark.parametrize("place", ["making", "generating", "judging"])
def test_a_handler_that_fails_is_named(
    scripted_model: ScriptedServer, client: ModelClient, handler: Handler, place: str, fault: str
) -> None:
    setattr(handler, place, fault)
    message = failure(handler, client)
    assert ("RuntimeError: a fault of the author" if fault == "fail" else "SystemExit: 3") in message
    assert ("SystemExit" if fault == "end" else "RuntimeError") in benchmark(handler, client).problem()


def test_a_handler_that_hangs_does_not_hold_up_the_end_of_the_process(scripted_model: ScriptedServer) -> None:
    program = (
        "import sys\n"
        "from tests.lifecycle.test_benchmark import *\n"
        "client = ModelClient(sys.argv[1], api_key='', timeout=None, pool_size=1)\n"
        "print(benchmark(Handler(generating='hang'), client).problem())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, scripted_model.url],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    assert "no response in 1 s" in done.stdout


def test_abort_ends_it_at_once(scripted_model: ScriptedServer, client: ModelClient, handler: Handler) -> None:
    scripted_model.script(PATH, Act.HANG)
    running = benchmark(handler, client)
    done = threading.Event()

    def run() -> None:
        with pytest.raises(BenchmarkFailed):
            running.run()
        done.set()

    thread = threading.Thread(target=run, name="test-benchmark")
    thread.start()
    scripted_model.request(PATH)
    running.abort()
    wait_event(done, "the end of the benchmark", TIMEOUT / 2)
    thread.join()


# -- one request as a check ------------------------------------------------------------------------------


def test_who_accepts_a_connection_has_to_answer_too(
    scripted_model: ScriptedServer, client: ModelClient, handler: Handler
) -> None:
    check = benchmark(handler, client)
    assert check.problem() == ""
    scripted_model.script(PATH, Act.HANG)
    assert f"{PATH}: no response in 1 s" in check.problem()
    scripted_model.close()
    assert "cannot be reached" in check.problem()


# -- the way to ready ------------------------------------------------------------------------------------


@pytest.fixture
def preparation() -> Iterator[Fault]:
    fault = Fault()
    yield fault
    Payload.preparation = None
    fault.released.set()
    wait_until(lambda: "pyworker-prepare" not in {t.name for t in threading.enumerate()}, "the threads")


def warm_up(handler: Handler, client: ModelClient, folder: Path) -> tuple[WarmUp, ModelLifecycle]:
    lifecycle = ModelLifecycle()
    return WarmUp(
        settings=Settings(state_dir=folder, model_ready_timeout=1.0),
        lifecycle=lifecycle,
        benchmark=benchmark(handler, client),
        client=client,
        probe=None,
        payload_classes=[Payload],
        about=describe(handler),
    ), lifecycle


def run_until(warm_up: WarmUp, lifecycle: ModelLifecycle, state: ModelState) -> None:
    """A step on a thread of its own, until the model is in this state."""
    assert lifecycle.loaded()
    thread = threading.Thread(target=warm_up.step, name="test-warm-up")
    thread.start()
    wait_until(lambda: lifecycle.state is state, state.value)
    warm_up.stop()
    thread.join(2)
    assert not thread.is_alive(), "it was not woken"


@pytest.mark.parametrize(
    ("fault", "text"), [("hang", "did not end within 1 s"), ("fail", "a fault of the author"), ("end", "3")]
)
def test_a_preparation_that_does_not_succeed_is_told(
    tmp_path: Path, client: ModelClient, handler: Handler, preparation: Fault, fault: str, text: str
) -> None:
    Payload.preparation = getattr(preparation, fault)
    steps, lifecycle = warm_up(handler, client, tmp_path)
    run_until(steps, lifecycle, ModelState.ERRORED)
    assert f"Payload.prepare {'failed' if fault != 'hang' else ''}".strip() in lifecycle.status.error_msg
    assert text in lifecycle.status.error_msg


def test_the_end_does_not_wait_for_a_preparation(
    tmp_path: Path, client: ModelClient, handler: Handler, preparation: Fault
) -> None:
    Payload.preparation = preparation.hang
    steps, lifecycle = warm_up(handler, client, tmp_path)
    run_until(steps, lifecycle, ModelState.BENCHMARKING)


def test_what_was_measured_is_named_beside_the_result(
    tmp_path: Path, scripted_model: ScriptedServer, client: ModelClient, handler: Handler
) -> None:
    steps, lifecycle = warm_up(handler, client, tmp_path)
    run_until(steps, lifecycle, ModelState.READY)
    number, name = (tmp_path / ".has_benchmark").read_text().splitlines()
    assert float(number) == lifecycle.status.throughput > 0
    assert '"route": "/work"' in name
    assert '"worker": "tests.lifecycle"' in name
    about = {**describe(handler), "requests": json.loads(name)["requests"]}
    assert load_result(tmp_path / ".has_benchmark", about) == float(number)
    assert load_result(tmp_path / ".has_benchmark", {**about, "requests": "others"}) is None
