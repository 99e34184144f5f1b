"""What a response of the model server means for the reports: work, a refusal, or a fault."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import pytest

from tests.support.http import next_request_idx
from tests.support.scripted import Act, Step, chunk, head, whole
from tests.support.stack import Stack
from tests.support.waiting import DEADLINE

EVENTS = "Content-Type: text/event-stream"
JSON = "Content-Type: application/json"
CHUNKED = "Transfer-Encoding: chunked"


#: Workloads that stand out among those of other tests, whose last figures may still be on their way.
WORK, MARK = 128_000.0, 1_000_000.0
NAMES = ("new_load", "rej_load", "cur_perf")


def served(stack: Stack, path: str, steps: Sequence[Step]) -> tuple[int, str, list[int]]:
    """Status, outcome, and how often its workload is in the reports: as new, as rejected and as served."""
    stack.wait_in_hand(0)
    seen = len(stack.reports)

    def reported(name: str) -> float:
        return sum(float(report[name]) for report in stack.reports[seen:])

    stack.model.script(path, *steps)
    request_idx = next_request_idx()
    status = stack.post(path, request_idx=request_idx, work=WORK).status
    outcome = stack.outcome(request_idx)
    # It ended before this one began, so a report that has this one has all of it.
    stack.model.script("/copy", whole(b"{}"))
    assert stack.post("/copy", work=MARK).status == 200
    assert stack.autoscaler.fleet.wait_for(lambda _: reported("cur_perf") >= MARK, DEADLINE)
    marks = {"new_load": MARK, "rej_load": 0.0, "cur_perf": MARK}
    return status, outcome, [round((reported(name) - marks[name]) / WORK) for name in NAMES]


@pytest.mark.parametrize(("path", "status"), [("/stream", 429), ("/serial", 503)])
def test_a_refusal_of_the_model_is_no_work(stack: Stack, path: str, status: int) -> None:
    steps = [whole(b"too busy", f"Retry-After: {status}", status=f"{status} No")]
    found, outcome, sums = served(stack, path, steps)
    assert (found, outcome) == (status, "Rejected")
    assert sums[1:] == [1, 0]


@pytest.mark.parametrize("status", [302, 422])
def test_another_status_without_work_is_a_success_that_served_nothing(stack: Stack, status: int) -> None:
    found, outcome, sums = served(stack, "/pass", [whole(b"no", status=f"{status} No")])
    assert (found, outcome) == (status, "Success")
    assert sums == [1, 0, 0]


def test_work_is_served(stack: Stack) -> None:
    found, outcome, sums = served(stack, "/pass", [whole(b"{}")])
    assert (found, outcome) == (200, "Success")
    assert sums == [1, 0, 1]


def test_a_fault_of_the_model_is_an_error(stack: Stack) -> None:
    found, outcome, sums = served(stack, "/pass", [whole(b"oops", status="500 Oops")])
    assert (found, outcome) == (500, "Error")
    assert sums == [1, 0, 0]


ERROR = b'{"error": {"message": "CUDA out of memory", "code": 500}}'
#: What a handler that looks finds: the route, the model's response, and what is logged.
FAILURES: dict[str, tuple[str, list[Step]]] = {
    "an object": ("/judged", [whole(ERROR, JSON)]),
    "an object in chunks": ("/judged", [head(JSON, CHUNKED), chunk(ERROR[:9]), chunk(ERROR[9:]), chunk(b"")]),
    "an object until the end": ("/judged/stream", [head(JSON), ERROR, Act.CLOSE]),
    "an object that the handler parses": ("/judged/json", [whole(ERROR, JSON)]),
    "the only event": (
        "/judged/stream",
        [head(EVENTS, CHUNKED), chunk(b"data: " + ERROR + b"\n\n"), chunk(b"data: [DONE]\n\n"), chunk(b"")],
    ),
    "the last event": (
        "/judged/stream",
        [
            head(EVENTS, CHUNKED),
            *[chunk(b'data: {"token": "one"}\n\n')] * 2000,
            chunk(b"data: " + ERROR + b"\n\n"),
            chunk(b""),
        ],
    ),
}


def test_a_200_that_tells_of_an_error_is_an_error(stack: Stack) -> None:
    path, steps = FAILURES["an object"]
    found, outcome, sums = served(stack, path, steps)
    assert (found, outcome) == (200, "Error")
    assert sums == [1, 0, 0]
    assert "the response is a failure: CUDA out of memory" in stack.worker.log
    sent: dict[str, int] = {}
    for case, (path, steps) in FAILURES.items():
        stack.model.script(path, *steps)
        sent[case] = next_request_idx()
        assert stack.post(path, request_idx=sent[case]).status == 200
    assert {case: stack.outcome(idx) for case, idx in sent.items()} == dict.fromkeys(sent, "Error")


def test_the_client_gets_what_the_model_said(stack: Stack) -> None:
    for case, (path, steps) in FAILURES.items():
        stack.model.script(path, *steps)
        response = stack.post(path)
        assert response.complete, case
        assert b"CUDA out of memory" in response.body, case


def test_a_stream_that_is_parked_is_judged_at_its_end(stack: Stack) -> None:
    gate = threading.Event()
    request_idx = next_request_idx()
    event = chunk(b"data: " + ERROR + b"\n\n")
    stack.model.script(
        "/judged/stream", head(EVENTS, CHUNKED), chunk(b'data: {"token": 1}\n\n'), gate, event, chunk(b"")
    )
    with stack.open("/judged/stream", request_idx=request_idx) as client:
        assert client.head() == 200
        client.chunk()
        gate.set()
        assert ERROR in client.chunk()
        assert client.chunk() == b""
    assert stack.outcome(request_idx) == "Error"


def test_work_is_no_failure(stack: Stack) -> None:
    sent: list[int] = []
    for path in ("/judged", "/judged/stream"):
        for body in (
            b'{"error": null, "text": "the word error"}',
            b"",
            b"error",
            b"\x1f\x8b\x08" + bytes(100),
        ):
            stack.model.script(path, whole(body, JSON))
            sent.append(next_request_idx())
            assert stack.post(path, request_idx=sent[-1]).status == 200
    assert [stack.outcome(request_idx) for request_idx in sent] == ["Success"] * 8


def test_without_a_judge_of_its_own_a_handler_is_content_with_the_status(stack: Stack) -> None:
    assert served(stack, "/pass", [whole(ERROR, JSON)])[1] == "Success"


def test_a_judge_that_fails_spoils_nothing(stack: Stack) -> None:
    found, outcome, _ = served(stack, "/judged", [whole(b"judge fails")])
    assert (found, outcome) == (200, "Success")
    assert "find_failure failed" in stack.worker.log
