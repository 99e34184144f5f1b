"""What says that a model is loaded, its log or its health, and what is said while nothing does."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyworker.config import ReadinessSource
from pyworker.data_types import LogAction
from pyworker.lifecycle.loading_watch import LoadingWatch
from pyworker.lifecycle.log_lines import LogActions
from pyworker.lifecycle.log_tail import LogTailer
from pyworker.lifecycle.probe import HealthProbe
from pyworker.lifecycle.state import ModelLifecycle, ModelState, ModelStatus
from tests.support.scripted import ScriptedServer, whole
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
    assert stack.post("/pass").object()["error"] == "the worker cannot serve now: loading"

    stack.model.script("/health", WELL)
    stack.wait_ready()
    assert stack.post("/pass").status == 200
    stack.worker.wait_for_log("/health is healthy")
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
    stack.worker.wait_for_log("/health is healthy")


# -- loading for long ------------------------------------------------------------------------------------

WARN_AFTER = 300.0
LOADED_PATTERN = [(LogAction.ModelLoaded, "is ready"), (LogAction.ModelError, "Traceback")]


def _ignore(_action: LogAction, _line: str, _is_old: bool) -> None:
    """What a line means is not looked at here."""


class Loading:
    """A model that loads, its log, and the watch over it at a time that the test chooses."""

    def __init__(self, log: Path, caplog: pytest.LogCaptureFixture) -> None:
        self.log = log
        self.now = 1000.0
        self._caplog = caplog
        self.lifecycle = ModelLifecycle()
        self.tailer: LogTailer | None = None

    def watch(
        self,
        source: ReadinessSource = ReadinessSource.LOGS,
        *,
        probe: HealthProbe | None = None,
        log_actions: LogActions = LOADED_PATTERN,
        follow: bool = True,
    ) -> LoadingWatch:
        if follow:
            self.tailer = LogTailer(self.log, log_actions, _ignore)
        tailer = self.tailer
        watch = LoadingWatch(
            self.lifecycle,
            warn_after=WARN_AFTER,
            source=source,
            log_actions=log_actions,
            tailer=tailer,
            probe=probe,
        )
        assert watch.step(1000.0) == WARN_AFTER
        return watch

    def message(self, watch: LoadingWatch) -> str:
        """What the worker's log is told after five minutes, and later."""
        if self.tailer is not None:
            self.tailer.tail_once()
        self.now += watch.step(self.now) or 0.0
        self._caplog.clear()
        watch.step(self.now)
        assert self.lifecycle.status == ModelStatus(ModelState.LOADING), "loading for long is no error"
        [record] = self._caplog.records
        return record.getMessage()


@pytest.fixture
def loading(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> Iterator[Loading]:
    caplog.set_level(logging.WARNING, "pyworker.lifecycle.loading_watch")
    case = Loading(tmp_path / "model.log", caplog)
    yield case
    if case.tailer is not None:
        case.tailer.close()


def test_a_log_without_the_phrase(loading: Loading) -> None:
    loading.log.write_text("one\ntwo\n  three \n\nfo\x1bur\nhalf a line")
    message = loading.message(loading.watch())
    assert message == (
        f"still loading after 5 min; 'is ready' was not seen in {loading.log} (4 lines; last: 'two', "
        "'three', 'four'); no health endpoint is configured"
    )


def test_long_lines_and_many_phrases_are_cut(loading: Loading) -> None:
    loading.log.write_text("x" * 9000 + "\n")
    actions = [(LogAction.ModelLoaded, f"{number}" * 300) for number in range(8)]
    message = loading.message(loading.watch(log_actions=actions))
    assert f"none of '{'0' * 199}…', '{'1' * 199}…'" in message
    assert "'5" not in message
    assert ", 3 more was seen" in message
    assert f"(1 line; last: '{'x' * 199}…')" in message
    assert len(message) < 2000


def test_a_worker_that_knows_no_phrase(loading: Loading) -> None:
    message = loading.message(loading.watch(log_actions=[]))
    assert "the worker has no phrase that says that the model is loaded" in message


def test_a_log_that_is_not_there(loading: Loading) -> None:
    watch = loading.watch()
    assert f"'is ready' was not seen in {loading.log}, which does not exist;" in loading.message(watch)


def test_a_log_that_is_empty(loading: Loading) -> None:
    loading.log.touch()
    watch = loading.watch()
    assert f"{loading.log}, which has no complete line yet;" in loading.message(watch)


def test_a_log_that_cannot_be_read(loading: Loading) -> None:
    loading.log.mkdir()
    watch = loading.watch()
    assert f"{loading.log}, which cannot be read (Is a directory);" in loading.message(watch)


def test_what_health_says(loading: Loading, scripted_model: ScriptedServer) -> None:
    url = scripted_model.url + "/health"
    watch = loading.watch(probe=HealthProbe(url))
    scripted_model.script("/health", LOADING)
    assert loading.message(watch).endswith(f"; health: {url} answered 503")
    scripted_model.script("/health", WELL)
    assert loading.message(watch).endswith(
        f"; health: {url} is healthy (with MODEL_READINESS=either that would mean loaded)"
    )
    scripted_model.close()
    assert loading.message(watch).endswith(f"; health: {url} cannot be reached")


def test_by_health_the_log_and_its_errors_are_named_as_hints(
    loading: Loading, scripted_model: ScriptedServer
) -> None:
    scripted_model.script("/health", LOADING)
    loading.log.write_text("Traceback\n")
    watch = loading.watch(ReadinessSource.HEALTH, probe=HealthProbe(scripted_model.url + "/health"))
    watch.error_line = "Traceback"
    assert loading.message(watch) == (
        f"still loading after 5 min; health: {scripted_model.url}/health answered 503; its log, which "
        f"MODEL_READINESS=health ignores, is {loading.log} (1 line; last: 'Traceback'); "
        "error line in its log: 'Traceback'"
    )


def test_by_health_without_a_log(loading: Loading, scripted_model: ScriptedServer) -> None:
    scripted_model.script("/health", LOADING)
    probe = HealthProbe(scripted_model.url + "/health")
    message = loading.message(loading.watch(ReadinessSource.HEALTH, probe=probe, follow=False))
    assert message == f"still loading after 5 min; health: {scripted_model.url}/health answered 503"


def test_the_log_is_told_with_growing_pauses_and_nothing_is_reported(
    loading: Loading, caplog: pytest.LogCaptureFixture
) -> None:
    watch = loading.watch()
    assert watch.step(1000.0 + 299.0) == 1.0
    assert caplog.records == []
    for elapsed in range(300, 3601, 60):
        assert watch.step(1000.0 + elapsed) is not None
        assert loading.lifecycle.status.error_msg == ""
    told = [record.getMessage().partition(";")[0] for record in caplog.records]
    assert told == [f"still loading after {minute} min" for minute in (5, 10, 20, 40)]


def test_nothing_is_said_once_it_is_loaded(loading: Loading, caplog: pytest.LogCaptureFixture) -> None:
    watch = loading.watch()
    loading.lifecycle.loaded()
    assert watch.step(1000.0 + WARN_AFTER) is None
    assert caplog.records == []


def test_a_worker_that_loads_for_long_says_why_and_reports_no_error(new_stack: NewStack) -> None:
    stack = new_stack({"MODEL_LOADING_WARN_AFTER": "1", "MODEL_HEALTH_ENDPOINT": "/health"})
    stack.keep_benchmark(500.0)
    stack.model.script("/health", LOADING)
    stack.worker.say("the last thing it said")
    stack.worker.start()
    stack.worker.wait_for_log(
        f"'{LOADED_LINE}' was not seen in {stack.worker.model_log} (1 line; last: 'the last thing it said'); "
        f"health: {stack.model.url}/health answered 503"
    )
    assert stack.post("/pass").object()["error"] == "the worker cannot serve now: loading"

    stack.model.script("/health", WELL)
    stack.worker.say(LOADED_LINE)
    stack.wait_ready()
    assert stack.post("/pass").status == 200
    assert reported_errors(stack) == {""}, "an autoscaler would restart a model in the middle of its loading"
