"""The way of the public service: its bootstrap clones, makes an environment by uv, installs a package that
pins other versions, and runs `python3 -m workers.NAME.server` under a supervisor that allows 10 s from
SIGTERM to SIGKILL.

In a throw-away root, with real uv and real packages; the first start installs them for all that follow.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from pyworker.local.autoscaler import Autoscaler
from tests.support.console import Console
from tests.support.http import RawClient, ask, next_request_idx
from tests.support.ports import free_port
from tests.support.sandbox import Sandbox
from tests.support.scripted import Act, ScriptedServer, chunk, head, whole
from tests.support.stack import Stack
from tests.support.starting import INSTALL_SECONDS, ROOT, Run, Start, copy_project
from tests.support.waiting import wait_until

BOOTSTRAP = ROOT / "tests" / "instance" / "bootstrap.sh"
#: The supervisor's: until the port listens, and from SIGTERM to SIGKILL.
LISTEN_SECONDS, KILL_SECONDS = 60.0, 10.0
LOADED_LINE = "server has started"
EVENTS = head("Content-Type: text/event-stream", "Transfer-Encoding: chunked")
VERSIONS = """
import importlib.metadata, importlib.util, json
print(json.dumps({
    "pip": importlib.util.find_spec("pip") is not None,
    **{found.name.lower().replace("_", "-"): found.version for found in importlib.metadata.distributions()},
}))
"""

pytestmark = pytest.mark.timeout(600)


@dataclass
class Installation:
    """What all starts of this file share: the environment, uv's cache, and the repository that is cloned."""

    folder: Path

    @property
    def environment(self) -> Path:
        return self.folder / "worker-env"

    @property
    def repository(self) -> Path:
        return self.folder / "repository"

    def versions(self) -> Mapping[str, object]:
        """What the environment has, by name."""
        done = subprocess.run(
            [self.environment / "bin" / "python", "-c", VERSIONS], capture_output=True, text=True, check=True
        )
        return json.loads(done.stdout)


@pytest.fixture(scope="module")
def installation(tmp_path_factory: pytest.TempPathFactory) -> Installation:
    """Nothing is installed yet."""
    made = Installation(tmp_path_factory.mktemp("bootstrap"))
    copy_project(made.repository)
    git = ("git", "-c", "user.name=tester", "-c", "user.email=tester@example.org", "-C", str(made.repository))
    for arguments in (["init", "--quiet"], ["add", "-A"], ["commit", "--quiet", "-m", "all"]):
        subprocess.run([*git, *arguments], check=True)
    return made


def uv_settings(folder: Path) -> dict[str, str]:
    """uv finds packages where pip of this machine does, and keeps them in `folder`."""
    found = shutil.which("uv", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    assert found is not None, "uv is missing: install tests/requirements.txt"
    settings = {
        "PATH": f"{Path(found).parent}:{os.environ['PATH']}",
        "UV_CACHE_DIR": str(folder / "uv-cache"),
        "UV_SYSTEM_CERTS": "true",
        "UV_PYTHON_DOWNLOADS": "never",
        "PYTHON_VERSION": str(Path(sys.executable).resolve()),
    }
    if places := os.environ.get("PIP_FIND_LINKS"):
        settings["UV_FIND_LINKS"] = places
    return settings


@dataclass
class Rented:
    """An instance with a supervisor, a model server, and an autoscaler that signs for clients."""

    sandbox: Sandbox
    installation: Installation
    console: Console
    autoscaler: Autoscaler
    model: ScriptedServer
    _start: Start
    port: int = field(default_factory=free_port)

    def start(self, **changes: str) -> Run:
        """What the supervisor does: the bootstrap comes by a pipe, in a process group of its own."""
        settings = {
            **uv_settings(self.installation.folder),
            "ENV_PATH": str(self.installation.environment),
            "PYWORKER_REPO": str(self.installation.repository),
            "BACKEND": "hello_world",
            "CONTAINER_ID": "7",
            "PUBLIC_IPADDR": "127.0.0.1",
            "WORKER_PORT": str(self.port),
            f"VAST_TCP_PORT_{self.port}": str(self.port),
            "REPORT_ADDR": self.autoscaler.url,
            "CONSOLE_URL": self.console.url,
            "MODEL_LOG": "/workspace/model.log",
            "MODEL_SERVER_URL": self.model.url,
            "MASTER_TOKEN": "hunter2",
            **changes,
        }
        program = ("setsid", "bash")
        return self._start(
            Path("/"), inside=self.sandbox.inside, program=program, stdin=str(BOOTSTRAP), **settings
        )

    def wait_launched(self, run: Run) -> None:
        """Until everything is installed, and the bootstrap gets to the worker."""
        run.read_until("launching the worker", INSTALL_SECONDS)

    def wait_listening(self) -> None:
        """What the supervisor checks."""

        def listens() -> bool:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
                return True
            return False

        wait_until(listens, "a listener on the port", LISTEN_SECONDS)

    def ping(self) -> bytes:
        """Over TLS, as a client that checks certificate and address."""
        trusted = ssl.create_default_context(cafile=str(self.console.authority))
        connection = http.client.HTTPSConnection("127.0.0.1", self.port, timeout=20, context=trusted)
        with contextlib.closing(connection):
            connection.request("GET", "/ping")
            return connection.getresponse().read()

    def stop(self, run: Run) -> float:
        """SIGTERM to the group, SIGKILL 10 s later; the seconds until nothing was left."""
        group, began = run.script, time.monotonic()
        os.killpg(group, signal.SIGTERM)
        with contextlib.suppress(AssertionError):
            wait_until(lambda: run.left() == [], "the end by itself", KILL_SECONDS)
        taken = time.monotonic() - began
        with contextlib.suppress(ProcessLookupError):
            os.killpg(group, signal.SIGKILL)
        wait_until(lambda: run.left() == [], "the end of every process")
        return taken

    def client(self, folder: Path) -> Stack:
        """What speaks to the worker, and to the autoscaler of it."""
        stack = Stack(folder, self.autoscaler, self.model)
        stack.worker.port = self.port
        return stack


@pytest.fixture
def rented(
    installation: Installation,
    tmp_path: Path,
    local_autoscaler: Autoscaler,
    scripted_model: ScriptedServer,
    start: Start,
) -> Iterator[Rented]:
    """Never started."""
    with Console(tmp_path / "console") as console, Sandbox(shared=installation.folder) as sandbox:
        yield Rented(sandbox, installation, console, local_autoscaler, scripted_model, start)


def last_words(stack: Stack) -> Mapping[str, object]:
    return stack.reports[-1]


# -- the way ---------------------------------------------------------------------------------------------


def test_the_first_start_and_a_restart(rented: Rented) -> None:
    run = rented.start()
    rented.wait_launched(run)
    rented.wait_listening()
    assert rented.ping() == b"pong"

    # No pip, and the other package's versions.
    versions = rented.installation.versions()
    assert not versions["pip"]
    assert (versions["cryptography"], versions["pillow"]) == ("49.0.0", "12.2.0")
    for line in (ROOT / "requirements.txt").read_text("utf-8").splitlines():
        if text := line.partition("#")[0].strip():
            wanted = Requirement(text)
            assert wanted.specifier.contains(str(versions[wanted.name.replace("_", "-")])), text
    checked = subprocess.run(
        ["uv", "pip", "check", "--python", rented.installation.environment / "bin" / "python"],
        env={**os.environ, **uv_settings(rented.installation.folder)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert checked.returncode == 0, checked.stderr
    # The third form is the one that works, and the others fail before they do anything.
    debug = rented.sandbox.read("/workspace/debug.log")
    assert "No module named worker\n" in debug
    assert "No module named workers.hello_world.worker\n" in debug
    assert re.findall(r"^(\S+) ended with status 1$", debug, re.MULTILINE) == [
        "worker",
        "workers.hello_world.worker",
    ]

    # The lock, and logs in which nothing comes twice.
    assert rented.sandbox.read("/workspace/.pyworker.lock").strip().isdigit()
    own_log = rented.sandbox.read("/workspace/worker.log")
    assert own_log.count("Listening at") == 1
    for log in ("debug.log", "pyworker.log"):
        assert rented.sandbox.read(f"/workspace/{log}").count("Listening at") == 1
    # The bootstrap's certificate names no address that a client could check.
    assert len(rented.console.signings) == 2
    assert rented.stop(run) < KILL_SECONDS
    assert "Shutting down" in rented.sandbox.read("/workspace/worker.log"), (
        "what the bootstrap no longer copies"
    )
    assert "hunter2" not in run.said + rented.sandbox.read("/workspace/worker.log")

    began = time.monotonic()
    again = rented.start()
    rented.wait_launched(again)
    rented.wait_listening()
    assert time.monotonic() - began < LISTEN_SECONDS
    assert rented.ping() == b"pong"
    assert "making the environment" not in again.said
    assert rented.stop(again) < KILL_SECONDS


def test_a_second_start_leaves_the_first_alone(rented: Rented) -> None:
    run = rented.start(USE_SSL="false")
    rented.wait_launched(run)
    rented.wait_listening()
    second = rented.start(USE_SSL="false")
    second.read_until("workers.hello_world.server ended with status 1", LISTEN_SECONDS)
    assert "workers.hello_world.server: this instance is started already: process " in second.said
    wait_until(lambda: second.left() == [], "the end of the second")
    assert ask(f"http://127.0.0.1:{rented.port}", "GET", "/ping").body == b"pong"
    assert rented.stop(run) < KILL_SECONDS


def test_a_worker_that_does_not_load_is_reported_until_it_is_ended(rented: Rented) -> None:
    run = rented.start(MODEL_LOG="", USE_SSL="false")
    rented.autoscaler.fleet.wait_for(lambda fleet: bool(fleet.workers()), INSTALL_SECONDS)
    [member] = rented.autoscaler.fleet.workers()
    assert "MODEL_LOG is not set: set it to the file" in member.report.error_msg
    assert rented.stop(run) < KILL_SECONDS


# -- a model that was there first ------------------------------------------------------------------------


@pytest.mark.parametrize("told_by", ["log", "health"])
def test_a_model_that_was_loaded_before(rented: Rented, tmp_path: Path, told_by: str) -> None:
    rented.sandbox.write("/workspace/.has_benchmark", "500.0\n")
    settings = {"USE_SSL": "false"}
    if told_by == "log":
        rented.sandbox.write("/workspace/model.log", f"loading\n{LOADED_LINE}\nserving\n")
    else:
        rented.sandbox.write("/workspace/model.log", "the loaded line was rotated away\n")
        rented.model.script("/health", whole(b"fine"))
        settings["MODEL_HEALTH_ENDPOINT"] = "/health"
    run = rented.start(**settings)
    rented.wait_launched(run)
    stack = rented.client(tmp_path)
    stack.wait_for_report(lambda report: report["max_perf"] == 500.0, "a ready worker", LISTEN_SECONDS)
    assert {report["error_msg"] for report in stack.reports} == {""}
    assert rented.sandbox.read("/workspace/model.log") != "", "the log is read as it is"
    assert rented.sandbox.read("/workspace/model.log.old") == ""
    assert rented.stop(run) < KILL_SECONDS


def test_an_older_log_is_set_aside_if_that_is_asked_for(rented: Rented, tmp_path: Path) -> None:
    rented.sandbox.write("/workspace/model.log", f"{LOADED_LINE}\n")
    run = rented.start(USE_SSL="false", ROTATE_MODEL_LOG="true")
    rented.wait_launched(run)
    rented.wait_listening()
    stack = rented.client(tmp_path)
    stack.wait_for_report(lambda report: report["max_perf"] == 0, "a worker that waits for its model")
    assert rented.sandbox.read("/workspace/model.log") == ""
    assert rented.sandbox.read("/workspace/model.log.old") == f"{LOADED_LINE}\n", (
        "by the bootstrap, and kept by us"
    )
    assert rented.stop(run) < KILL_SECONDS


# -- the end ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("completes", [True, False])
def test_sigterm_with_a_stream_in_hand(rented: Rented, tmp_path: Path, completes: bool) -> None:
    rented.sandbox.write("/workspace/.has_benchmark", "500.0\n")
    rented.sandbox.write("/workspace/model.log", f"{LOADED_LINE}\n")
    go_on = threading.Event()
    ending = (go_on, chunk(b"data: two\n\n"), chunk(b"")) if completes else (Act.HANG,)
    rented.model.script("/generate_stream", EVENTS, chunk(b"data: one\n\n"), *ending)
    run = rented.start(USE_SSL="false")
    rented.wait_launched(run)
    stack = rented.client(tmp_path)
    stack.wait_for_report(lambda report: report["max_perf"] == 500.0, "a ready worker", LISTEN_SECONDS)

    index = next_request_idx()
    with RawClient(stack.url, timeout=KILL_SECONDS + 5) as client:
        client.post("/generate_stream", stack.envelope(request_idx=index))
        client.until(b"data: one")
        stack.wait_in_hand(1)
        timer = threading.Timer(1.0, go_on.set)
        timer.start()
        taken = rented.stop(run)
        rest = client.rest()
        timer.join()
    assert taken < KILL_SECONDS, "nothing was left to kill"
    assert rest.endswith(b"0\r\n\r\n") == completes, "a cut stream does not look complete"
    assert (b"data: two" in rest) == completes
    assert stack.outcome(index) == ("Success" if completes else "Error")
    words = last_words(stack)
    assert (words["num_requests_working"], words["cur_load"], words["error_msg"]) == (0, 0, "")
