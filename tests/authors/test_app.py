"""The app factory, through Flask's test client: nothing runs, and nothing is needed to look at it."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import flask
import pytest
import werkzeug.exceptions

from pyworker.app import create_app, worker_of
from pyworker.config import Settings
from pyworker.errors import ConfigError
from pyworker.local.model_server import ModelServer
from pyworker.reporting.figures import Counts
from tests.support.ports import free_port
from tests.support.scripted import ScriptedServer, head, whole
from tests.support.waiting import wait_until

MakeApp = Callable[..., flask.Flask]
ECHO = "tests.support.echo_worker"


@pytest.fixture
def make_app(tmp_path: Path) -> Iterator[MakeApp]:
    """Makes apps that need no signatures, and closes them after the test."""
    apps: list[flask.Flask] = []

    def make(name: str = ECHO, **settings: Any) -> flask.Flask:
        chosen: dict[str, Any] = {
            "unsecured": True,
            "model_log": tmp_path / "model.log",
            "state_dir": tmp_path,
            "update_flag": tmp_path / "update",
            "report_addrs": (f"http://127.0.0.1:{free_port()}",),
            **settings,
        }
        app = create_app(name, Settings(**chosen))
        apps.append(app)
        return app

    yield make
    for app in apps:
        worker_of(app).close()


def envelope(prompt: str = "hello", **payload: object) -> bytes:
    auth_data = {"signature": "", "url": "", "endpoint": "e", "cost": 1, "reqnum": 1, "request_idx": 1}
    return json.dumps({"auth_data": auth_data, "payload": {"prompt": prompt, **payload}}).encode()


def make_ready(app: flask.Flask, throughput: float = 100.0) -> None:
    """As if its model had been loaded and measured."""
    lifecycle = worker_of(app).lifecycle
    assert lifecycle.loaded()
    assert lifecycle.benchmarked(throughput, epoch=lifecycle.status.epoch)


def test_no_thread_runs_before_the_runtime_is_started(make_app: MakeApp) -> None:
    before = set(threading.enumerate())
    app = make_app("hello_world")
    assert app.test_client().get("/ping").get_data() == b"pong"
    assert set(threading.enumerate()) == before


def test_two_apps_in_one_process_have_nothing_in_common(make_app: MakeApp) -> None:
    one, other = make_app(), make_app()
    make_ready(one)
    assert worker_of(one) is not worker_of(other)
    assert other.test_client().post("/pass", data=envelope()).status_code == 503
    assert worker_of(one).ledger.counts == worker_of(other).ledger.counts == Counts()


def test_the_standard_routes_stand_beside_the_workers_own(make_app: MakeApp) -> None:
    rules = {
        (rule.rule, method)
        for rule in make_app("hello_world").url_map.iter_rules()
        for method in rule.methods or ()
    }
    assert {
        ("/generate", "POST"),
        ("/generate_stream", "POST"),
        ("/ping", "GET"),
        ("/healthcheck", "GET"),
        ("/pyworker/update", "POST"),
    } <= rules
    assert not any("static" in rule for rule, _ in rules)


def test_a_worker_is_found_by_its_name_or_its_dotted_path(make_app: MakeApp) -> None:
    for name in ("hello_world", "workers.hello_world"):
        assert make_app(name).test_client().post("/generate", data=b"").status_code == 422
    assert make_app(ECHO).test_client().post("/pass", data=b"").status_code == 422


@pytest.mark.parametrize(
    "name", ["nobody", "no.such.package", "", ".", "hello world", "tests.support", "json"]
)
def test_an_unknown_worker_names_those_there_are(make_app: MakeApp, name: str) -> None:
    with pytest.raises(ConfigError, match=r"there is no worker .*hello_world"):
        make_app(name)


def test_a_worker_that_loads_refuses(make_app: MakeApp) -> None:
    response = make_app("hello_world").test_client().post("/generate", data=envelope())
    assert response.status_code == 503
    assert response.headers["Retry-After"]
    assert response.get_json()["error"].startswith("the worker was not started")


def test_errors_are_json(make_app: MakeApp) -> None:
    client = make_app("hello_world").test_client()
    assert (client.get("/nowhere").status_code, client.get("/nowhere").get_json()) == (
        404,
        {"error": "not found"},
    )
    wrong_method = client.get("/generate")
    assert (wrong_method.status_code, wrong_method.get_json()) == (405, {"error": "method not allowed"})
    assert "POST" in wrong_method.headers["Allow"]
    assert client.post("/generate", data=b"{").get_json() == {
        "error": "invalid JSON: EOF while parsing an object at line 1 column 1"
    }


def test_many_hosts_and_paths_are_served_alike(make_app: MakeApp) -> None:
    client = make_app("hello_world").test_client()
    for host in ("a", "b:81", "a"):
        assert client.get("/ping", headers={"Host": host}).data == b"pong"
    paths = [f"/{number}" for number in range(300)]
    assert {client.get(path).status_code for path in paths} == {404}
    assert client.get("/ping", query_string={"a": "b"}).data == client.get("/ping").data == b"pong"


NOT_FOUND = {"error": "not found"}


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/pyworker//update"),
        ("GET", "//ping"),
        ("GET", "/ping/"),
        ("POST", "/slash"),  # the route is /slash/
        ("GET", "/slash"),
        ("GET", "/moved"),
        ("GET", "/pages/page/1"),
        ("GET", "/%2e%2e/etc/passwd"),
        ("GET", "/%ff%fe"),
        ("GET", "/ping%0d%0aLocation:%20x"),
        ("GET", "/" + "a/" * 2000),
    ],
)
def test_nobody_is_redirected(make_app: MakeApp, method: str, path: str) -> None:
    """Nor shown a page: not even if an author's own rules would have it so."""
    app = make_app("hello_world")

    def view(page: int = 0) -> str:
        return f"page {page}"

    app.add_url_rule("/slash/", "slash", view, methods=["GET", "POST"])
    app.add_url_rule("/moved", "moved", view, redirect_to="/ping")
    app.add_url_rule("/pages/", "page", view, defaults={"page": 1})
    app.add_url_rule("/pages/page/<int:page>", "page", view)
    response = app.test_client().open(path, method=method, headers={"Host": "evil.example"})
    assert (response.status_code, response.get_json()) == (404, NOT_FOUND)
    assert response.mimetype == "application/json"
    assert "Location" not in response.headers
    assert b"evil" not in response.data


@pytest.mark.parametrize("host", ["", "a b", "[::1", "\xe4", "a/b", "evil.example:99999", "-" * 10_000])
def test_a_host_that_makes_no_sense_is_answered_in_json(make_app: MakeApp, host: str) -> None:
    client = make_app("hello_world").test_client()
    for path in ("/ping", "/nowhere", "//ping"):
        response = client.get(path, headers={"Host": host})
        assert "Location" not in response.headers
        if response.status_code != 200:
            assert response.get_json()["error"]


def test_head_and_options(make_app: MakeApp) -> None:
    client = make_app("hello_world").test_client()
    assert (client.head("/ping").status_code, client.head("/ping").data) == (200, b"")
    missing = client.head("/nowhere")
    assert (missing.status_code, missing.mimetype, missing.data) == (404, "application/json", b"")
    asked = client.options("/generate")
    assert (asked.status_code, asked.data, asked.headers.get("Content-Type")) == (204, b"", None)
    assert "POST" in asked.headers["Allow"]
    assert client.options("/nowhere").get_json() == NOT_FOUND
    for method in ("PUT", "PATCH", "DELETE", "TRACE", "PROPFIND"):
        wrong = client.open("/ping", method=method)
        assert (wrong.status_code, wrong.get_json()) == (405, {"error": "method not allowed"})


@pytest.mark.parametrize(
    "raised",
    [
        RuntimeError("<html>"),
        werkzeug.exceptions.InternalServerError("<b>no</b>"),
        werkzeug.exceptions.ImATeapot(),
        werkzeug.exceptions.SecurityError("Host"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_whatever_a_view_raises_is_answered_in_json(make_app: MakeApp, raised: Exception) -> None:
    app = make_app("hello_world")

    def view() -> str:
        raise raised

    app.add_url_rule("/raise", view_func=view)
    response = app.test_client().get("/raise")
    assert response.status_code >= 400
    assert response.mimetype == "application/json"
    assert "<" not in response.get_json()["error"]


def test_a_body_above_the_limit(make_app: MakeApp) -> None:
    client = make_app(max_body_bytes=1000).test_client()
    assert client.post("/pass", data=b" " * 1000).status_code == 422
    response = client.post("/pass", data=b" " * 1001)
    assert response.status_code == 413
    assert "1000" in response.get_json()["error"]


def test_update_needs_the_token(make_app: MakeApp, tmp_path: Path) -> None:
    client = make_app(master_token="a-token").test_client()
    for headers in ({}, {"Authorization": "Bearer a-toke"}, {"Authorization": "Bearer a-token2"}):
        assert client.post("/pyworker/update", headers=headers).status_code == 401
    assert not (tmp_path / "update").exists()
    response = client.post("/pyworker/update", headers={"Authorization": "bearer a-token"})
    assert (response.status_code, response.get_json()) == (200, {"ok": True})
    assert (tmp_path / "update").exists()


@pytest.mark.parametrize("fault", ["no folder", "a folder that cannot be written", "a file for a folder"])
def test_an_update_flag_that_cannot_be_written_is_said(
    make_app: MakeApp, tmp_path: Path, fault: str, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    flag = {
        "no folder": tmp_path / "nowhere" / "flag",
        "a folder that cannot be written": Path("/proc/self/flag"),
        "a file for a folder": tmp_path / "file" / "flag",
    }[fault]
    client = make_app(master_token="a-token", update_flag=flag).test_client()
    response = client.post("/pyworker/update", headers={"Authorization": "bearer a-token"})
    assert response.status_code == 503
    said = response.get_json()["error"]
    assert said.startswith(f"no update: {flag} cannot be written (")
    assert "set PYWORKER_UPDATE_FLAG" in said
    assert "update requested, but" in caplog.text
    assert "Traceback" not in caplog.text
    assert client.post("/pyworker/update").status_code == 401


def test_healthcheck_asks_the_configured_endpoint(make_app: MakeApp, scripted_model: ScriptedServer) -> None:
    client = make_app(model_server_url=scripted_model.url, model_health_endpoint="/live").test_client()
    scripted_model.script("/live", whole(b"alive", "Content-Type: text/plain", status="202 Accepted"))
    response = client.get("/healthcheck")
    assert (response.status_code, response.get_data()) == (202, b"alive")


def test_healthcheck_without_a_model_server(make_app: MakeApp) -> None:
    response = make_app(model_server_url=f"http://127.0.0.1:{free_port()}").test_client().get("/healthcheck")
    assert response.status_code == 503
    assert response.headers["Retry-After"]


def test_hello_world_serves_text_and_streams(make_app: MakeApp, local_model: ModelServer) -> None:
    app = make_app("hello_world", model_server_url=local_model.url)
    make_ready(app)
    client = app.test_client()
    response = client.post("/generate", data=envelope("the worker", max_response_tokens=5))
    assert response.status_code == 200
    assert response.get_json()["tokens"] == 5
    streamed = client.post("/generate_stream", data=envelope("the worker", max_response_tokens=5))
    assert streamed.mimetype == "text/event-stream"
    lines = [line for line in streamed.get_data(as_text=True).split("\n\n") if line]
    assert len(lines) == 6
    assert lines[-1] == "data: [DONE]"
    assert json.loads(lines[0].removeprefix("data: "))["token"]
    assert worker_of(app).ledger.counts == Counts(received=2, served=2)


def test_every_outcome_is_in_the_books_once(make_app: MakeApp, scripted_model: ScriptedServer) -> None:
    app = make_app(model_server_url=scripted_model.url)
    make_ready(app)
    client = app.test_client()

    def status(path: str) -> int:
        return client.post(path, data=envelope(), buffered=True).status_code

    assert status("/pass") == 200
    scripted_model.once("/pass", whole(b"", status="500 Fault"))
    assert status("/pass") == 500
    scripted_model.once("/stream", head(status="204 No Content"))
    assert status("/stream") == 204
    assert status("/serial/fail") == 500
    # A response whose body is not read to its end was given up by its client.
    scripted_model.once("/stream", whole(b"some bytes"))
    client.post("/stream", data=envelope(), buffered=False).close()
    assert worker_of(app).ledger.counts == Counts(received=5, served=2, errored=2, cancelled=1)
    assert worker_of(app).ledger.counts.in_hand == 0


def test_more_requests_than_threads_are_refused(make_app: MakeApp, scripted_model: ScriptedServer) -> None:
    app = make_app(model_server_url=scripted_model.url, threads=17)  # one for a request, 16 reserved
    make_ready(app)
    client = app.test_client()
    first = client.post("/stream", data=envelope(), buffered=False)
    refused = client.post("/stream", data=envelope())
    assert refused.status_code == 429
    assert refused.get_json()["requests_in_hand"] == 1
    first.close()
    assert client.post("/stream", data=envelope()).status_code == 200


def test_the_runtime_starts_stops_and_leaves_nothing(
    make_app: MakeApp, scripted_model: ScriptedServer
) -> None:
    app = make_app(model_server_url=scripted_model.url, model_health_endpoint="/health")
    worker = worker_of(app)
    before = set(threading.enumerate())
    worker.start()
    assert {thread.name for thread in set(threading.enumerate()) - before} >= {
        "pyworker-report",
        "pyworker-tail",
        "pyworker-health",
        "pyworker-disconnect",
        "pyworker-benchmark",
    }
    worker.close()
    worker.close()
    wait_until(lambda: set(threading.enumerate()) <= before, "the end of every thread")


@pytest.mark.parametrize("function", ["create_backend", "create_blueprint"])
def test_a_package_without_its_functions_is_refused(
    make_app: MakeApp, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, function: str
) -> None:
    name = f"half_a_worker_without_{function}"
    package = tmp_path / name
    package.mkdir()
    (package / "__init__.py").touch()
    functions = {"create_backend": "settings", "create_blueprint": "backend"}
    del functions[function]
    source = "".join(f"def {there}({argument}): ...\n" for there, argument in functions.items())
    (package / "server.py").write_text(source)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    with pytest.raises(ConfigError, match=f"{name}.server has no function {function}"):
        make_app(name)


def test_a_fault_inside_a_package_is_not_taken_for_its_absence(
    make_app: MakeApp, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "worker_with_a_fault"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "server.py").write_text("import a_module_that_is_not_installed\n")
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    with pytest.raises(ModuleNotFoundError, match="a_module_that_is_not_installed"):
        make_app("worker_with_a_fault")
