"""Responses that are made elsewhere: a job is started, polled, awaited, cancelled."""

from __future__ import annotations

import contextlib
import json
import threading
from typing import Any

import pytest

from pyworker.errors import BadHandler
from pyworker.jobs import Job, JobCall
from pyworker.routes import Post
from pyworker.upstream.call import Aborted
from tests.support.http import next_request_idx
from tests.support.scripted import Act, Deaf, Tell, head, whole
from tests.support.stack import PLAIN_WORKER, NewStack, Stack

JSON = "Content-Type: application/json"
STARTED = whole(b'{"id": 1}', JSON)


def state(name: str, **others: object) -> bytes:
    return whole(json.dumps({"state": name, **others}).encode(), JSON)


def test_a_job_is_polled_until_it_is_done(plain: Stack) -> None:
    before = plain.served()
    plain.model.script("/start", STARTED)
    for step in range(3):
        plain.model.once("/state", state("working", step=step))
    plain.model.script("/state", state("done", work=7))
    request_idx = next_request_idx()
    answer = plain.post("/job", request_idx=request_idx, max_tokens=100)
    assert answer.object() == {"result": {"state": "done", "work": 7}}
    assert plain.outcome(request_idx) == "Success"
    assert plain.served() - before == 7, "as settled"
    assert len(plain.model.requests("/state")) == 4
    assert plain.model.request("/start").json()["max_tokens"] == 100
    assert not plain.model.requests("/stop")


@pytest.mark.parametrize("queued", [True, False])
def test_a_client_that_hangs_up_cancels_its_job(plain: Stack, queued: bool) -> None:
    """The slot of the serial route is held until the hook has returned."""
    plain.model.script("/start", STARTED)
    plain.model.script("/state", state("working"))
    may_stop, stopping = threading.Event(), threading.Event()
    plain.model.once("/stop", Tell(stopping), Deaf(may_stop), whole(b"{}", JSON))
    request_idx, next_idx = next_request_idx(), next_request_idx()
    with contextlib.ExitStack() as closing:
        client = closing.enter_context(plain.open("/job", request_idx=request_idx))
        plain.model.request("/state", 2)
        other = closing.enter_context(plain.open("/job", request_idx=next_idx)) if queued else None
        if other is not None:
            plain.wait_in_hand(2)
        client.close()
        assert stopping.wait(10)
        assert plain.outcome(request_idx) == "Cancelled"
        assert len(plain.model.requests("/start")) == 1, "the next one waits for the hook"
        plain.model.script("/state", state("done"))
        may_stop.set()
        if other is not None:
            assert other.answer().status == 200
            assert plain.outcome(next_idx) == "Success"
    assert len(plain.model.requests("/stop")) == 1


def test_a_client_that_hangs_up_while_its_job_is_started_cancels_it_too(plain: Stack) -> None:
    """The response of the model server is awaited, since the hook needs it."""
    may_start, starting = threading.Event(), threading.Event()
    plain.model.once("/start", Tell(starting), Deaf(may_start), STARTED)
    request_idx = next_request_idx()
    with plain.open("/job", request_idx=request_idx):
        assert starting.wait(10)
    plain.worker.wait_for_log(f"499 request {request_idx}: the client hung up")
    may_start.set()
    plain.model.request("/stop")
    assert [one.path for one in plain.model.requests()] == ["/start", "/stop"]
    assert plain.outcome(request_idx) == "Cancelled"


def test_what_is_no_response_is_told() -> None:
    def picture(_payload: Any, _job: Job) -> Any:
        return b"a picture"

    unused: Any = None
    job = Job(unused, JobCall(), None)
    handler: Any = Post("/picture", workload=1, perform=picture).handler()
    with pytest.raises(BadHandler, match=r"Post\('/picture'\)\.perform returned a bytes: .* job\.respond"):
        handler.run(None, job)


def test_a_hook_that_waits_is_woken_at_the_end() -> None:
    call = JobCall()
    client: Any = None
    job = Job(client, call, None)
    waiting, woken = threading.Event(), threading.Event()

    def hook() -> None:
        waiting.set()
        try:
            job.wait(3600)
        except Aborted:
            woken.set()
            raise

    def run() -> None:
        call.begin()
        with contextlib.suppress(Aborted), job.on_cancel(hook):
            job.wait(3600)

    thread = threading.Thread(target=run)
    thread.start()
    assert call.hang_up()
    assert waiting.wait(10)
    assert not woken.is_set()
    call.abort()
    thread.join(10)
    assert woken.is_set()


def test_a_queued_job_that_is_given_up_never_starts(plain: Stack) -> None:
    plain.model.script("/start", STARTED)
    plain.model.script("/state", state("working"))
    request_idx = next_request_idx()
    with plain.open("/job") as first:
        plain.model.request("/state")
        with plain.open("/job", request_idx=request_idx):
            plain.wait_in_hand(2)
        assert plain.outcome(request_idx) == "Cancelled"
        plain.wait_in_hand(1)
        plain.model.script("/state", state("done"))
        assert first.answer().status == 200
    assert len(plain.model.requests("/start")) == 1
    assert not plain.model.requests("/stop")


def test_a_connection_that_the_job_waits_on_is_shut_down(plain: Stack) -> None:
    plain.model.script("/start", STARTED)
    plain.model.once("/state", state("listening", url=plain.model.url))
    plain.model.script("/events", Act.HANG)
    request_idx = next_request_idx()
    with plain.open("/job", request_idx=request_idx):
        events = plain.model.request("/events")
    assert events.gone.wait(10)
    assert plain.outcome(request_idx) == "Cancelled"
    plain.model.request("/stop")


def test_a_job_without_a_sign_of_life_times_out_and_is_cancelled(plain: Stack) -> None:
    request_idx = next_request_idx()
    answer = plain.post("/silent", request_idx=request_idx)
    assert answer.status == 504
    assert answer.object()["error"] == "the model server made no progress for 2 s"
    assert plain.outcome(request_idx) == "Error"
    plain.model.request("/stop")


@pytest.mark.parametrize(
    ("status", "outcome"), [(400, "Success"), (429, "Rejected"), (503, "Rejected"), (500, "Error")]
)
def test_what_the_response_of_a_job_means(plain: Stack, status: int, outcome: str) -> None:
    before = plain.served()
    plain.model.once("/start", whole(b"{}", JSON, status=f"{status} No"))
    request_idx = next_request_idx()
    assert plain.post("/job", request_idx=request_idx, max_tokens=100).status == status
    assert plain.outcome(request_idx) == outcome
    assert plain.served() == before


def test_an_error_that_is_the_clients_fault_is_no_failure_of_the_model(plain: Stack) -> None:
    request_idx = next_request_idx()
    answer = plain.post("/job", request_idx=request_idx, impossible=True)
    assert (answer.status, answer.object()) == (422, {"error": "an impossible job"})
    assert plain.outcome(request_idx) == "Success"


@pytest.mark.parametrize("steps", [[Act.CLOSE], [head("Content-Length: 10"), b"{", Act.CLOSE]])
def test_a_model_server_that_breaks_off_is_a_bad_gateway(plain: Stack, steps: list[bytes | Act]) -> None:
    plain.model.script("/start", STARTED)
    plain.model.script("/state", *steps)
    request_idx = next_request_idx()
    assert plain.post("/job", request_idx=request_idx).status == 502
    assert plain.outcome(request_idx) == "Error"


def test_a_drain_lets_a_job_finish_and_a_second_signal_cancels_it(new_stack: NewStack) -> None:
    stack = new_stack({"DRAIN_TIMEOUT": "20"}, PLAIN_WORKER)
    stack.start_ready()
    stack.model.script("/start", STARTED)
    stack.model.script("/state", state("working"))
    with stack.open("/job") as client:
        stack.model.request("/state")
        stack.worker.terminate()
        stack.wait_draining()
        seen = len(stack.model.requests("/state"))
        stack.model.request("/state", seen + 2)
        stack.worker.terminate()
        assert client.answer().status == 503
    stack.worker.wait()
    assert stack.worker.log.count("Traceback") == 0
