"""What says that a model is loaded, its log or its health, and what is said while nothing does."""

from __future__ import annotations

from tests.support.scripted import whole
from tests.support.stack import ERROR_LINE, INFO_LINE, LOADED_LINE, NewStack, Stack

LOADING = whole(b"loading", status="503 Loading")
WELL = whole(b"well")


def start_loading(stack: Stack) -> None:
    """A worker whose model answers 503, and that has asked it so far."""
    stack.keep_benchmark(500.0)
    stack.model.script("/health", LOADING)
    stack.worker.start()
    stack.model.request("/health", 2)


def reported_errors(stack: Stack) -> set[str]:
    return {report["error_msg"] for report in stack.reports}


# -- by health -------------------------------------------------------------------------------------------


def test_by_health_no_log_is_needed(new_stack: NewStack) -> None:
    stack = new_stack({"MODEL_READINESS": "health", "MODEL_HEALTH_ENDPOINT": "/health", "MODEL_LOG": ""})
    start_loading(stack)
    assert "loading" in stack.post("/pass").object()["error"]

    stack.model.script("/health", WELL)
    stack.wait_ready()
    assert stack.post("/pass").status == 200
    stack.worker.wait_for_log("/health is well")
    # Its own connection each time, never one of those that carry requests.
    probing = [request.connection for request in stack.model.requests("/health")]
    assert len(set(probing)) == len(probing)
    assert {request.connection for request in stack.model.requests("/pass")}.isdisjoint(probing)


def test_by_health_the_log_is_a_hint_only(new_stack: NewStack) -> None:
    stack = new_stack({"MODEL_READINESS": "health", "MODEL_HEALTH_ENDPOINT": "/health"})
    start_loading(stack)
    stack.worker.say(LOADED_LINE)
    stack.worker.say(f"{ERROR_LINE}: a first try")
    stack.worker.wait_for_log(f"MODEL_READINESS=health: {ERROR_LINE}: a first try")
    assert f"MODEL_READINESS=health: {LOADED_LINE}" in stack.worker.log
    assert "loading" in stack.post("/pass").object()["error"]

    stack.model.script("/health", WELL)
    stack.wait_ready()
    assert reported_errors(stack) == {""}


def test_by_health_a_crash_and_a_restart_of_the_model_are_seen(new_stack: NewStack) -> None:
    stack = new_stack({"MODEL_READINESS": "health", "MODEL_HEALTH_ENDPOINT": "/health"})
    stack.start_ready()
    stack.model.script("/health", LOADING)
    stack.worker.say(f"{ERROR_LINE}: the process has died")
    stack.wait_for_next_report(lambda report: "the process has died" in report["error_msg"], "an error")
    stack.model.script("/health", WELL)
    stack.wait_for_next_report(lambda report: not report["error_msg"], "a report of a well model")
    assert stack.post("/pass").status == 200


# -- whichever is first ----------------------------------------------------------------------------------


def test_either_by_a_line_of_the_log(new_stack: NewStack) -> None:
    stack = new_stack({"MODEL_READINESS": "either", "MODEL_HEALTH_ENDPOINT": "/health"})
    start_loading(stack)
    stack.worker.say(LOADED_LINE)
    stack.worker.wait_for_log(f"the model is loaded: {LOADED_LINE}")
    stack.model.script("/health", WELL)
    stack.wait_ready()
    assert stack.worker.log.count("the model is loaded") == 1


def test_either_by_health_after_an_error_line(new_stack: NewStack) -> None:
    stack = new_stack({"MODEL_READINESS": "either", "MODEL_HEALTH_ENDPOINT": "/health"})
    start_loading(stack)
    stack.worker.say(f"{ERROR_LINE}: a first try")
    stack.wait_for_next_report(lambda report: "a first try" in report["error_msg"], "an error")
    assert "errored" in stack.post("/pass").object()["error"]
    stack.worker.say(f"{INFO_LINE} a second try")

    stack.model.script("/health", WELL)
    stack.wait_ready()
    assert stack.post("/pass").status == 200
    stack.worker.wait_for_log("/health is well")
