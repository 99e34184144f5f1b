"""A worker that is started with BACKEND=auto: it waits, says so, and becomes the worker that fits."""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from pyworker.app import create_app, worker_of
from pyworker.config import Settings
from pyworker.discovery.survey import Survey
from pyworker.discovery.waiting import INTERVAL, Watch
from pyworker.lifecycle.state import Cause, ModelLifecycle, ModelState
from pyworker.registry import known_workers
from tests.discovery.engines import NOT_FOUND, ROUTES, answer_as
from tests.support.ports import free_port
from tests.support.process import ROOT
from tests.support.scripted import Act, ScriptedServer
from tests.support.stack import NewStack, Stack
from tests.support.waiting import wait_until

AUTO = "pyworker:create_app('auto')"
PATIENCE = 300.0


class Case:
    """A model server and the watch that looks for it."""

    def __init__(self, model: ScriptedServer) -> None:
        self.model = model
        self.lifecycle = ModelLifecycle()
        self.found = 0
        survey = Survey(Settings(model_server_url=model.url), logs={})
        self.watch = Watch(survey, self.lifecycle, patience=PATIENCE, on_found=self._note)

    def _note(self) -> None:
        self.found += 1


@pytest.fixture
def case(scripted_model: ScriptedServer) -> Case:
    return Case(scripted_model)


@pytest.fixture(autouse=True)
def fitting_worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package for the server that has OpenAI's routes, if the project has none of that name."""
    if not (ROOT / "workers" / "openai" / "server.py").exists():
        package = tmp_path / "path" / "openai"
        package.mkdir(parents=True)
        (package / "__init__.py").touch()
        source = "from workers.hello_world.server import create_backend, create_blueprint\n"
        (package / "server.py").write_text(source)
        monkeypatch.setattr(sys, "path", [str(package.parent), *sys.path])


def test_it_waits_until_one_fits(case: Case, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    case.model.default = (NOT_FOUND,)
    assert case.watch.step(1000.0) == INTERVAL
    assert case.watch.step(1002.0) == INTERVAL
    assert caplog.text.count("BACKEND=auto waits: ") == 1, "the same is not said again and again"
    answer_as(case.model, "openai")
    assert case.watch.step(1004.0) is None
    assert case.found == 1
    assert case.lifecycle.state is ModelState.LOADING


def test_what_stays_ambiguous_is_reported_and_forgotten_with_its_end(case: Case) -> None:
    case.model.default = (NOT_FOUND,)
    case.watch.step(1000.0)
    case.watch.step(1000.0 + PATIENCE - 1)
    assert case.lifecycle.state is ModelState.LOADING
    case.watch.step(1000.0 + PATIENCE)
    assert (case.lifecycle.state, case.lifecycle.status.cause) == (ModelState.ERRORED, Cause.LOG)
    message = case.lifecycle.status.error_msg
    assert message.startswith(f"BACKEND=auto finds no worker: {case.model.url}: not a server that is known")
    assert case.found == 0
    case.model.close()
    assert case.watch.step(1002.0 + PATIENCE) is None
    assert case.found == 1, "a new process, which has no error"


def test_a_worker_that_is_not_there_is_named(case: Case) -> None:
    answer_as(case.model, "tgi")
    if (ROOT / "workers" / "tgi" / "server.py").exists():
        pytest.skip("it is there")
    assert case.watch.step(1000.0) == INTERVAL
    case.watch.step(1000.0 + PATIENCE)
    assert "there is no worker 'tgi'" in case.lifecycle.status.error_msg


@pytest.mark.parametrize("worker", ROUTES)
def test_the_app_is_that_of_the_worker_that_fits(scripted_model: ScriptedServer, worker: str) -> None:
    if worker != "openai" and worker not in known_workers():
        pytest.skip("there is no such worker here")
    answer_as(scripted_model, worker)
    app = create_app("auto", Settings(unsecured=True, model_server_url=scripted_model.url))
    assert "auto" not in app.blueprints
    assert worker_of(app).backend.client.base_url == scripted_model.url
    worker_of(app).close()


def test_the_app_of_an_instance_on_which_nothing_answers_is_the_one_that_waits() -> None:
    url = f"http://127.0.0.1:{free_port()}"
    app = create_app("auto", Settings(unsecured=True, model_server_url=url))
    assert "auto" in app.blueprints
    client = app.test_client()
    for path in ("/", "/v1/chat/completions", "/generate/sync"):
        for response in (client.get(path), client.post(path, json={})):
            assert (response.status_code, response.headers["Retry-After"]) == (503, "5")
    assert client.get("/ping").text == "pong"
    worker_of(app).close()


# -- a worker --------------------------------------------------------------------------------------------


def auto_stack(new_stack: NewStack, tmp_path: Path, variables: Mapping[str, str]) -> Stack:
    path = f"{tmp_path / 'path'}:{ROOT}"
    return new_stack({"PYTHONPATH": path, **variables}, AUTO)


def test_a_model_server_that_comes_late(new_stack: NewStack, tmp_path: Path) -> None:
    with ScriptedServer(listening=False) as late:
        stack = auto_stack(new_stack, tmp_path, {"MODEL_SERVER_URL": late.url})
        stack.worker.start()
        assert stack.worker.answers_ping(), "the port listens while it waits"
        refused = stack.post("/v1/completions")
        assert refused.status == 503
        assert refused.object()["error"] == "the worker is loading: its model server is not known yet"
        stack.worker.wait_for_log(f"BACKEND=auto waits: nothing answers at {late.url}")
        stack.wait_for_report(lambda report: report["max_perf"] == 0, "a report of a worker that loads")
        before = stack.worker.worker_pid

        answer_as(late, "openai")
        late.listen()
        stack.worker.wait_for_log(
            f"BACKEND=auto: the worker is openai, since {late.url}/v1/models lists 1 models"
        )
        wait_until(lambda: stack.worker.children not in ([], [before]), "the next process")
        wait_until(stack.worker.answers_ping, "an answer of the worker that was found")
        assert {report["error_msg"] for report in stack.reports} == {""}
        assert stack.worker.log.count("BACKEND=auto: the worker is") == 1
        stack.worker.stop()


def test_a_model_server_that_is_there_first(new_stack: NewStack, tmp_path: Path) -> None:
    stack = auto_stack(new_stack, tmp_path, {})
    answer_as(stack.model, "openai")
    stack.worker.start()
    assert "BACKEND=auto: the worker is openai, since " in stack.worker.log
    assert "BACKEND=auto waits" not in stack.worker.log


def test_sigterm_ends_the_waiting_at_once(new_stack: NewStack, tmp_path: Path) -> None:
    """Also if the server that is asked says nothing."""
    stack = auto_stack(new_stack, tmp_path, {"MODEL_LOG": ""})
    stack.model.default = (Act.HANG,)
    stack.worker.start()
    stack.model.request("/v1/models", 2)
    stack.worker.terminate()
    assert stack.worker.wait(15) == 0
    assert "nothing answers" not in stack.worker.log, "that was only aborted"
    assert "Traceback" not in stack.worker.log
    assert "did not end within" not in stack.worker.log
