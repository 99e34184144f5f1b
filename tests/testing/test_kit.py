"""`pyworker.testing`, as the author of a worker uses it: in this process, and over sockets."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

import tests.openapi.various.server as various
from pyworker.errors import ConfigError
from pyworker.testing import Kit, ModelServer, WorkerNotReady, cut, error, running, silent, stream, whole
from tests.support.kits import lasting
from tests.support.process import ROOT
from tests.support.waiting import DEADLINE

PAYLOAD = {"prompt": "tide", "seed": 5}


@pytest.fixture(scope="module")
def shared_kit() -> Iterator[Kit]:
    with running("tests.openapi.various", live=True) as kit, lasting(kit):
        yield kit


@pytest.fixture
def kit(shared_kit: Kit) -> Kit:
    shared_kit.forget()
    return shared_kit


def test_in_this_process_with_flask_s_test_client() -> None:
    with running(various) as kit:
        kit.model.answer("/generate", whole({"text": "in and out"}))
        reply = kit.post("/generate", PAYLOAD)
        response = kit.client.post("/generate", json=kit.envelope(PAYLOAD))
        unsigned = kit.client.post("/generate", json={"auth_data": {}, "payload": PAYLOAD})

        assert (reply.status, reply.json()) == (200, {"text": "in and out"})
        assert (response.status_code, response.json) == (200, {"text": "in and out"})
        assert unsigned.status_code == 422
        assert kit.model.request("/generate").json() == {**PAYLOAD, "steps": 4}
        assert kit.reported.outcome(reply.request_idx) == "Success"

        kit.model.answer("/generate", stream("in", "out", is_cut=True))
        torn = kit.post("/generate", PAYLOAD)
        assert (torn.body, torn.is_complete) == (b"data: in\n\ndata: out\n\n", False)
        assert kit.reported.outcome(torn.request_idx) == "Error"
        assert kit.reported.workload_received() == 12.0
        assert kit.reported.workload_served() == 8.0
        with pytest.raises(RuntimeError, match="live=True"), kit.hang_up("/generate", PAYLOAD):
            pass


def test_why_a_worker_is_not_ready() -> None:
    with ModelServer() as model:
        model.answer("/generate", error(500))
        with (
            pytest.raises(WorkerNotReady, match="500"),
            running(various, {"MODEL_READY_TIMEOUT": "0.2"}, benchmark=True, model=model, timeout=20),
        ):
            pass
    with pytest.raises(ConfigError, match="no worker 'no_such'"), running("no_such"):
        pass
    with pytest.raises(ConfigError, match="started by its name"), running(various, live=True):
        pass


def test_errors_and_cuts_of_the_model_server(kit: Kit) -> None:
    kit.model.answer_once("/generate", error(500, "out of memory"))
    kit.model.answer_once("/generate", cut())
    kit.model.answer_once("/generate", lambda request: whole(request.json()["prompt"]))
    failed, torn, told = (kit.post("/generate", PAYLOAD) for _ in range(3))

    assert (failed.status, failed.json()["error"]) == (500, "out of memory")
    assert not torn.is_complete or torn.status == 502
    assert (told.status, told.text) == (200, "tide")
    assert [kit.reported.outcome(one.request_idx) for one in (failed, torn, told)] == [
        "Error",
        "Error",
        "Success",
    ]


def test_a_stream_step_by_step_and_a_client_that_hangs_up(kit: Kit) -> None:
    rest = threading.Event()
    kit.model.answer("/generate", stream({"piece": 1}, rest, {"piece": 2}))
    with kit.open("POST", "/generate", PAYLOAD) as reply:
        assert next(reply.pieces) == b'data: {"piece": 1}\n\n'
        rest.set()
        assert reply.rest().body == b'data: {"piece": 2}\n\n'

    kit.model.answer("/generate", silent())
    with kit.hang_up("/generate", PAYLOAD) as request_idx:
        request = kit.model.request("/generate", 2)
        assert not request.gone.is_set()
    assert request.gone.wait(DEADLINE)
    assert kit.reported.outcome(request_idx) == "Cancelled"
    assert kit.reported.workload_served() == 4.0


def test_methods_headers_and_bare_payloads(kit: Kit) -> None:
    kit.model.answer("/files/7", whole({"id": 7}))
    assert kit.get("/files/7").json() == {"id": 7}
    assert kit.request("DELETE", "/files/7").status == 200
    assert [request.method for request in kit.model.requests("/files/7")] == ["GET", "DELETE"]
    assert kit.request("POST", "/generate", PAYLOAD, signed=False).status == 422
    assert (
        kit.request("POST", "/generate", body=b"{", headers={"Content-Type": "application/json"}).status
        == 422
    )
    assert "Starting gunicorn" in kit.log


def test_the_plugin_in_a_project_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text(
        "import pytest\n"
        "pytest_plugins = ['pyworker.testing.plugin']\n"
        "@pytest.fixture(scope='session')\n"
        "def worker_name(): return 'tests.openapi.various'\n"
    )
    (tmp_path / "test_it.py").write_text(
        "def test_one(kit):\n"
        "    assert kit.post('/generate', {'prompt': 'tide'}).status == 200\n"
        "def test_nothing_is_left(kit):\n"
        "    assert kit.model.requests() == []\n"
        "    assert kit.reported.workload_received() == 0\n"
    )
    done = run(tmp_path, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", "-W", "error")
    assert "2 passed" in done.stdout, done.stdout


def test_the_kit_needs_no_pytest(tmp_path: Path) -> None:
    done = run(tmp_path, "-c", "import pyworker.testing, sys; print('pytest' in sys.modules)")
    assert done.stdout == "False\n", done.stderr


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
