"""Faults of a worker package that are found when the worker is made, each with what to write."""

from __future__ import annotations

import itertools
import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pyworker import create_app
from pyworker.config import Settings
from pyworker.errors import ConfigError
from tests.support.http import ask
from tests.support.ports import free_port
from tests.support.process import WorkerProcess, environment
from tests.support.waiting import wait_until

IMPORTS = """
from __future__ import annotations
import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
import flask
from pyworker import responses
from pyworker.backend import Backend
from pyworker.data_types import *
from pyworker.jobs import Job, JobHandler
from pyworker.routes import *

if TYPE_CHECKING:
    from decimal import Decimal

"""
PAYLOAD = """
@dataclass
class Text(ApiPayload):
    prompt: str

    @classmethod
    def for_test(cls):
        return cls("a prompt")

    def count_workload(self):
        return 1.0

"""
HANDLER = """
class Handler(EndpointHandler[Text]):
    @property
    def endpoint(self):
        return "/generate"

    @classmethod
    def payload_cls(cls):
        return Text

    def make_benchmark_payload(self):
        return Text("a prompt")

    def generate_client_response(self, client_request, model_response):
        return responses.pass_through(model_response)

"""
CLASSES = """
def create_backend(settings):
    return Backend("http://127.0.0.1:1", None, True, Handler(), health_endpoint="/health", settings=settings)

def create_blueprint(backend):
    blueprint = flask.Blueprint("own", __name__)
    blueprint.add_url_rule("/generate", view_func=backend.create_handler(Handler()), methods=["POST"])
    return blueprint
"""
SHORT = """
create_backend, create_blueprint = worker(
    "http://127.0.0.1:1", Post("/generate", Text, benchmark={"prompt": "Hello"}), health="/health"
)
"""
GOOD = IMPORTS + PAYLOAD + HANDLER + CLASSES
GOOD_SHORT = IMPORTS + PAYLOAD + SHORT
_numbers = itertools.count(1)

Make = Callable[[str], str]


@pytest.fixture
def made(tmp_path: Path) -> Iterator[Make]:
    """Writes a `server.py`, the only file of its folder, and makes the app; gives the error's text."""
    sys.path.insert(0, str(tmp_path))

    def make(text: str) -> str:
        name = f"faulty_{next(_numbers)}"
        (tmp_path / name).mkdir()
        (tmp_path / name / "server.py").write_text(text, encoding="utf-8")
        try:
            create_app(name, Settings(unsecured=True))
        except ConfigError as error:
            return re.sub(r"server\.py:\d+", "server.py:N", str(error).replace(name, "my_llm"))
        return ""

    yield make
    sys.path.remove(str(tmp_path))


@pytest.mark.parametrize("text", [GOOD, GOOD_SHORT])
def test_a_folder_with_a_server_is_a_worker(made: Make, text: str) -> None:
    assert made(text) == ""


FAULTS: dict[str, tuple[str, str, str, str]] = {
    # name: (text, what is replaced, by what, the error)
    "no dataclass": (
        GOOD,
        "@dataclass\nclass Text",
        "class Text",
        "my_llm/server.py:N: class Text has the fields prompt, but is no dataclass: write @dataclass "
        "in the "
        "line above it",
    ),
    "no dataclass, the short way": (
        GOOD_SHORT,
        "@dataclass\nclass Text",
        "class Text",
        "my_llm/server.py:N: class Text has the fields prompt, but is no dataclass: write @dataclass",
    ),
    "a type that cannot be checked": (
        GOOD,
        "prompt: str",
        "prompt: str\n    image: flask.Response | None = None",
        "my_llm/server.py:N: class Text.image has the type flask.Response | None, which cannot be checked",
    ),
    "a type that is not imported": (
        GOOD_SHORT,
        "prompt: str",
        "prompt: str\n    price: Decimal | None = None",
        "my_llm/server.py:N: class Text.price has the type Decimal | None, which cannot be checked",
    ),
    "methods that are missing": (
        GOOD,
        "def count_workload",
        "def count_work",
        "my_llm/server.py:N: class Text lacks count_workload: write the methods",
    ),
    "a URL without a scheme": (
        GOOD,
        "http://127.0.0.1:1",
        "127.0.0.1:1",
        "my_llm/server.py:N: the URL of the model server must begin with http:// or https:// and name "
        "a host: "
        "it is '127.0.0.1:1'; write \"http://127.0.0.1:1\"",
    ),
    "a URL without a scheme, the short way": (
        GOOD_SHORT,
        "http://127.0.0.1:1",
        "localhost:8080",
        "my_llm/server.py:N: the URL of the model server must begin with http:// or https:// and name "
        "a host: "
        "it is 'localhost:8080'; write \"http://localhost:8080\"",
    ),
    "phrases that are no pairs": (
        GOOD,
        "health_endpoint",
        'log_actions=["loaded"], health_endpoint',
        "my_llm/server.py:N: phrase 1 of the model's log is 'loaded': write a pair of what it means "
        "and the "
        'phrase, such as (LogAction.ModelLoaded, "server is listening")',
    ),
    "a text for phrases": (
        GOOD_SHORT,
        "health=",
        'log="loaded", health=',
        "my_llm/server.py:N: the phrases of the model's log are 'loaded': write a list such as",
    ),
    "a pair in the wrong order": (
        GOOD_SHORT,
        "health=",
        'log=[("loaded", LogAction.ModelLoaded)], health=',
        "my_llm/server.py:N: phrase 1 of the model's log is ('loaded', <LogAction.ModelLoaded: 1>): write a",
    ),
    "no phrase and no health": (
        GOOD,
        ' health_endpoint="/health",',
        "",
        "my_llm/server.py:N: nothing says that the model is loaded: give it a phrase of the model's "
        "log, such "
        'as (LogAction.ModelLoaded, "server is listening"), or a health endpoint, such as "/health"',
    ),
    "no phrase and no health, the short way": (
        GOOD_SHORT,
        ', health="/health"',
        "",
        "my_llm/server.py:N: nothing says that the model is loaded: give it a phrase of the model's log",
    ),
    "a handler that returns None": (
        GOOD,
        "return responses.pass_through",
        "responses.pass_through",
        "my_llm/server.py:N: class Handler.generate_client_response returns None: end it with `return "
        "responses.pass_through(model_response)`",
    ),
    "a handler that returns None of its own accord": (
        GOOD,
        "return responses.pass_through(model_response)",
        "if model_response.ok:\n            return\n        return None",
        "my_llm/server.py:N: class Handler.generate_client_response returns None: end it with",
    ),
    "a handler that returns a text": (
        GOOD,
        "return responses.pass_through(model_response)",
        'return f"{model_response.status_code}"',
        "my_llm/server.py:N: class Handler.generate_client_response returns a text: return responses.pass_",
    ),
    "a handler that is async": (
        GOOD,
        "def generate_client_response",
        "async def generate_client_response",
        "my_llm/server.py:N: class Handler.generate_client_response is async: write `def generate_client_",
    ),
    "a handler that yields": (
        GOOD,
        "return responses.pass_through(model_response)",
        "yield model_response.content",
        "my_llm/server.py:N: class Handler.generate_client_response has a yield, so it returns no response",
    ),
    "a handler with other parameters": (
        GOOD,
        "self, client_request, model_response",
        "self, model_response",
        "my_llm/server.py:N: class Handler.generate_client_response takes model_response: write (self, "
        "client_request, model_response), and behind them `payload: … | None = None`",
    ),
    "a function that returns None": (
        GOOD_SHORT,
        '\ncreate_backend, create_blueprint = worker(\n    "http://127.0.0.1:1", Post("/generate", Text, ',
        '\ndef run(payload, job):\n    job.send("GET", "/")\n'
        '\ncreate_backend, create_blueprint = worker(\n    "http://127.0.0.1:1", Post("/generate", Text, '
        "perform=run, ",
        "my_llm/server.py:N: Post('/generate').perform returns None: end it with `return job.respond({…})`",
    ),
    "two handlers on one path": (
        GOOD,
        "    return blueprint\n",
        '    blueprint.add_url_rule("/generate", view_func=backend.create_handler(Handler()), '
        'methods=["POST"])\n    return blueprint\n',
        "my_llm/server.py:N: class Handler and my_llm/server.py:N: class Handler are both at POST "
        "/generate: "
        "give one of them another path",
    ),
    "two routes on one path": (
        GOOD_SHORT,
        ", health=",
        ', Post("/generate"), health=',
        "my_llm/server.py:N: Post('/generate') and my_llm/server.py:N: Post('/generate') are both at POST "
        "/generate: give one of them another path",
    ),
    "a path of the worker's own": (
        GOOD_SHORT,
        ", health=",
        ', Get("/status"), health=',
        "are both at GET /status: give one of them another path",
    ),
    "another method": (
        GOOD,
        'methods=["POST"]',
        'methods=["GET"]',
        "my_llm/server.py:N: class Handler is registered at /generate for GET, but it is for POST: write "
        'methods=["POST"], or another method in its class',
    ),
    "a variable that its route has not": (
        GOOD,
        "create_handler(Handler())",
        'create_handler(type("Handler", (Handler,), {"endpoint": "/generate/<name>"})())',
        "class Handler has the variable name in its endpoint /generate/<name>, but is registered at "
        "/generate: give both the same variables",
    ),
    "a benchmark with a variable": (
        GOOD_SHORT,
        '"/generate"',
        '"/generate/<name>"',
        "my_llm/server.py:N: Post('/generate/<name>') has variables in its path /generate/<name>, for which "
        "the benchmark has no values: measure another route",
    ),
    "no property": (
        GOOD,
        "    @property\n",
        "",
        "my_llm/server.py:N: class Handler.endpoint is a method: write @property in the line above it",
    ),
    "no payload class": (
        GOOD,
        "return Text\n",
        "return dict\n",
        "my_llm/server.py:N: class Handler.payload_cls returns <class 'dict'>: return a subclass of "
        "ApiPayload",
    ),
    "a path without a slash": (
        GOOD,
        'return "/generate"',
        'return "generate"',
        'my_llm/server.py:N: class Handler.endpoint must start with /: write "/generate"',
    ),
    "a variable of another kind": (
        GOOD_SHORT,
        ", health=",
        ', Get("/files/<int:number>"), health=',
        "my_llm/server.py:N: Get('/files/<int:number>').endpoint has the variable <int:number>: write "
        "<name> "
        "for one segment of the path, or <path:name> for several",
    ),
    "a header field of a connection": (
        GOOD_SHORT,
        ", health=",
        ', Get("/files", pass_headers=("Connection",)), health=',
        "my_llm/server.py:N: Get('/files').pass_headers has Connection, which belongs to one "
        "connection or to "
        "the worker: leave it out",
    ),
    "a header field with a secret": (
        GOOD_SHORT,
        ", health=",
        ', Get("/files", pass_headers=("authorization",)), health=',
        "my_llm/server.py:N: Get('/files').pass_headers has authorization, which may hold a secret of the "
        "client: leave it out",
    ),
    "header fields as a text": (
        GOOD_SHORT,
        ", health=",
        ', Get("/files", pass_headers="Accept"), health=',
        "my_llm/server.py:N: Get('/files').pass_headers is 'Accept': write a tuple of names, such as",
    ),
    "a timeout of nothing": (
        GOOD_SHORT,
        ", health=",
        ', Get("/files", timeout=0), health=',
        "my_llm/server.py:N: Get('/files').timeout is 0: write a number of seconds above 0, or None",
    ),
    "a priority that is none": (
        GOOD_SHORT,
        ", health=",
        ', Get("/files", priority=1), health=',
        "my_llm/server.py:N: Get('/files').priority is 1: write Priority.HIGH, Priority.NORMAL or",
    ),
    "a workload beside a payload class": (
        GOOD_SHORT,
        ", health=",
        ', Post("/files", Text, workload=3), health=',
        "my_llm/server.py:N: Post('/files') has a payload class, whose count_workload says the workload, and",
    ),
    "no benchmark": (
        GOOD_SHORT,
        ', benchmark={"prompt": "Hello"}',
        "",
        "my_llm/server.py:N: 0 routes have a benchmark: give one route, whose throughput the worker "
        "reports, "
        'an example of its payload, such as Post(…, benchmark={"prompt": "Hello"})',
    ),
    "a benchmark that does not fit": (
        GOOD_SHORT,
        'benchmark={"prompt": "Hello"}',
        'benchmark={"promt": "Hello"}',
        "my_llm/server.py:N: Post('/generate').benchmark does not fit the payload class Text: prompt: "
        "missing "
        "parameter",
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_told_when_the_worker_is_made(made: Make, name: str) -> None:
    text, old, new, expected = FAULTS[name]
    assert old in text
    assert expected in made(text.replace(old, new, 1))


def test_every_fault_of_a_call_is_told_at_once(made: Make) -> None:
    text = GOOD_SHORT.replace("http://", "").replace("health=", "log=[7], health=")
    assert "it is '127.0.0.1:1'" in made(text)
    assert "phrase 1 of the model's log is 7" in made(text)


def test_gunicorn_ends_with_the_error(tmp_path: Path) -> None:
    folder = tmp_path / "my_llm"
    folder.mkdir()
    (folder / "server.py").write_text(GOOD.replace("http://", ""), encoding="utf-8")
    worker = WorkerProcess("pyworker:create_app('my_llm')", tmp_path, {})
    worker.launch()
    try:
        assert worker.wait() == 4
    finally:
        worker.stop()
    [line] = [number for number, text in enumerate(GOOD.splitlines(), 1) if "return Backend(" in text]
    assert f"cannot start: my_llm/server.py:{line}: the URL of the model server must begin with" in worker.log


def test_a_package_that_cannot_be_imported_ends_gunicorn_where_nobody_is_to_be_told(tmp_path: Path) -> None:
    folder = tmp_path / "my_llm"
    folder.mkdir()
    (folder / "server.py").write_text("import helper\n\nhelper.make(model_nmae)\n", encoding="utf-8")
    (tmp_path / "helper.py").write_text("def make(model: str) -> None: ...\n", encoding="utf-8")
    worker = WorkerProcess("pyworker:create_app('my_llm')", tmp_path, {"UNSECURED": "true"})
    worker.launch()
    try:
        assert worker.wait() == 4
    finally:
        worker.stop()
    assert "cannot start: NameError: name 'model_nmae' is not defined (my_llm/server.py:3)" in worker.log


def test_gunicorn_without_its_configuration_says_so(tmp_path: Path) -> None:
    """In a folder without a gunicorn.conf.py, which it would find by itself."""
    port = free_port()
    command = [sys.executable, "-m", "gunicorn", "-b", f"127.0.0.1:{port}"]
    log_file = tmp_path / "worker.log"
    auth_data = {"signature": "bm8=", "url": "", "endpoint": "", "cost": 1, "reqnum": 1, "request_idx": 1}
    body = json.dumps({"auth_data": auth_data, "payload": {"prompt": "hello"}}).encode()
    with log_file.open("wb") as log:
        process = subprocess.Popen(
            [*command, "pyworker:create_app('hello_world')"],
            env=environment(tmp_path, port, {}),
            cwd=tmp_path,
            stdout=log,
            stderr=log,
        )
    try:
        wait_until(lambda: b"Booting worker" in log_file.read_bytes(), "the worker")
        for _ in range(2):
            answer = ask(f"http://127.0.0.1:{port}", "POST", "/generate", body)
            assert answer.status == 503
            assert "the worker was not started: run gunicorn with `-c gunicorn" in answer.object()["error"]
        ready = ask(f"http://127.0.0.1:{port}", "GET", "/readyz").object()
        assert ready["reason"].startswith("the worker was not started")
    finally:
        process.terminate()
        process.wait(20)
    assert (
        log_file.read_text().count("the worker was not started: run gunicorn with `-c gunicorn.conf.py`") == 1
    )


def test_a_url_where_nothing_listens_is_told_within_ten_seconds(tmp_path: Path) -> None:
    (tmp_path / "my_llm").mkdir()
    (tmp_path / "my_llm" / "server.py").write_text(GOOD_SHORT, encoding="utf-8")
    variables = {"UNSECURED": "true", "REPORT_ADDR": "http://127.0.0.1:1"}
    worker = WorkerProcess("pyworker:create_app('my_llm')", tmp_path, variables)
    expected = "nothing listens for the model server yet: http://127.0.0.1:1 cannot be reached"
    try:
        worker.start()
        worker.wait_for_log(expected, 10)

        def awaited() -> str:
            return ask(worker.url, "GET", "/status").object()["waits_for"]

        wait_until(lambda: expected in awaited(), "the same in /status")
        assert "if it is elsewhere, set MODEL_SERVER_URL" in awaited()
    finally:
        worker.stop()
