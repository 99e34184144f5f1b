"""`python -m workers.NAME.server`: the start of an instance if this is one, gunicorn alone if not."""

from __future__ import annotations

import http.client
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from pyworker.config import is_instance_start
from pyworker.registry import known_workers
from tests.support.http import ask
from tests.support.ports import free_port
from tests.support.process import ROOT, environment
from tests.support.starting import Run, Start
from tests.support.waiting import wait_until

START_SECONDS = 60.0
STOP_SECONDS = 20.0
PYTHON = Path(sys.executable)


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({"BACKEND": "vllm", "CONTAINER_ID": "7"}, True),
        ({"BACKEND": " vllm ", "CONTAINER_ID": "x"}, True),
        ({"BACKEND": "vllm"}, False),
        ({"BACKEND": "vllm", "CONTAINER_ID": " "}, False),
        ({"CONTAINER_ID": "7"}, False),
        ({"BACKEND": "tgi", "CONTAINER_ID": "7"}, False),
        ({}, False),
    ],
)
def test_what_an_instance_is(environ: Mapping[str, str], expected: bool) -> None:
    assert is_instance_start("vllm", environ) is expected


@pytest.mark.parametrize("module", ["worker", *(f"workers.{name}.worker" for name in known_workers())])
def test_the_forms_that_a_bootstrap_tries_first_do_nothing(module: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [PYTHON, "-X", "importtime", "-m", module],
        cwd=ROOT,
        env={**os.environ, "BACKEND": "hello_world", "CONTAINER_ID": "7", "WORKSPACE_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=STOP_SECONDS,
        check=False,
    )
    assert done.returncode == 1
    assert f"No module named {module}\n" in done.stderr
    assert "flask" not in done.stderr, "it fails before anything large is imported"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", known_workers())
def test_help_says_which_it_is_and_what_a_supervisor_allows(name: str) -> None:
    done = subprocess.run(
        [PYTHON, "-m", f"workers.{name}.server", "--help"],
        cwd=ROOT,
        env={**os.environ, "BACKEND": name, "CONTAINER_ID": "7"},
        capture_output=True,
        text=True,
        timeout=STOP_SECONDS,
        check=True,
    )
    assert f"If BACKEND is {name} and CONTAINER_ID is set" in done.stdout
    assert "SIGKILL 10 s later" in " ".join(done.stdout.split())


def start_module(
    start: Start, folder: Path, port: int, *, worker: str = "hello_world", **variables: str
) -> Run:
    settings = environment(folder, port, {"WORKSPACE_DIR": str(folder / "workspace"), **variables})
    program = (str(PYTHON), "-m", f"workers.{worker}.server")
    return start(ROOT, program=program, **{name: text for name, text in settings.items() if name != "PATH"})


def answers(port: int) -> bool:
    try:
        return ask(f"http://127.0.0.1:{port}", "GET", "/ping").body == b"pong"
    except (OSError, EOFError, http.client.HTTPException):
        return False


def test_a_developer_gets_gunicorn_alone(tmp_path: Path, start: Start) -> None:
    port = free_port()
    run = start_module(start, tmp_path, port)
    wait_until(lambda: answers(port), "an answer", START_SECONDS)
    assert not (tmp_path / "workspace").exists()
    assert b"gunicorn" in Path(f"/proc/{run.process.pid}/cmdline").read_bytes()
    run.process.terminate()
    assert run.end(STOP_SECONDS) == 0


def test_an_instance_gets_all_of_it(tmp_path: Path, start: Start) -> None:
    port = free_port()
    variables = {"BACKEND": "hello_world", "USE_SSL": "false", "PYWORKER_UPDATE_FLAG": str(tmp_path / "flag")}
    (tmp_path / "flag").touch()
    run = start_module(start, tmp_path, port, **variables)
    wait_until(lambda: answers(port), "an answer", START_SECONDS)
    names = {path.name for path in (tmp_path / "workspace").iterdir()}
    assert {".pyworker.lock", "debug.log", "pyworker.log"} <= names
    run.process.terminate()
    assert run.end(STOP_SECONDS) == 0
    assert run.left() == []
    assert "workers.hello_world.server: " in run.said
    assert "asks for an update, which is left to what made this environment" in run.said
    assert "draining: requests in hand have 7 s" in run.said
    assert (tmp_path / "flag").exists()


def test_an_instance_that_waits_for_its_model_server_listens(tmp_path: Path, start: Start) -> None:
    port = free_port()
    variables = {"BACKEND": "auto", "USE_SSL": "false", "MODEL_SERVER_URL": f"http://127.0.0.1:{free_port()}"}
    run = start_module(start, tmp_path, port, worker="auto", **variables)
    wait_until(lambda: answers(port), "an answer", START_SECONDS)
    run.process.terminate()
    assert run.end(STOP_SECONDS) == 0
    assert "BACKEND=auto waits: nothing answers at http://127.0.0.1:" in run.said
    assert run.left() == []


def test_a_fault_is_told_by_the_name_of_the_program(tmp_path: Path, start: Start) -> None:
    run = start_module(start, tmp_path, free_port(), BACKEND="hello_world", PUBLIC_IPADDR="", USE_SSL="false")
    assert run.end(STOP_SECONDS) == 1
    assert "workers.hello_world.server: PUBLIC_IPADDR is not set" in run.said
