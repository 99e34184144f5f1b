"""start_server.sh on an instance: from the first start to the last fault, in a throw-away root."""

from __future__ import annotations

import contextlib
import http.client
import os
import shutil
import signal
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support.console import FAULT, GARBAGE, HANG, OTHER_KEY, REDIRECT, Console
from tests.support.ports import free_port
from tests.support.sandbox import Sandbox
from tests.support.scripted import ScriptedServer, whole
from tests.support.starting import (
    INSTALL_SECONDS,
    STOP_SECONDS,
    Installed,
    Run,
    Start,
    copy_project,
    link_tree,
)
from tests.support.waiting import wait_until

START_SECONDS = 60.0
SECRETS = {
    "MASTER_TOKEN": "master-token-hunter2",
    "MODEL_API_KEY": "model-api-key-hunter2",
    "HF_TOKEN": "hf-token-hunter2",
}
STATUS = "/worker_status/"

pytestmark = pytest.mark.timeout(600)


@dataclass
class Instance:
    """A rented machine: a root of its own, a console, an autoscaler, and a checkout that is installed."""

    sandbox: Sandbox
    console: Console
    autoscaler: ScriptedServer
    folder: Path
    _start: Start
    port: int = 0

    def start(self, **changes: str) -> Run:
        """start_server.sh, with the settings of an instance and these changes."""
        self.port = self.port or free_port()
        settings = {
            "BACKEND": "hello_world",
            "MODEL_LOG": "/workspace/model.log",
            "CONTAINER_ID": "7",
            "PUBLIC_IPADDR": "127.0.0.1",
            "WORKER_PORT": str(self.port),
            f"VAST_TCP_PORT_{self.port}": str(self.port),
            "REPORT_ADDR": self.autoscaler.url,
            "CONSOLE_URL": self.console.url,
            "DRAIN_TIMEOUT": "5",
            **SECRETS,
            **changes,
        }
        given = {name: value for name, value in settings.items() if value}
        return self.sandbox.start(self._start, self.folder, **given)

    def wait_serving(self, run: Run, scheme: str = "https") -> None:
        """Until the worker answers."""

        def answers() -> bool:
            assert run.process.poll() is None, self.everything_said(run)
            return self.ping(scheme) == b"pong"

        wait_until(answers, "an answer of the worker", START_SECONDS)

    def ping(self, scheme: str = "https") -> bytes:
        """The body of the answer; empty where there is none."""
        with (
            contextlib.suppress(OSError, http.client.HTTPException),
            contextlib.closing(self._connection(scheme)) as connection,
        ):
            connection.request("GET", "/ping")
            return connection.getresponse().read()
        return b""

    def _connection(self, scheme: str) -> http.client.HTTPConnection:
        if scheme == "http":
            return http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
        # The authority of the test is trusted and the address is checked: what a client does.
        trusted = ssl.create_default_context(cafile=str(self.console.authority))
        return http.client.HTTPSConnection("127.0.0.1", self.port, timeout=5, context=trusted)

    def stop(self, run: Run, number: signal.Signals = signal.SIGTERM) -> int:
        """Send the script this signal; the script's status, with nothing of it left."""
        os.kill(run.script, number)
        status = run.end(STOP_SECONDS)
        wait_until(lambda: run.left() == [], "the end of every process", STOP_SECONDS)
        assert_no_secret(self.everything_said(run))
        return status

    def kill(self, run: Run) -> None:
        """SIGKILL for the script alone."""
        os.kill(run.script, signal.SIGKILL)

    def failed(self, run: Run) -> str:
        """What a start that has to fail by itself said; reported once."""
        assert run.end(STOP_SECONDS) == 1, run.said
        assert run.left() == []
        assert_no_secret(self.everything_said(run))
        return run.said

    @property
    def failures(self) -> list[dict[str, Any]]:
        """The failures that were reported, oldest first."""
        reports = [request.json() for request in self.autoscaler.requests(STATUS)]
        return [report for report in reports if len(report) == 5]

    @property
    def debug_log(self) -> str:
        return self.sandbox.read("/workspace/debug.log")

    @property
    def worker_log(self) -> str:
        return self.sandbox.read("/workspace/pyworker.log")

    def everything_said(self, run: Run) -> str:
        """The terminal and the logs."""
        return run.said + self.debug_log + self.worker_log


def assert_no_secret(text: str) -> None:
    assert not [name for name, secret in SECRETS.items() if secret in text]


@pytest.fixture
def console(tmp_path: Path) -> Iterator[Console]:
    """Listens at once."""
    with Console(tmp_path / "console") as console:
        yield console


@pytest.fixture
def instance(
    installed: Installed, console: Console, scripted_model: ScriptedServer, start: Start
) -> Iterator[Instance]:
    """With everything installed, but never started."""
    with Sandbox() as sandbox:
        yield Instance(sandbox, console, scripted_model, installed.folder, start)


# -- starts that go well ---------------------------------------------------------------------------------


def test_the_first_start_and_a_restart(instance: Instance) -> None:
    instance.sandbox.write("/workspace/model.log", "a line of an earlier run\n")
    run = instance.start(ROTATE_MODEL_LOG="true")
    instance.wait_serving(run)

    [signing] = instance.console.signings
    assert (signing.path, signing.query) == ("/api/v0/sign_cert/", "instance_id=7")
    assert signing.content_type == "application/octet-stream"
    key, certificate = instance.sandbox.path("/etc/instance.key"), instance.sandbox.path("/etc/instance.crt")
    assert (key.stat().st_mode & 0o777, certificate.stat().st_mode & 0o777) == (0o600, 0o644)
    assert "2048 bit" in instance.sandbox.run(
        "openssl", "pkey", "-in", "/etc/instance.key", "-noout", "-text"
    )
    named = instance.sandbox.run(
        "openssl", "x509", "-in", "/etc/instance.crt", "-noout", "-ext", "subjectAltName"
    )
    assert "IP Address:127.0.0.1" in named
    assert (
        instance.sandbox.read("/workspace/model.log"),
        instance.sandbox.read("/workspace/model.log.old"),
    ) == (
        "",
        "a line of an earlier run\n",
    )
    assert instance.failures == []
    for pid in run.left():
        assert_no_secret(Path(f"/proc/{pid}/cmdline").read_text("utf-8", "replace"))

    before = certificate.read_bytes()
    assert instance.stop(run) == 0, run.said
    # Every line of the worker is on the terminal and in its log, the very last one too.
    log = instance.sandbox.read("/workspace/pyworker.log")
    assert "Listening at" in log
    assert log.splitlines()[-1] in run.said
    assert "Shutting down" in log
    assert "Listening at" not in instance.sandbox.read("/workspace/debug.log")

    instance.sandbox.write("/workspace/model.log", "a line of the first run\n")
    instance.sandbox.write("/workspace/.has_benchmark", "123.0\n")
    # Some time later; of a start that is repeated at once, both logs are kept.
    old = instance.sandbox.path("/workspace/model.log.old")
    os.utime(old, (time.time() - 3600, time.time() - 3600))
    again = instance.start(ROTATE_MODEL_LOG="true")
    instance.wait_serving(again)
    assert (certificate.read_bytes(), len(instance.console.signings)) == (before, 1)
    assert instance.sandbox.read("/workspace/model.log.old") == "a line of the first run\n"
    assert instance.stop(again, signal.SIGINT) == 0, again.said
    assert instance.sandbox.read("/workspace/.has_benchmark") == "123.0\n"


def test_a_first_start_is_killed_and_the_next_one_goes_on(instance: Instance, tmp_path: Path) -> None:
    """With real packages, of which some are installed already, into a workspace that is made."""
    instance.folder = link_tree(instance.folder, tmp_path / "checkout")
    (instance.folder / ".venv" / ".requirements-installed").unlink()
    pip = (str(instance.folder / ".venv" / "bin" / "python"), "-m", "pip", "--disable-pip-version-check")
    subprocess.run([*pip, "uninstall", "--yes", "--quiet", "flask", "gunicorn"], check=True)
    run = instance.start(USE_SSL="false")
    run.read_until("installing requirements.txt", INSTALL_SECONDS)
    instance.kill(run)
    again = instance.start(USE_SSL="false")
    again.read_until("installing requirements.txt", INSTALL_SECONDS)
    wait_until(lambda: run.left() == [], "the end of what was left of the first", STOP_SECONDS)
    wait_until(lambda: instance.ping("http") == b"pong", "an answer of the worker", INSTALL_SECONDS)
    assert instance.stop(again) == 0


def test_a_script_that_is_killed_while_it_serves_can_be_started_again(instance: Instance) -> None:
    run = instance.start(USE_SSL="false")
    instance.wait_serving(run, "http")
    instance.kill(run)
    again = instance.start(USE_SSL="false")
    wait_until(lambda: run.left() == [], "the end of the first worker", STOP_SECONDS)
    instance.wait_serving(again, "http")
    assert instance.stop(again) == 0
    assert instance.failures == []


def test_every_process_is_killed_and_the_start_repeated(instance: Instance) -> None:
    run = instance.start(USE_SSL="false")
    instance.wait_serving(run, "http")
    for pid in run.left():
        os.kill(pid, signal.SIGKILL)
    again = instance.start(USE_SSL="false")
    instance.wait_serving(again, "http")
    assert instance.stop(again) == 0


def test_the_models_log_is_read_as_it_is(instance: Instance, scripted_model: ScriptedServer) -> None:
    """The model may be there first."""
    instance.sandbox.write("/workspace/model.log", "server has started\n")
    run = instance.start(USE_SSL="false", MODEL_SERVER_URL=scripted_model.url)
    instance.wait_serving(run, "http")
    wait_until(lambda: "the model is loaded" in instance.worker_log, "the loaded line", START_SECONDS)
    assert instance.sandbox.read("/workspace/model.log") == "server has started\n"
    assert instance.sandbox.read("/workspace/model.log.old") == ""
    assert instance.stop(run) == 0


def test_logs_that_are_set_aside_within_a_minute_are_kept_together(instance: Instance) -> None:
    for line in ("a long story\n", "a line of the second between\n"):
        instance.sandbox.write("/workspace/model.log", line)
        run = instance.start(USE_SSL="false", ROTATE_MODEL_LOG="true")
        instance.wait_serving(run, "http")
        assert instance.stop(run) == 0
    assert instance.sandbox.read("/workspace/model.log.old") == "a long story\na line of the second between\n"


def test_a_log_that_nobody_named_cannot_be_set_aside(instance: Instance) -> None:
    health = {"MODEL_READINESS": "health", "MODEL_HEALTH_ENDPOINT": "/health"}
    run = instance.start(USE_SSL="false", MODEL_LOG="", ROTATE_MODEL_LOG="true", **health)
    instance.wait_serving(run, "http")
    assert "ROTATE_MODEL_LOG=true has no effect without MODEL_LOG" in instance.debug_log
    assert instance.stop(run) == 0


def test_large_logs_are_set_aside_once(instance: Instance) -> None:
    for name in ("debug.log", "pyworker.log"):
        instance.sandbox.write(f"/workspace/{name}", "x" * 11_000_000)
    run = instance.start(USE_SSL="false")
    instance.wait_serving(run, "http")
    for name in ("debug.log", "pyworker.log"):
        assert instance.sandbox.path(f"/workspace/{name}").stat().st_size < 100_000
        assert instance.sandbox.path(f"/workspace/{name}.old").stat().st_size >= 11_000_000
    assert instance.stop(run) == 0


def test_a_terminal_that_is_closed_takes_nothing_from_the_logs(instance: Instance) -> None:
    run = instance.start(USE_SSL="false")
    instance.wait_serving(run, "http")
    assert run.process.stdout is not None
    run.process.stdout.close()
    os.kill(run.script, signal.SIGTERM)
    assert run.process.wait(STOP_SECONDS) == 0
    assert "Handling signal: term" in instance.worker_log
    assert "Shutting down" in instance.worker_log


def test_nothing_that_listens_to_reports_is_needed_for_a_start(instance: Instance) -> None:
    run = instance.start(USE_SSL="false", REPORT_ADDR=f"http://127.0.0.1:{free_port()}")
    instance.wait_serving(run, "http")
    assert instance.stop(run) == 0


def test_an_instance_without_a_network_starts_with_what_it_has(
    installed: Installed, console: Console, scripted_model: ScriptedServer, start: Start
) -> None:
    with Sandbox(network=False) as sandbox:
        instance = Instance(sandbox, console, scripted_model, installed.folder, start)
        fault = instance.failed(instance.start(CERTIFICATE_TIMEOUT="1"))
        assert "there is no certificate for USE_SSL=true" in fault
        assert "cannot be reached" in fault
        assert "the failure could not be reported to " in fault
        run = instance.start(USE_SSL="false")
        wait_until(lambda: "Listening at" in instance.worker_log, "the worker", START_SECONDS)
        assert instance.stop(run) == 0


# -- a second start --------------------------------------------------------------------------------------


def test_a_second_start_names_the_first_and_leaves_it_alone(instance: Instance) -> None:
    run = instance.start()
    instance.wait_serving(run)
    instance.sandbox.write("/workspace/model.log", "a line for the first worker\n")
    signed = instance.sandbox.read("/etc/instance.crt")

    began = time.monotonic()
    second = instance.start(CONTAINER_ID="")
    said = instance.failed(second)
    assert time.monotonic() - began < 10

    lock, _, port = said.partition(", and ")
    assert "this instance is started already: process " in lock
    assert "/workspace/.pyworker.lock" in lock
    assert f"listens on\nstart_server.sh: port {instance.port}" in port
    assert "process " in port
    assert "python" in port
    assert instance.sandbox.read("/workspace/model.log") == "a line for the first worker\n"
    assert instance.sandbox.read("/etc/instance.crt") == signed
    assert instance.failures == []
    elsewhere = instance.start(WORKSPACE_DIR="/workspace2")
    assert f"port {instance.port} is taken by process " in instance.failed(elsewhere)
    assert instance.failures == [], "the worker that has the port is well"
    assert instance.ping() == b"pong"
    assert instance.stop(run) == 0


# -- faults of the environment ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"BACKEND": ""}, "BACKEND is not set: set it to the name of a worker (here: auto "),
        ({"BACKEND": "../x"}, "BACKEND is not a worker's name: set it to one of auto "),
        (
            {"MODEL_LOG": "/etc", "ROTATE_MODEL_LOG": "true"},
            "/etc cannot be emptied: is it a file that this user may write?",
        ),
        ({"ROTATE_MODEL_LOG": "x"}, "ROTATE_MODEL_LOG='x' is not valid: expected true or false"),
        ({"PUBLIC_IPADDR": ""}, "PUBLIC_IPADDR is not set: set it to the public address of this instance"),
        ({"WORKER_PORT": "x"}, "WORKER_PORT='x' is not valid: expected an integer"),
        ({"LOG_LEVEL": "LOUD"}, "LOG_LEVEL='LOUD' is not valid: expected one of DEBUG, INFO, WARNING, ERROR"),
        ({"CERTIFICATE_TIMEOUT": "x"}, "CERTIFICATE_TIMEOUT='x' is not valid: expected a number of seconds"),
        (
            {"WORKSPACE_DIR": "/etc/hostname/x"},
            "WORKSPACE_DIR=/etc/hostname/x cannot be used (Not a directory)",
        ),
        ({"WORKSPACE_DIR": "/proc"}, "WORKSPACE_DIR=/proc cannot be used ("),
        (
            {"SSL_KEYFILE": "/nowhere/key", "USE_SSL": "true"},
            "SSL_KEYFILE=/nowhere/key cannot be written (No such",
        ),
        ({"SSL_CERTFILE": "/nowhere/crt", "USE_SSL": "true"}, "SSL_CERTFILE=/nowhere/crt cannot be written"),
    ],
    ids=str,
)
def test_a_fault_is_one_line_and_reported_once(
    instance: Instance, changes: dict[str, str], fault: str
) -> None:
    run = instance.start(**({"USE_SSL": "false"} | changes))
    said = instance.failed(run)

    assert len(said.splitlines()) == 1, said
    assert said.startswith("start_server.sh: ")
    assert fault in said
    [report] = instance.failures
    assert (report["id"], report["mtoken"], report["version"]) == (7, SECRETS["MASTER_TOKEN"], "1.1.0")
    assert report["error_msg"] == said.strip().removeprefix("start_server.sh: ")
    if "WORKSPACE_DIR" not in changes:
        assert instance.sandbox.read("/workspace/debug.log").endswith(said)


def test_faults_are_named_together_and_go_to_every_address(instance: Instance) -> None:
    with ScriptedServer() as other:
        other.script(STATUS, whole(b"", status="500 Fault"))
        both = f"{other.url},{instance.autoscaler.url}"
        said = instance.failed(instance.start(BACKEND="", PUBLIC_IPADDR="", REPORT_ADDR=both))
        assert len(other.requests(STATUS)) == 1
    [report] = instance.failures
    assert "BACKEND is not set" in report["error_msg"]
    assert "PUBLIC_IPADDR is not set" in report["error_msg"]
    assert said.splitlines()[-1].endswith("it answered 500")


def test_a_port_that_something_else_has_is_reported(instance: Instance) -> None:
    with socket.create_server(("0.0.0.0", 0)) as taken:
        instance.port = taken.getsockname()[1]
        said = instance.failed(instance.start(USE_SSL="false"))
    assert f"port {instance.port} is taken by " in said
    assert len(instance.failures) == 1


def test_a_package_index_that_cannot_be_reached_is_reported(instance: Instance, tmp_path: Path) -> None:
    """The environment is made, but nothing is in it."""
    instance.folder = copy_project(tmp_path / "checkout")
    index = f"http://127.0.0.1:{free_port()}"
    nothing = {"PIP_CONFIG_FILE": "/dev/null", "PIP_FIND_LINKS": "/nowhere", "PIP_RETRIES": "0"}
    run = instance.start(USE_SSL="false", PIP_INDEX_URL=index, **nothing)
    assert run.end(START_SECONDS) == 1
    assert "pip could not install requirements.txt. Is the network there" in run.said
    assert "The last lines of /workspace/debug.log" in run.said
    [report] = instance.failures
    assert report["error_msg"].startswith("pip could not install requirements.txt.")
    assert_no_secret(instance.everything_said(run))


def test_a_python_that_is_missing_or_too_old_is_named(instance: Instance) -> None:
    real = shutil.which("python3")
    # Old enough to be refused, good enough to report.
    script = f"""#!/bin/sh
case "$*" in *version_info*) exit 1 ;; -V) echo Python 3.8.1 ;; *) exec '{real}' "$@" ;; esac
"""
    instance.sandbox.write("/opt/old/python3", script)
    instance.sandbox.path("/opt/old/python3").chmod(0o755)
    path = f"/opt/old:{os.environ['PATH']}"
    assert "python3 is 3.8.1, but 3.10 or newer is needed" in instance.failed(instance.start(PATH=path))
    assert len(instance.failures) == 1

    instance.sandbox.run("mkdir", "/opt/none")
    for program in ("env", "dirname"):
        instance.sandbox.run("ln", "-s", str(shutil.which(program)), f"/opt/none/{program}")
    assert "python3 is missing" in instance.failed(instance.start(PATH="/opt/none"))


# -- the certificate -------------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", [FAULT, GARBAGE, OTHER_KEY, REDIRECT])
def test_a_console_that_fails_first_is_asked_again(instance: Instance, fault: str) -> None:
    instance.console.faults.append(fault)
    run = instance.start()
    instance.wait_serving(run)
    assert len(instance.console.signings) == 2
    assert instance.debug_log.count("no certificate yet: ") == 1
    assert instance.stop(run) == 0


def test_a_console_that_listens_late_is_asked_again(instance: Instance, tmp_path: Path) -> None:
    late = Console(tmp_path / "late")
    instance.console = late
    run = instance.start()
    wait_until(
        lambda: "Connection refused>" in instance.debug_log or "no certificate yet" in instance.debug_log,
        "a refusal",
    )
    with late:
        instance.wait_serving(run)
        assert instance.stop(run) == 0


def test_a_start_that_is_killed_while_it_waits_for_the_console_can_be_repeated(instance: Instance) -> None:
    instance.console.faults.append(HANG)
    run = instance.start()
    wait_until(lambda: len(instance.console.signings) == 1, "the first request")
    instance.kill(run)
    again = instance.start()
    instance.wait_serving(again)
    assert instance.stop(again) == 0
    left = sorted(path.name for path in instance.sandbox.path("/etc").glob("instance.*"))
    assert left == ["instance.crt", "instance.key"]


def test_a_termination_ends_the_waiting_for_the_console(instance: Instance) -> None:
    instance.console.faults.append(HANG)
    run = instance.start()
    wait_until(lambda: len(instance.console.signings) == 1, "the first request")
    assert instance.stop(run) == 143
    assert instance.failures == []


def test_a_console_that_never_signs_is_reported(instance: Instance) -> None:
    instance.console.faults.extend([FAULT] * 10)
    said = instance.failed(instance.start(CERTIFICATE_TIMEOUT="2"))
    assert said.splitlines()[-1].startswith("start_server.sh: there is no certificate for USE_SSL=true: http")
    assert "answered 500" in instance.failures[0]["error_msg"]
    assert len(instance.failures) == 1
    assert not instance.sandbox.path("/etc/instance.crt").exists()


# -- updates ---------------------------------------------------------------------------------------------

GIT = (
    "git",
    "-c",
    "user.name=tester",
    "-c",
    "user.email=tester@example.org",
    "-c",
    "init.defaultBranch=main",
)


def make_checkout(instance: Instance) -> None:
    """The installed copy becomes a clone of /origin, in which there is something new."""
    folder = instance.folder
    for arguments in (["init"], ["add", "-A"], ["commit", "-qm", "one"], ["clone", "--bare", ".", "/origin"]):
        instance.sandbox.run(*GIT, *arguments, folder=folder)
    for arguments in (["remote", "add", "origin", "/origin"], ["fetch"], ["branch", "-u", "origin/main"]):
        instance.sandbox.run(*GIT, *arguments, folder=folder)
    instance.sandbox.run(*GIT, "clone", "/origin", "/newer")
    script = instance.sandbox.read("/newer/start_server.sh").replace(
        "main() {", "main() {\n  echo THE NEW SCRIPT"
    )
    instance.sandbox.write("/newer/start_server.sh", script)
    instance.sandbox.write(
        "/newer/requirements.txt", instance.sandbox.read("/newer/requirements.txt") + "# new\n"
    )
    instance.sandbox.run(*GIT, "commit", "-qam", "two", folder="/newer")
    instance.sandbox.run(*GIT, "push", folder="/newer")


def test_an_update_is_done_once_and_the_new_script_takes_over(instance: Instance) -> None:
    make_checkout(instance)
    instance.sandbox.write("/.force_update", "")
    run = instance.start(USE_SSL="false")
    wait_until(lambda: instance.ping("http") == b"pong", "an answer of the worker", INSTALL_SECONDS)
    assert not instance.sandbox.path("/.force_update").exists()
    log = instance.debug_log
    assert log.count("An update is asked for by /.force_update") == 1
    assert "installing requirements.txt" not in log
    assert instance.stop(run) == 0
    assert run.said.count("THE NEW SCRIPT") == 1, run.said
    assert "two" in instance.sandbox.run("git", "log", "-1", "--format=%s", folder=instance.folder)


def test_an_update_that_fails_keeps_the_flag_and_the_old_version_serves(instance: Instance) -> None:
    make_checkout(instance)
    instance.sandbox.run("rm", "-rf", "/origin")
    instance.sandbox.write("/.force_update", "")
    run = instance.start(USE_SSL="false")
    instance.wait_serving(run, "http")
    assert instance.sandbox.path("/.force_update").exists()
    assert instance.debug_log.count("the update failed") == 1
    assert instance.stop(run) == 0
    assert instance.failures == []


def test_packages_that_cannot_be_had_for_an_update_leave_the_old_version(instance: Instance) -> None:
    make_checkout(instance)
    instance.sandbox.write("/newer/requirements.txt", "a-package-that-is-nowhere==1\n")
    instance.sandbox.run(*GIT, "commit", "-qam", "three", folder="/newer")
    instance.sandbox.run(*GIT, "push", folder="/newer")
    instance.sandbox.write("/.force_update", "")
    nothing = {"PIP_CONFIG_FILE": "/dev/null", "PIP_FIND_LINKS": "/nowhere", "PIP_RETRIES": "0"}
    run = instance.start(USE_SSL="false", PIP_INDEX_URL=f"http://127.0.0.1:{free_port()}", **nothing)
    instance.wait_serving(run, "http")
    assert instance.sandbox.path("/.force_update").exists()
    assert "one" in instance.sandbox.run("git", "log", "-1", "--format=%s", folder=instance.folder)
    assert instance.stop(run) == 0


def test_without_a_checkout_only_packages_are_updated(instance: Instance) -> None:
    instance.sandbox.write("/.force_update", "")
    run = instance.start(USE_SSL="false")
    wait_until(lambda: instance.ping("http") == b"pong", "an answer of the worker", INSTALL_SECONDS)
    assert "no git checkout that follows a branch" in instance.debug_log
    assert not instance.sandbox.path("/.force_update").exists()
    assert instance.stop(run) == 0


# -- a worker that ends by itself ------------------------------------------------------------------------


def test_a_worker_that_cannot_start_is_reported_until_the_script_is_ended(instance: Instance) -> None:
    run = instance.start(USE_SSL="false", BACKEND="nowhere")
    run.read_until("this is reported every 10 s until process ", START_SECONDS)
    instance.autoscaler.wait_for(lambda: len(instance.failures) == 2, "the second report", 30.0)
    assert instance.stop(run) == 1
    reason = "cannot start: there is no worker 'nowhere'; workers here: auto, "
    assert instance.failures[0] == instance.failures[1]
    assert instance.failures[0]["error_msg"].startswith(f"the worker ended by itself (status 4): {reason}")
    assert instance.failures[0]["url"] == f"http://127.0.0.1:{instance.port}"
    assert run.said.count(reason) == 2, "once by the worker, once by the launcher"
    assert instance.sandbox.read("/workspace/pyworker.log").count(reason) == 1


def test_a_worker_that_is_killed_is_reported(instance: Instance) -> None:
    run = instance.start(USE_SSL="false")
    instance.wait_serving(run, "http")
    masters = [pid for pid in run.left() if b"gunicorn" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    os.kill(min(masters), signal.SIGKILL)
    instance.autoscaler.wait_for(lambda: instance.failures, "a report")
    assert "ended from outside (signal 9)" in instance.failures[0]["error_msg"]
    assert instance.stop(run) == 1


def test_without_a_log_or_a_health_endpoint_the_worker_says_what_is_missing(instance: Instance) -> None:
    run = instance.start(USE_SSL="false", MODEL_LOG="")
    instance.autoscaler.wait_for(lambda: instance.failures, "a report", START_SECONDS)
    reason = "cannot start: MODEL_LOG is not set: set it to the file that the model server logs to"
    assert reason in instance.failures[0]["error_msg"]
    assert instance.stop(run) == 1


def test_a_worker_package_that_is_broken_is_reported(instance: Instance) -> None:
    instance.sandbox.write(f"{instance.folder}/workers/broken/__init__.py", "")
    instance.sandbox.write(f"{instance.folder}/workers/broken/server.py", "def create_backend(\n")
    run = instance.start(USE_SSL="false", BACKEND="broken")
    instance.autoscaler.wait_for(lambda: instance.failures, "a report", START_SECONDS)
    assert instance.failures[0]["error_msg"].startswith("cannot start: SyntaxError: ")
    assert instance.stop(run) == 0
