"""start_server.sh, run as a user runs it: in a copy of the project, on free ports, with real packages."""

from __future__ import annotations

import contextlib
import http.client
import itertools
import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.support.http import ask
from tests.support.starting import (
    DEMO_SECONDS,
    INSTALL_SECONDS,
    ROOT,
    STOP_SECONDS,
    Installed,
    Run,
    Start,
    copy_project,
    demo_ports,
)
from tests.support.waiting import wait_until

pytestmark = pytest.mark.timeout(600)


@pytest.fixture
def ports() -> dict[str, str]:
    """Three free ports, as the settings of a demo."""
    return demo_ports()


@pytest.fixture
def bare(tmp_path: Path) -> Path:
    """A copy without an environment."""
    return copy_project(tmp_path / "bare")


def _responses(said: str) -> list[str]:
    """The line behind each command of a client that the demo shows."""
    lines = said.splitlines()
    return [
        after for line, after in itertools.pairwise(lines) if line.startswith("$ ") and ".client " in line
    ]


# --- the demo --------------------------------------------------------------------------------------------


def test_the_first_demo_installs_and_shows_both_responses(installed: Installed) -> None:
    assert installed.status == 0, installed.said
    assert "installing requirements.txt" in installed.said
    assert installed.said.index("A whole response:") < installed.said.index("A streamed response:")
    whole, streamed = _responses(installed.said)
    assert len(whole.split()) > 10
    assert len(streamed.split()) > 10


@pytest.mark.parametrize("worker", ["vllm", "sglang", "llama", "tgi"])
def test_the_demo_of_an_engine_shows_its_responses(
    installed: Installed, start: Start, ports: dict[str, str], worker: str
) -> None:
    started = time.monotonic()
    run = start(installed.folder, "demo", "--once", worker, **ports)
    assert run.end(DEMO_SECONDS) == 0, run.said
    assert time.monotonic() - started < DEMO_SECONDS
    shown = _responses(run.said)
    assert len(shown) == (2 if worker == "tgi" else 3)
    assert all(len(text.split()) > 3 for text in shown), run.said
    assert run.left() == []


def test_the_demo_of_openai_shows_the_door_to_plain_clients(
    installed: Installed, start: Start, ports: dict[str, str]
) -> None:
    run = start(installed.folder, "demo", "openai", **ports, OPENAI_API_KEY_DIGESTS="0" * 64, MODEL_NAME="x")
    run.read_until("The logs:", DEMO_SECONDS)
    assert len(_responses(run.said)) == 3
    models, chat = [
        line.strip() for line in run.said.splitlines() if "curl" in line and "Authorization" in line
    ]
    assert json.loads(_curl(models))["data"][0]["object"] == "model"
    [choice] = json.loads(_curl(chat))["choices"]
    assert choice["message"]["content"].strip()
    key = shlex.split(chat)[2].removeprefix("Authorization: Bearer ")
    assert key.startswith("sk-demo-")
    refused = json.loads(_curl(chat.replace(key, "sk-other")))
    assert refused["error"]["code"] == "invalid_api_key"
    assert all(key not in path.read_text("utf-8") for path in (installed.folder / ".pyworker").glob("*.log"))
    run.process.terminate()
    assert run.end(STOP_SECONDS) == 143, run.said
    assert run.left() == []


def _curl(command: str) -> bytes:
    """What a line for curl prints; sent by hand if there is no curl."""
    words = shlex.split(command)
    assert words[0] == "curl"
    if shutil.which("curl"):
        return subprocess.run([*words, "-s"], capture_output=True, timeout=60, check=True).stdout
    url = urlsplit(words[-1])
    body = words[words.index("-d") + 1].encode() if "-d" in words else b""
    headers = dict(word.split(": ", 1) for word in words if word.startswith("Authorization: "))
    return ask(f"http://{url.netloc}", "POST" if body else "GET", url.path, body, headers).body


def test_a_second_demo_installs_nothing(installed: Installed, start: Start, ports: dict[str, str]) -> None:
    run = start(installed.folder, "demo", "--once", **ports)
    assert run.end(DEMO_SECONDS) == 0, run.said
    assert "installing" not in run.said
    assert len(_responses(run.said)) == 2
    assert run.left() == []


def test_what_an_earlier_demo_left_does_not_count(
    installed: Installed, start: Start, ports: dict[str, str]
) -> None:
    state = installed.folder / ".pyworker"
    state.mkdir(exist_ok=True)
    (state / ".has_benchmark").write_text("123456789.0")
    (state / "model.log").write_text("Exception: corrupted model file\n")
    run = start(installed.folder, "demo", "--once", **ports)
    assert run.end(DEMO_SECONDS) == 0, run.said
    assert "123456789" not in (state / ".has_benchmark").read_text()
    assert "corrupted" not in (state / "model.log").read_text()


def test_settings_of_the_shell_do_not_reach_the_demo(
    installed: Installed, start: Start, ports: dict[str, str]
) -> None:
    run = start(
        installed.folder,
        "demo",
        "--once",
        **ports,
        USE_SSL="true",
        MASTER_TOKEN="hunter2",
        REPORT_ADDR="http://127.0.0.1:9",
        PYWORKER_PUBLIC_URL="https://elsewhere.example",
        MODEL_HEALTH_ENDPOINT="/nowhere",
        HTTP_PROXY="http://127.0.0.1:9",
        http_proxy="http://127.0.0.1:9",
    )
    assert run.end(DEMO_SECONDS) == 0, run.said


def test_the_holder_of_a_taken_port_is_named_before_anything_starts(
    bare: Path, start: Start, ports: dict[str, str]
) -> None:
    with socket.create_server(("127.0.0.1", int(ports["DEMO_AUTOSCALER_PORT"]))):
        run = start(bare, "demo", "--once", **ports)
        assert run.end(STOP_SECONDS) == 1
    assert f"port {ports['DEMO_AUTOSCALER_PORT']} is taken by process {os.getpid()} (" in run.said
    assert "DEMO_AUTOSCALER_PORT" in run.said
    assert not (bare / ".venv").exists()


@pytest.mark.parametrize("given", ["x", "0", "70000", "a b"])
def test_a_port_that_is_none_is_named(bare: Path, start: Start, ports: dict[str, str], given: str) -> None:
    run = start(bare, "demo", **(ports | {"WORKER_PORT": given}))
    assert run.end(STOP_SECONDS) == 1
    assert run.said == f"start_server.sh: WORKER_PORT={given} is not valid: expected a port from 1 to 65535\n"


def test_ctrl_c_ends_every_process(installed: Installed, start: Start, ports: dict[str, str]) -> None:
    run = _staying_demo(start, installed, ports)
    os.killpg(run.process.pid, signal.SIGINT)
    assert run.end(STOP_SECONDS) == 130, run.said
    assert run.left() == []


def test_a_termination_ends_every_process(installed: Installed, start: Start, ports: dict[str, str]) -> None:
    run = _staying_demo(start, installed, ports)
    run.process.terminate()
    assert run.end(STOP_SECONDS) == 143, run.said
    assert run.left() == []


def test_every_process_ends_even_where_the_script_is_killed(
    installed: Installed, start: Start, ports: dict[str, str]
) -> None:
    run = _staying_demo(start, installed, ports)
    run.process.kill()
    wait_until(lambda: run.left() == [], "every process has ended", STOP_SECONDS)


def test_a_server_that_ends_while_the_demo_runs_is_named(
    installed: Installed, start: Start, ports: dict[str, str]
) -> None:
    run = _staying_demo(start, installed, ports)
    [server] = [pid for pid in run.left() if b"pyworker.local.model_server" in _command_of(pid)]
    os.kill(server, signal.SIGKILL)
    assert run.end(STOP_SECONDS) == 1
    assert "The model server was ended from outside (signal 9)" in run.said
    assert "The last lines of .pyworker/model-server.log" in run.said
    assert run.left() == []


def _staying_demo(start: Start, installed: Installed, ports: dict[str, str]) -> Run:
    run = start(installed.folder, "demo", **ports)
    run.read_until("The logs:", DEMO_SECONDS)
    fleet, worker = [line.split()[-1] for line in run.said.splitlines() if re.search(r" the \w+ http:", line)]
    for url, kind in ((fleet, b"fleet"), (worker, b"worker")):
        page = ask(url, "GET", urlsplit(url).path, headers={"Accept": "text/html"})
        assert b'data-kind="%s"' % kind in page.body
    # The script, a model server, an autoscaler, gunicorn's master and its worker.
    assert len(run.left()) >= 5
    return run


def _command_of(pid: int) -> bytes:
    return Path(f"/proc/{pid}/cmdline").read_bytes()


def test_a_worker_that_cannot_start_gives_its_reason(
    installed: Installed, start: Start, ports: dict[str, str]
) -> None:
    run = start(installed.folder, "demo", "--once", "nowhere", **ports)
    assert run.end(DEMO_SECONDS) == 1
    assert "there is no worker 'nowhere'; workers here: auto, " in run.said
    assert "hello_world" in run.said
    assert "The worker nowhere ended by itself" in run.said
    assert run.left() == []


def test_a_worker_whose_package_does_not_load_gives_its_reason(
    installed: Installed, start: Start, ports: dict[str, str]
) -> None:
    folder = installed.folder / "workers" / "broken"
    folder.mkdir()
    (folder / "__init__.py").touch()
    (folder / "server.py").write_text("def create_backend(\n")
    run = start(installed.folder, "demo", "--once", "broken", **ports)
    try:
        assert run.end(DEMO_SECONDS) == 1
    finally:
        shutil.rmtree(folder)
    assert "cannot start: SyntaxError: " in run.said
    assert "The worker cannot start. Mend what its log names, then start again." in run.said
    assert run.left() == []


def test_a_worker_without_a_client_is_only_started(
    installed: Installed, start: Start, ports: dict[str, str]
) -> None:
    folder = installed.folder / "workers" / "quiet"
    folder.mkdir()
    (folder / "__init__.py").touch()
    (folder / "server.py").write_text(
        "from workers.hello_world.server import create_backend, create_blueprint\n"
    )
    run = start(installed.folder, "demo", "--once", "quiet", **ports)
    assert run.end(DEMO_SECONDS) == 0, run.said
    assert "quiet has no client module" in run.said
    assert _responses(run.said) == []


# --- the environment -------------------------------------------------------------------------------------


def test_an_interrupted_installation_leaves_no_process_and_no_stamp(
    bare: Path, start: Start, ports: dict[str, str]
) -> None:
    half_made = bare / ".venv" / "bin"
    half_made.mkdir(parents=True)
    (half_made / "python").symlink_to("/nowhere/python3")
    run = start(bare, "demo", **ports)
    run.read_until("installing requirements.txt", INSTALL_SECONDS)
    assert "making .venv" in run.said
    run.process.terminate()
    assert run.end(STOP_SECONDS) == 143
    assert run.left() == []
    assert (half_made / "pip").exists()
    assert not (bare / ".venv" / ".requirements-installed").exists()


def test_a_python_without_venv_names_the_command_to_run(
    bare: Path, tmp_path: Path, start: Start, ports: dict[str, str]
) -> None:
    stubs = _stubs(tmp_path, user_id=1000)
    run = start(bare, "demo", **ports, **stubs)
    assert run.end(STOP_SECONDS) == 1
    assert "sudo apt-get update && sudo apt-get install -y python3 python3-venv" in run.said
    assert "ensurepip is not available" in run.said
    assert not (tmp_path / "apt-get.log").exists()


def test_root_gets_the_venv_module_installed(
    bare: Path, tmp_path: Path, start: Start, ports: dict[str, str]
) -> None:
    run = start(bare, "demo", **ports, **_stubs(tmp_path, user_id=0))
    run.read_until("installing requirements.txt", INSTALL_SECONDS)
    assert (tmp_path / "apt-get.log").read_text() == "update\ninstall -y python3 python3-venv\n"
    run.process.terminate()
    assert run.end(STOP_SECONDS) == 143


def _stubs(folder: Path, user_id: int) -> dict[str, str]:
    """A PATH where python3 makes environments only once apt-get has installed something."""
    real = Path(sys.executable).resolve()  # not a wrapper that changes PATH
    log = folder / "apt-get.log"
    programs = folder / "programs"
    programs.mkdir()
    scripts = {
        "python3": f"""
            case "$*" in *"-m venv "* | *ensurepip*)
                if ! grep -qs install '{log}'; then
                    echo "The virtual environment was not created: ensurepip is not available."
                    exit 1
                fi ;;
            esac
            exec '{real}' "$@"
            """,
        "apt-get": f"""echo "$*" >>'{log}'""",
        "id": f"echo {user_id}",
    }
    for name, script in scripts.items():
        (programs / name).write_text(f"#!/bin/sh\n{textwrap.dedent(script)}\n")
        (programs / name).chmod(0o755)
    return {"PATH": f"{programs}:{os.environ['PATH']}"}


# --- an instance -----------------------------------------------------------------------------------------


def test_root_gets_python_installed(bare: Path, tmp_path: Path, start: Start) -> None:
    """A bare system has neither."""
    programs = tmp_path / "programs"
    programs.mkdir()
    # What the script itself needs.
    for name in ("env", "dirname", "cat", "cp", "tee", "cut"):
        (programs / name).symlink_to(str(shutil.which(name)))
    log = tmp_path / "apt-get.log"
    real = Path(sys.executable).resolve()
    for name, script in {
        "id": "echo 0",
        "apt-get": f"""
            echo "$*" >>'{log}'
            case "$1" in install) ln -s '{real}' '{programs}/python3' ;; esac
            """,
    }.items():
        (programs / name).write_text(f"#!/bin/sh\nPATH={os.environ['PATH']}\n{textwrap.dedent(script)}\n")
        (programs / name).chmod(0o755)
    model_log = tmp_path / "model.log"
    model_log.write_text("a line of an earlier run\n")
    settings = {"WORKSPACE_DIR": str(tmp_path), "MODEL_LOG": str(model_log), "ROTATE_MODEL_LOG": "true"}
    run = start(bare, PATH=str(programs), **settings)
    assert run.end(STOP_SECONDS) == 1
    assert log.read_text() == "update\ninstall -y python3 python3-venv\n", run.said
    assert "python3 is missing" not in run.said
    assert "BACKEND is not set" in run.said
    assert (model_log.read_text(), (tmp_path / "model.log.old").read_text()) == (
        "",
        "a line of an earlier run\n",
    )


@pytest.mark.parametrize("shell", ["dash", "bash", "sh"])
def test_any_shell_will_do(bare: Path, shell: str) -> None:
    """As people type it: `sh start_server.sh`."""
    found = shutil.which(shell)
    if found is None:
        pytest.skip(f"no {shell} here")
    for options in ([], ["-e"], *([["--posix"]] if shell == "bash" else [])):
        command = [found, *options, "start_server.sh", "demo", "one", "two"]
        done = subprocess.run(
            command, cwd=bare, capture_output=True, text=True, timeout=STOP_SECONDS, check=False
        )
        assert done.returncode == 2, done
        assert done.stderr.startswith("start_server.sh: more than one worker: one and two\n\nusage:")


def test_what_the_model_logs_while_all_is_installed_is_for_the_worker(
    bare: Path, tmp_path: Path, start: Start, ports: dict[str, str]
) -> None:
    log = tmp_path / "model.log"
    log.write_text("a line of an earlier run\n")
    settings = {**instance_settings(tmp_path, ports), "ROTATE_MODEL_LOG": "true"}
    run = start(bare, **settings, PIP_INDEX_URL="http://127.0.0.1:9", PIP_RETRIES="0")
    run.read_until("making .venv", INSTALL_SECONDS)
    assert (log.read_text(), (tmp_path / "model.log.old").read_text()) == ("", "a line of an earlier run\n")
    log.write_text("server has started\n")
    run.read_until("installing requirements.txt", INSTALL_SECONDS)
    run.process.terminate()
    assert run.end(STOP_SECONDS) in (1, 143)
    assert log.read_text() == "server has started\n"


def test_health_needs_no_log(bare: Path, tmp_path: Path, start: Start, ports: dict[str, str]) -> None:
    settings = {**instance_settings(tmp_path, ports), "MODEL_LOG": "", "MODEL_READINESS": "Health"}
    run = start(bare, **settings, PIP_INDEX_URL="http://127.0.0.1:9", PIP_RETRIES="0")
    run.read_until("making .venv", INSTALL_SECONDS)
    assert "MODEL_LOG" not in run.said
    run.process.terminate()
    assert run.end(STOP_SECONDS) == 143


def test_a_file_system_without_locks_is_not_taken_for_a_running_instance(
    bare: Path, tmp_path: Path, start: Start, ports: dict[str, str]
) -> None:
    programs = tmp_path / "programs"
    programs.mkdir()
    # The standard library's lock fails as on such a file system.
    program = tmp_path / "without_locks.py"
    program.write_text("""
import errno, fcntl, os, runpy, sys
def flock(*_arguments):
    raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))
fcntl.flock = flock
sys.path.insert(0, os.getcwd())
runpy.run_module("pyworker.instance.launcher", run_name="__main__")
""")
    script = f"""#!/bin/sh
case "$*" in *pyworker.instance.launcher*) exec '{sys.executable}' '{program}' ;; esac
exec '{shutil.which("python3")}' "$@"
"""
    (programs / "python3").write_text(script)
    (programs / "python3").chmod(0o755)
    settings = {**instance_settings(tmp_path, ports), "PATH": f"{programs}:{os.environ['PATH']}"}
    run = start(bare, **settings, PIP_INDEX_URL="http://127.0.0.1:9", PIP_RETRIES="0")
    run.read_until("making .venv", INSTALL_SECONDS)
    assert "cannot be locked (No locks available)" in run.said
    assert "started already" not in run.said
    run.process.terminate()
    assert run.end(STOP_SECONDS) == 143


def instance_settings(folder: Path, ports: dict[str, str]) -> dict[str, str]:
    """Of an instance whose workspace is this folder."""
    port = ports["WORKER_PORT"]
    return {
        "BACKEND": "hello_world",
        "MODEL_LOG": str(folder / "model.log"),
        "CONTAINER_ID": "7",
        "PUBLIC_IPADDR": "127.0.0.1",
        f"VAST_TCP_PORT_{port}": port,
        "WORKER_PORT": port,
        "USE_SSL": "false",
        "REPORT_ADDR": f"http://127.0.0.1:{ports['DEMO_AUTOSCALER_PORT']}",
        "MASTER_TOKEN": "hunter2",
        "WORKSPACE_DIR": str(folder),
    }


def test_every_missing_setting_is_named_at_once(bare: Path, tmp_path: Path, start: Start) -> None:
    run = start(bare, MASTER_TOKEN="hunter2", WORKSPACE_DIR=str(tmp_path))
    assert run.end(STOP_SECONDS) == 1
    *lines, last = run.said.splitlines()
    assert last.endswith("the failure cannot be reported: CONTAINER_ID is not set to a number")
    names = [line.split()[1] for line in lines]
    assert names == ["BACKEND", "CONTAINER_ID", "PUBLIC_IPADDR", "VAST_TCP_PORT_3000"]
    assert "hello_world" in run.said
    assert "hunter2" not in run.said
    assert not (bare / ".venv").exists()


def test_an_instance_serves_until_it_is_terminated(
    installed: Installed, tmp_path: Path, start: Start, ports: dict[str, str]
) -> None:
    port = ports["WORKER_PORT"]
    log = tmp_path / "model.log"
    log.write_text("a line of an earlier run\n")
    settings = instance_settings(tmp_path, ports)
    run = start(installed.folder, **settings)
    wait_until(lambda: _ping(port) == b"pong", "the worker answers", DEMO_SECONDS)
    assert log.read_text() == "a line of an earlier run\n"
    assert not (tmp_path / "model.log.old").exists()
    run.process.terminate()
    assert run.end(60) == 0, run.said
    assert run.left() == []
    assert "hunter2" not in run.said


def _ping(port: str) -> bytes:
    """The body of the answer; empty where there is none."""
    connection = http.client.HTTPConnection("127.0.0.1", int(port), timeout=5)
    with contextlib.closing(connection):
        try:
            connection.request("GET", "/ping")
            return connection.getresponse().read()
        except OSError:
            return b""


def test_tls_is_the_default_of_an_instance(
    installed: Installed, tmp_path: Path, start: Start, ports: dict[str, str]
) -> None:
    run = start(
        installed.folder,
        BACKEND="hello_world",
        MODEL_LOG=str(tmp_path / "model.log"),
        CONTAINER_ID="7",
        PYWORKER_PUBLIC_URL="https://worker.example",
        SSL_KEYFILE=str(tmp_path / "instance.key"),
        SSL_CERTFILE="/nowhere/instance.crt",
        WORKSPACE_DIR=str(tmp_path),
        WORKER_PORT=ports["WORKER_PORT"],
        REPORT_ADDR=f"http://127.0.0.1:{ports['DEMO_AUTOSCALER_PORT']}",
    )
    assert run.end(STOP_SECONDS) == 1
    assert "there is no certificate for USE_SSL=true: SSL_CERTFILE=/nowhere/instance.crt cannot" in run.said


# --- arguments -------------------------------------------------------------------------------------------


def test_help_is_the_usage(start: Start) -> None:
    for arguments in (["--help"], ["demo", "--help"]):
        run = start(ROOT, *arguments)
        assert run.end(STOP_SECONDS) == 0
        assert run.said.startswith("usage: ./start_server.sh demo [--once] [WORKER]")


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["dmeo"], "unknown argument: dmeo"),
        (["demo", "--twice"], "unknown option of demo: --twice"),
        (["demo", "one", "two"], "more than one worker: one and two"),
        (["demo", 'x"); import os'], "not a worker's name"),
    ],
)
def test_arguments_that_mean_nothing_get_the_usage(
    start: Start, arguments: list[str], complaint: str
) -> None:
    run = start(ROOT, *arguments)
    assert run.end(STOP_SECONDS) == 2
    assert complaint in run.said
    assert "usage:" in run.said
