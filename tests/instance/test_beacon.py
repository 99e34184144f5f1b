"""The beacon: a worker that cannot start says why, run as a program and inside gunicorn."""

from __future__ import annotations

import ast
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from pyworker.config import Settings
from pyworker.instance import beacon
from pyworker.reporting import wire
from tests.support.dripping import DRIPS, Dripping
from tests.support.ports import free_port
from tests.support.process import ROOT, WorkerProcess
from tests.support.scripted import Act, Received, ScriptedServer, whole
from tests.support.waiting import DEADLINE, wait_until

PROGRAM = ROOT / "pyworker" / "instance" / "beacon.py"
TOKEN = "master-token-of-this-test"
WORKER = {
    "CONTAINER_ID": "7",
    "MASTER_TOKEN": TOKEN,
    "PUBLIC_IPADDR": "10.1.2.3",
    "VAST_TCP_PORT_3000": "31000",
    "USE_SSL": "true",
}
STATUS = "/worker_status/"


def start(variables: Mapping[str, str], *arguments: str) -> subprocess.Popen[str]:
    """The program, as a script runs it where nothing is installed."""
    return subprocess.Popen(
        [sys.executable, "-I", str(PROGRAM), *arguments],
        env={"PATH": os.environ["PATH"], **variables},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def report(addresses: Sequence[str], reason: str = "no luck", **variables: str) -> tuple[int, str]:
    """One run with --once: its status and what it said."""
    process = start({**WORKER, "REPORT_ADDR": ",".join(addresses), **variables}, "--once", reason)
    said, _ = process.communicate(timeout=DEADLINE)
    return process.returncode, said


# -- as a program ----------------------------------------------------------------------------------------


def test_a_report_says_who_and_why_and_nothing_else(scripted_model: ScriptedServer) -> None:
    assert report([scripted_model.url], "pip failed:\n  no network", http_proxy="http://127.0.0.1:9") == (
        0,
        "",
    )

    request = scripted_model.request(STATUS)

    assert (request.method, request.header("Content-Type")) == ("POST", "application/json")
    assert request.json() == {
        "id": 7,
        "mtoken": TOKEN,
        "version": wire.PROTOCOL_VERSION,
        "error_msg": "pip failed: no network",
        "url": "https://10.1.2.3:31000",
    }


def test_every_address_gets_the_report_whatever_the_others_do(scripted_model: ScriptedServer) -> None:
    refused = f"http://127.0.0.1:{free_port()}"
    with ScriptedServer() as failing, ScriptedServer() as moved, ScriptedServer() as cut:
        failing.script(STATUS, whole(b"", status="500 Fault"))
        moved.script(STATUS, whole(b"", f"Location: {scripted_model.url}/elsewhere", status="307 Moved"))
        cut.script(STATUS, Act.RESET)
        addresses = [refused, failing.url, "nonsense", moved.url, cut.url, scripted_model.url + "/"]

        status, said = report(addresses)

        assert [len(server.requests(STATUS)) for server in (failing, moved, cut)] == [1, 1, 1]
    assert status == 0
    assert [request.path for request in scripted_model.requests()] == [STATUS]
    lines = said.splitlines()
    assert all(line.startswith("start_server.sh: the failure could not be reported to ") for line in lines)
    assert [address for address in addresses if f"{address}: " in said] == addresses[:-1]
    for text in ("Connection refused", "it answered 500", "no URL", "it answered 307", "reset"):
        assert sum(text in line for line in lines) == 1, said
    assert TOKEN not in said


def test_what_nobody_accepts_is_told_by_the_status() -> None:
    status, said = report([f"http://somebody:secret@127.0.0.1:{free_port()}"])

    assert status == 1
    assert "Connection refused" in said
    assert "secret" not in said


def test_a_worker_without_an_id_cannot_report(scripted_model: ScriptedServer) -> None:
    status, said = report([scripted_model.url], CONTAINER_ID="seven")

    assert (status, scripted_model.requests()) == (1, [])
    assert said == "start_server.sh: the failure cannot be reported: CONTAINER_ID is not set to a number\n"


def test_the_reason_may_come_from_a_pipe_and_is_cut(scripted_model: ScriptedServer) -> None:
    process = start({**WORKER, "REPORT_ADDR": scripted_model.url}, "--once")
    process.communicate("x" * 5000, timeout=DEADLINE)

    assert scripted_model.request(STATUS).json()["error_msg"] == "x" * 1000


def test_it_repeats_every_ten_seconds_and_ends_at_once(scripted_model: ScriptedServer) -> None:
    """One address hangs: neither the next turn nor the end waits for it."""
    with ScriptedServer() as hanging:
        hanging.script(STATUS, Act.HANG)
        addresses = f"{scripted_model.url},{hanging.url}"
        with start({**WORKER, "REPORT_ADDR": addresses}, "out of order") as process:
            try:
                scripted_model.request(STATUS)
                began = time.monotonic()
                scripted_model.wait_for(
                    lambda: len(scripted_model.requests()) == 2, "the second", 2 * DEADLINE
                )
                between = time.monotonic() - began
                hanging.request(STATUS, 2)
                process.send_signal(signal.SIGTERM)
                asked = time.monotonic()
                said, _ = process.communicate(timeout=DEADLINE)
                took = time.monotonic() - asked
            finally:
                process.kill()
    assert process.returncode == 1
    assert 9 < between < 13
    assert took < 4
    assert said.count("could not be reported") == 1, "the same trouble is said once"
    assert {request.json()["error_msg"] for request in scripted_model.requests()} == {"out of order"}


def test_a_repair_of_an_address_is_said() -> None:
    said: list[str] = []
    failure = beacon.failure_of(WORKER, "no luck")
    with ScriptedServer() as server:
        server.once(STATUS, whole(b"", status="500 Fault"))
        server.once(STATUS, whole(b"", status="500 Fault"))
        one = beacon.Beacon([server.url], failure, said.append)
        accepted = [one.report_once() for _ in range(4)]
    assert accepted == [False, False, True, True]
    assert [line.partition(" to ")[0] for line in said] == [
        "the failure could not be reported",
        "the failure is reported",
    ]
    assert TOKEN not in repr(failure)


# -- what it shares with the package ----------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"USE_SSL": "no"},
        {"USE_SSL": " YES "},
        {"PUBLIC_IPADDR": "2001:db8::1"},
        {"PUBLIC_IPADDR": "[2001:db8::1]"},
        {"PUBLIC_IPADDR": " worker.example "},
        {"WORKER_PORT": "3001", "VAST_TCP_PORT_3001": "9"},
        {"PYWORKER_PUBLIC_URL": "https://tunnel.example/"},
        {"VAST_TCP_PORT_3000": ""},
        {"MASTER_TOKEN": ""},
        {"REPORT_ADDR": "http://one.example/, ,https://two.example:8000"},
        {"REPORT_ADDR": " "},
    ],
    ids=str,
)
def test_it_understands_the_environment_as_the_worker_does(changes: Mapping[str, str]) -> None:
    environ = {**WORKER, **changes}
    settings = Settings.from_env(environ)

    failure = beacon.failure_of(environ, "")

    assert failure == beacon.Failure(
        settings.container_id, settings.master_token, settings.public_url or "", ""
    )
    assert beacon.addresses_of(environ) == settings.report_addrs


def test_the_version_is_that_of_all_reports() -> None:
    assert beacon.PROTOCOL_VERSION == wire.PROTOCOL_VERSION


def test_pythons_too_old_for_the_worker_can_still_report() -> None:
    ast.parse(PROGRAM.read_text("utf-8"), feature_version=(3, 8))


# -- in a worker -----------------------------------------------------------------------------------------

BROKEN = {
    "syntax": ("def create_backend(settings:\n", "SyntaxError"),
    "an import": ("import a_package_that_is_nowhere\n", "No module named 'a_package_that_is_nowhere'"),
    "a value": (
        "def create_backend(settings):\n    raise ValueError('no\\nmodel')\n",
        "ValueError: no model",
    ),
    "an exit": ("import sys\nsys.exit('as I like')\n", "SystemExit: as I like"),
}


def broken_worker(folder: Path, source: str, address: str) -> WorkerProcess:
    """A worker whose package does not load."""
    package = folder / "broken_worker"
    package.mkdir()
    (package / "__init__.py").touch()
    functions = "" if "def " in source else "def create_backend(settings): ...\n"
    (package / "server.py").write_text(source + functions + "def create_blueprint(backend): ...\n")
    variables = {"PYTHONPATH": f"{ROOT}:{folder}", "REPORT_ADDR": address, "MASTER_TOKEN": TOKEN}
    return WorkerProcess("pyworker:create_app('broken_worker')", folder, variables)


def is_a_failure_of(worker: WorkerProcess, request: Received, text: str) -> bool:
    body = request.json()
    return (
        set(body) == {"id", "mtoken", "version", "error_msg", "url"}
        and body["url"] == worker.url
        and body["error_msg"].startswith("cannot start: ")
        and text in body["error_msg"]
    )


@pytest.mark.parametrize("kind", BROKEN)
def test_a_package_that_does_not_load_is_reported_until_sigterm(
    kind: str, tmp_path: Path, scripted_model: ScriptedServer
) -> None:
    source, text = BROKEN[kind]
    worker = broken_worker(tmp_path, source, scripted_model.url).launch()
    try:
        assert is_a_failure_of(worker, scripted_model.request(STATUS), text)
        assert worker.is_alive
    finally:
        worker.stop()
    assert worker.log.count("Traceback") == 1
    assert worker.log.count("Booting worker") == 1
    assert worker.log.count("reported every 10 s until this process is ended") == 1
    assert TOKEN not in worker.log


def test_a_broken_worker_stays_and_repeats_itself(tmp_path: Path, scripted_model: ScriptedServer) -> None:
    worker = broken_worker(tmp_path, *BROKEN["a value"][:1], scripted_model.url).launch()
    try:
        scripted_model.request(STATUS)
        scripted_model.wait_for(lambda: len(scripted_model.requests(STATUS)) >= 2, "another", 2 * DEADLINE)
        os.kill(worker.pid, signal.SIGINT)
        assert worker.wait() == 4
    finally:
        worker.stop()
    assert worker.log.count("Traceback") == 1


def test_a_broken_worker_ends_with_its_master(tmp_path: Path, scripted_model: ScriptedServer) -> None:
    worker = broken_worker(tmp_path, *BROKEN["a value"][:1], scripted_model.url).launch()
    try:
        scripted_model.request(STATUS)
        [child] = Path(f"/proc/{worker.pid}/task/{worker.pid}/children").read_text().split()
        os.kill(worker.pid, signal.SIGKILL)
        worker.wait()
        wait_until(lambda: not Path(f"/proc/{child}").exists(), "the end of the worker")
    finally:
        worker.stop()


def test_a_fault_of_the_settings_ends_gunicorn_at_once(
    tmp_path: Path, scripted_model: ScriptedServer
) -> None:
    worker = WorkerProcess("pyworker:create_app('nowhere')", tmp_path, {"REPORT_ADDR": scripted_model.url})

    assert worker.launch().wait() == 4
    assert "cannot start: there is no worker 'nowhere'" in worker.log
    assert scripted_model.requests() == []


def test_an_address_that_drips_does_not_keep_the_others_waiting(scripted_model: ScriptedServer) -> None:
    failure = beacon.Failure(1, "token", "http://a:1", "why")
    with Dripping(DRIPS["header block"]) as dripping:
        reporting = beacon.Beacon((dripping.url, scripted_model.url), failure, lambda _: None)
        began = time.monotonic()
        assert reporting.report_once()
        assert time.monotonic() - began < 12
    assert len(scripted_model.requests("/worker_status/")) == 1


def test_no_password_of_an_address_is_said() -> None:
    said: list[str] = []
    failure = beacon.Failure(1, "token", "http://a:1", "why")
    beacon.Beacon(("http://user:hunter2@127.0.0.1:9", "user:hunter2@b"), failure, said.append).report_once()
    assert len(said) == 2
    assert "hunter2" not in "".join(said)
