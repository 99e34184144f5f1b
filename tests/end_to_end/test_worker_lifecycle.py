"""From start to end: the model's log, benchmark and health decide when a worker serves."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.support.http import Answer, RawClient, ask, next_request_idx
from tests.support.process import WorkerProcess
from tests.support.scripted import Act, ScriptedServer, chunk, head, whole
from tests.support.stack import ECHO_WORKER, ERROR_LINE, INFO_LINE, LOADED_LINE, NewStack, Stack
from tests.support.waiting import DEADLINE, wait_until

HEAD = head("Transfer-Encoding: chunked")
#: 1 to warm up, then 2 rounds of 3.
BENCHMARK_REQUESTS = 7


def refusal(answer: Answer) -> str:
    """Why the worker cannot serve."""
    assert answer.status == 503
    assert int(answer.header("Retry-After") or 0) >= 1
    return str(answer.object()["error"])


def wait_errored(stack: Stack, text: str) -> None:
    stack.wait_for_next_report(lambda report: text in report["error_msg"], f"an error that says {text!r}")


def stored_result(stack: Stack) -> float:
    return float((stack.folder / ".has_benchmark").read_text().splitlines()[0])


def wait_well(stack: Stack) -> None:
    stack.wait_for_next_report(lambda report: not report["error_msg"], "a report without an error")


# -- the log of the model --------------------------------------------------------------------------------


def test_the_log_appears_late_and_a_loaded_line_mends_an_error(new_stack: NewStack) -> None:
    stack = new_stack()
    stack.keep_benchmark(500.0)
    stack.worker.start()
    stack.worker.wait_for_log("fetched the autoscaler's public key")
    assert not stack.worker.model_log.exists()
    assert "loading" in refusal(stack.post("/pass"))

    stack.worker.say(f"{INFO_LINE} 10 % of the weights")
    stack.worker.wait_for_log("10 % of the weights")
    stack.worker.say(f"{ERROR_LINE}: no memory for it")
    wait_errored(stack, f"{ERROR_LINE}: no memory for it")
    assert "errored" in refusal(stack.post("/pass"))
    assert ask(stack.url, "GET", "/ping").status == 200

    stack.worker.say(LOADED_LINE)
    stack.wait_ready()
    assert stack.post("/pass").status == 200
    loadtimes = [report["loadtime"] for report in stack.reports if report["loadtime"]]
    assert len(loadtimes) == 1
    assert 0 < loadtimes[0] < DEADLINE


def test_an_error_line_of_a_ready_model_counts_where_nothing_can_be_asked(new_stack: NewStack) -> None:
    stack = new_stack()
    stack.start_ready()
    stack.worker.say(f"{ERROR_LINE}: out of memory")
    wait_errored(stack, "out of memory")
    assert "errored" in refusal(stack.post("/pass"))
    stack.worker.say(LOADED_LINE)
    wait_well(stack)
    assert stack.post("/pass").status == 200
    assert sum(1 for report in stack.reports if report["loadtime"]) == 1


def test_health_decides_what_an_error_line_of_a_ready_model_means(new_stack: NewStack) -> None:
    stack = new_stack({"MODEL_HEALTH_ENDPOINT": "/health"})
    stack.start_ready()
    asked = len(stack.model.requests("/health"))
    assert asked >= 1, "a worker is ready only once its model is well"

    # A healthy model's log may say what it wants.
    stack.worker.say(f"{ERROR_LINE}: one bad request")
    stack.model.request("/health", asked + 1)
    stack.worker.say(f"{INFO_LINE} goodbye")
    stack.worker.wait_for_log("goodbye")
    assert stack.post("/pass").status == 200
    assert {report["error_msg"] for report in stack.reports} == {""}

    stack.model.script("/health", whole(b"sick", status="500 Sick"))
    stack.worker.say(f"{ERROR_LINE}: the second one")
    wait_errored(stack, "the second one")
    assert "answered 500" in stack.reports[-1]["error_msg"]
    assert "errored" in refusal(stack.post("/pass"))

    # One good answer is enough, and no restart and no loaded line.
    stack.model.script("/health", whole(b"well"))
    wait_well(stack)
    assert stack.post("/pass").status == 200
    # Its own connection each time, never one of those that carry requests.
    serving = {request.connection for request in stack.model.requests("/pass")}
    probing = [request.connection for request in stack.model.requests("/health")]
    assert len(set(probing)) == len(probing)
    assert serving.isdisjoint(probing)


@pytest.mark.parametrize("health", ["", "/health"])
def test_an_error_line_between_loaded_and_ready_is_checked(new_stack: NewStack, health: str) -> None:
    stack = new_stack({"MODEL_HEALTH_ENDPOINT": health})
    gate = threading.Event()
    stack.model.once("/benchmark", gate, whole(b"work"))
    stack.worker.say(LOADED_LINE)
    stack.worker.start()
    stack.model.request("/benchmark")
    stack.worker.say(f"{ERROR_LINE}: one that was survived")
    stack.worker.wait_for_log("one that was survived")
    # The check: the health endpoint where there is one, else a request of the benchmark.
    stack.model.request(health or "/benchmark", 1 if health else 2)
    gate.set()
    stack.wait_ready()
    assert {report["error_msg"] for report in stack.reports} == {""}


def test_an_error_line_between_loaded_and_ready_counts_if_the_model_is_not_well(new_stack: NewStack) -> None:
    stack = new_stack({"MODEL_HEALTH_ENDPOINT": "/health"})
    gate = threading.Event()
    stack.model.once("/benchmark", gate, whole(b"work"))
    stack.model.script("/health", whole(b"sick", status="500 Sick"))
    stack.worker.start()
    stack.worker.wait_for_log("fetched the autoscaler's public key")
    stack.worker.say(LOADED_LINE)
    stack.model.request("/benchmark")
    stack.worker.say(f"{ERROR_LINE}: a real one")
    wait_errored(stack, "a real one")
    assert "answered 500" in stack.reports[-1]["error_msg"]
    # It is measured once it is well again.
    stack.model.script("/health", whole(b"well"))
    gate.set()
    stack.wait_ready()


def test_a_flood_of_error_lines_costs_one_check_and_one_line(new_stack: NewStack) -> None:
    stack = new_stack({"MODEL_HEALTH_ENDPOINT": "/health"})
    stack.start_ready()
    asked = len(stack.model.requests("/health"))
    stack.worker.say("\n".join(f"{ERROR_LINE}: {number} {'x' * 1000}" for number in range(20_000)))
    stack.worker.say(f"{INFO_LINE} that was all")
    stack.worker.wait_for_log("that was all")
    stack.model.request("/health", asked + 1)
    assert len(stack.model.requests("/health")) <= asked + 2, "the regular one may have come as well"
    told = [line for line in stack.worker.log.splitlines() if ERROR_LINE in line]
    assert len(told) == 1
    assert len(told[0]) < 700
    assert stack.post("/pass").status == 200


def test_a_flood_of_error_lines_of_a_model_that_loads_is_one_line(new_stack: NewStack) -> None:
    stack = new_stack()
    stack.worker.start()
    stack.worker.say("\n".join(f"\0\0\x1b[31m{ERROR_LINE}: {number}" for number in range(20_000)))
    stack.worker.say(f"{INFO_LINE} that was all")
    stack.worker.wait_for_log("that was all")
    assert stack.worker.log.count(ERROR_LINE) == 1
    wait_errored(stack, f"{ERROR_LINE}: 19999")
    assert stack.reports[-1]["error_msg"].isprintable()


# -- benchmark -------------------------------------------------------------------------------------------


def test_the_loaded_line_comes_before_the_port_listens(tmp_path: Path, new_stack: NewStack) -> None:
    with ScriptedServer(listening=False) as late:
        stack = new_stack({"MODEL_SERVER_URL": late.url})
        stack.worker.start()
        stack.worker.wait_for_log("fetched the autoscaler's public key")
        stack.worker.say(LOADED_LINE)
        stack.worker.wait_for_log("the model is loaded")
        assert "benchmarking" in refusal(stack.post("/pass"))
        late.listen()
        stack.wait_ready()
        assert len(late.requests("/benchmark")) == BENCHMARK_REQUESTS
        assert {report["error_msg"] for report in stack.reports} == {""}


def test_a_benchmark_fails_then_succeeds_and_is_remembered(new_stack: NewStack) -> None:
    stack = new_stack()
    stack.model.script("/benchmark", whole(b"no kernel image", status="500 Fault"))
    stack.worker.say(LOADED_LINE)
    stack.worker.start()
    wait_errored(stack, "no kernel image")
    message = stack.reports[-1]["error_msg"]
    assert "/benchmark" in message
    assert "500" in message
    assert " s)" in message, "the elapsed time"
    assert "errored" in refusal(stack.post("/pass"))
    assert not (stack.folder / ".has_benchmark").exists()

    # It is tried again by itself.
    stack.model.forget()
    stack.wait_ready()
    assert stack.post("/pass").status == 200
    assert len(stack.model.requests("/benchmark")) == BENCHMARK_REQUESTS
    assert {request.json()["work"] for request in stack.model.requests("/benchmark")} == {10.0}
    measured = stored_result(stack)
    assert stack.reports[-1]["max_perf"] == measured > 0

    # After a restart the result is taken from the file.
    stack.again()
    stack.model.forget()
    stack.worker.start()
    stack.wait_ready()
    assert stack.reports[-1]["max_perf"] == measured
    assert stack.model.requests("/benchmark") == []

    # Unless it makes no sense.
    stack.again()
    (stack.folder / ".has_benchmark").write_text("nan")
    stack.worker.start()
    stack.wait_ready()
    assert len(stack.model.requests("/benchmark")) == BENCHMARK_REQUESTS
    assert stored_result(stack) == stack.reports[-1]["max_perf"] > 0


# -- the end ---------------------------------------------------------------------------------------------


def test_at_sigterm_a_running_stream_completes_and_everything_is_reported(new_stack: NewStack) -> None:
    stack = new_stack({"DRAIN_TIMEOUT": "20"})
    stack.start_ready()
    gate = threading.Event()
    stack.model.script("/stream", HEAD, chunk(b"one"), gate, chunk(b"two"), chunk(b""))
    stack.model.script("/serial", gate, whole(b"served"))
    streamed, queued = next_request_idx(), next_request_idx()
    with (
        RawClient(stack.url) as kept,
        stack.open("/stream", request_idx=streamed) as client,
        stack.open("/serial") as first,
        ExitStack() as closing,
    ):
        stack.model.request("/serial")
        waiting = closing.enter_context(stack.open("/serial", request_idx=queued))
        kept.post("/pass", stack.envelope())
        assert kept.answer().status == 200
        assert client.head() == 200
        assert client.chunk() == b"one"
        stack.wait_in_hand(3)

        stack.worker.terminate()
        stack.wait_draining()
        # Nobody new gets in, and nobody hangs.
        with contextlib.suppress(OSError, EOFError):
            assert "draining" in refusal(stack.post("/pass"))

        gate.set()
        assert client.chunk() == b"two"
        assert client.chunk() == b""
        for answer in (first.answer(), waiting.answer()):
            assert (answer.status, answer.body) == (200, b"served")
    assert stack.worker.wait() == 0
    assert stack.outcome(streamed) == "Success"
    assert stack.outcome(queued) == "Success"
    last = stack.reports[-1]
    assert (last["num_requests_working"], last["cur_load"]) == (0, 0)
    assert sum(report["cur_perf"] for report in stack.reports) == 4.0


def test_at_sigterm_what_does_not_end_in_time_is_cut(new_stack: NewStack) -> None:
    stack = new_stack({"DRAIN_TIMEOUT": "0.5"})
    stack.start_ready()
    stack.model.script("/stream", HEAD, chunk(b"one"), Act.HANG)
    stack.model.script("/serial", Act.HANG)
    streamed, thinking, queued = (next_request_idx() for _ in range(3))
    with (
        stack.open("/stream", request_idx=streamed) as client,
        stack.open("/serial", request_idx=thinking) as first,
        stack.open("/serial", request_idx=queued) as second,
    ):
        client.until(b"one")
        stack.wait_in_hand(3)
        started = time.monotonic()
        stack.worker.terminate()
        assert not client.rest().endswith(b"0\r\n\r\n"), "a cut stream looks complete"
        for waiting in (first, second):
            assert "shutting down" in refusal(waiting.answer())
        assert stack.worker.wait() == 0
        assert time.monotonic() - started < 8
    assert [stack.outcome(index) for index in (streamed, thinking, queued)] == ["Error"] * 3
    for request in stack.model.requests():
        assert request.gone.wait(1)


def test_at_sigterm_a_benchmark_is_given_up(new_stack: NewStack) -> None:
    stack = new_stack()
    stack.model.script("/benchmark", Act.HANG)
    stack.worker.say(LOADED_LINE)
    stack.worker.start()
    stack.model.request("/benchmark")
    started = time.monotonic()
    stack.worker.terminate()
    assert stack.worker.wait() == 0
    assert time.monotonic() - started < 8
    assert not (stack.folder / ".has_benchmark").exists()
    assert "Traceback" not in stack.worker.log


def test_an_idle_worker_ends_at_once(new_stack: NewStack) -> None:
    stack = new_stack()
    stack.start_ready()
    with RawClient(stack.url) as idle:
        idle.post("/pass", stack.envelope())
        assert idle.answer().status == 200
        started = time.monotonic()
        stack.worker.terminate()
        assert stack.worker.wait() == 0
        assert time.monotonic() - started < 5
    assert "Traceback" not in stack.worker.log


# -- what keeps a worker from starting -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("app", "variables", "named"),
    [
        ("pyworker:create_app('no_such_worker')", {}, "there is no worker 'no_such_worker'"),
        (ECHO_WORKER, {"HEALTH_FAILURES": "some"}, "HEALTH_FAILURES='some'"),
        (ECHO_WORKER, {"UNSECURED": "perhaps"}, "UNSECURED='perhaps'"),
        (ECHO_WORKER, {"MODEL_API_KEY": "caf\xe9"}, "MODEL_API_KEY=(hidden)"),
        (ECHO_WORKER, {"CONTAINER_ID": ""}, "CONTAINER_ID is not set"),
        (ECHO_WORKER, {"MODEL_LOG": ""}, "MODEL_LOG is not set"),
        (ECHO_WORKER, {"MODEL_LOG": "/dev/zero"}, "MODEL_LOG=/dev/zero is a device"),
        (ECHO_WORKER, {"MODEL_READINESS": "either", "MODEL_LOG": ""}, "MODEL_LOG is not set"),
        (ECHO_WORKER, {"MODEL_READINESS": "health"}, "set MODEL_HEALTH_ENDPOINT"),
        (ECHO_WORKER, {"MODEL_READINESS": "either"}, "set MODEL_HEALTH_ENDPOINT"),
        (ECHO_WORKER, {"PUBLIC_IPADDR": ""}, "set PUBLIC_IPADDR"),
        (ECHO_WORKER, {"USE_SSL": "true", "SSL_CERTFILE": "/nowhere/cert"}, "SSL_CERTFILE=/nowhere/cert"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_start_that_cannot_be_ends_with_one_clear_line(
    tmp_path: Path, app: str, variables: Mapping[str, str], named: str
) -> None:
    worker = WorkerProcess(app, tmp_path, {"REPORT_ADDR": "http://127.0.0.1:9", **variables})
    worker.launch()
    try:
        wait_until(lambda: not worker.is_alive, "the end of a worker that cannot start")
        assert worker.wait() != 0
    finally:
        worker.stop()
    assert "Traceback" not in worker.log
    assert len([line for line in worker.log.splitlines() if named in line]) == 1, worker.log


def test_phrases_of_the_environment_replace_those_of_their_kind(new_stack: NewStack) -> None:
    stack = new_stack(
        {
            "MODEL_LOAD_LOG_MSG": "weights…in memory",
            "MODEL_ERROR_LOG_MSGS": "first fault\nsecond fault",
        }
    )
    stack.keep_benchmark(500.0)
    stack.worker.start()
    stack.worker.say(f"{LOADED_LINE}\n{ERROR_LINE}\nthe second fault")
    wait_errored(stack, "the second fault")
    stack.worker.say(f"{INFO_LINE} hello")
    stack.worker.wait_for_log("model: echo model says hello")
    assert LOADED_LINE not in stack.worker.log
    assert ERROR_LINE not in stack.worker.log
    stack.worker.say("the weights are all in memory now")
    stack.wait_ready()
