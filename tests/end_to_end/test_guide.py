"""The guide's first worker, from its first line to the last command: as written there, but for the ports."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.http import ask
from tests.support.ports import free_port
from tests.support.process import ROOT
from tests.support.scripted import ScriptedServer, whole
from tests.support.waiting import DEADLINE, wait_until

GUIDE = ROOT / "workers" / "README.md"


def blocks(language: str) -> list[str]:
    """The blocks of the guide's first chapter, before its first section."""
    text = GUIDE.read_text("utf-8")
    chapter = text[text.index("## The short way") : text.index("### Routes")]
    return re.findall(rf"^```{language}\n(.*?)^```$", chapter, re.MULTILINE | re.DOTALL)


@pytest.fixture
def port(tmp_path: Path, scripted_model: ScriptedServer) -> Iterator[int]:
    """Where the worker listens, which is started by the guide's command."""
    [server] = blocks("python")
    assert len(server.splitlines()) <= 25, "that is the promise"
    (tmp_path / "my_llm").mkdir()
    (tmp_path / "my_llm" / "server.py").write_text(server, encoding="utf-8")
    scripted_model.script("/health", whole(b"{}"))
    scripted_model.script("/v1/completions", whole(b'{"text": "wide"}', "Content-Type: application/json"))
    port = free_port()
    command, _ = blocks("bash")
    process = subprocess.Popen(
        ["bash", "-c", "exec env " + command],
        cwd=ROOT,
        env=variables(tmp_path)
        | {
            "MODEL_SERVER_URL": scripted_model.url,
            "REPORT_ADDR": "http://127.0.0.1:1",
            "PYWORKER_STATE_DIR": str(tmp_path),
            "WORKER_HOST": "127.0.0.1",
            "WORKER_PORT": str(port),
            "WORKER_HTTP_PORT": str(free_port()),
        },
    )
    try:
        yield port
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(DEADLINE)


def variables(folder: Path) -> dict[str, str]:
    """Of a shell in which the programs are those of this environment."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return {"PATH": path, "PYTHONPATH": f"{folder}{os.pathsep}{ROOT}", "PYTHONUTF8": "1"}


def is_ready(port: int) -> bool:
    try:
        return ask(f"http://127.0.0.1:{port}", "GET", "/readyz").status == 200
    except OSError:
        return False


def test_the_first_worker_of_the_guide(tmp_path: Path, scripted_model: ScriptedServer, port: int) -> None:
    wait_until(lambda: is_ready(port), "a ready worker")
    _, commands = blocks("bash")
    before = len(scripted_model.requests("/v1/completions"))
    for command in commands.splitlines():
        if command.startswith("curl") and shutil.which("curl") is None:
            continue
        done = subprocess.run(
            ["bash", "-c", command.replace("localhost:3000", f"127.0.0.1:{port}")],
            cwd=ROOT,
            env=variables(tmp_path),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert "wide" in done.stdout or "succeeded     20 (100.0%)" in done.stdout
    sent = [one.json() for one in scripted_model.requests("/v1/completions")[before:]]
    if shutil.which("curl") is not None:
        assert sent.pop(0) == {"prompt": "The sea is", "max_tokens": 16, "temperature": 0.5}
    assert sent[0] == {"prompt": "The sea is"}
    assert sent[1:] == 20 * [{"prompt": "Tell me about the sea.", "max_tokens": 64}]
