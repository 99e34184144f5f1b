"""Model servers as people run them, each in a process of its own with a tiny model.

Their packages are in an environment of their own, see tests/engines/requirements.txt.
PYWORKER_TEST_ENGINES_PYTHON names a Python that has them already.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from typing_extensions import Self

from tests.support.http import Answer, ask
from tests.support.ports import free_port
from tests.support.process import ROOT
from tests.support.waiting import DEADLINE, wait_until

REQUIREMENTS = "tests/engines/requirements.txt"
_HOME = ROOT / ".venv-engines"
#: Seconds until one serves; the first import of a large package takes most of them.
START_DEADLINE = 240.0

#: Those that run now, for the report of a failed test.
running: list[Engine] = []


def engines_python() -> Path:
    """The Python that has the engines. Skips the test if there is none, but fails it in CI."""
    named = os.environ.get("PYWORKER_TEST_ENGINES_PYTHON")
    python = Path(named) if named else _HOME / "bin" / "python"
    if not python.exists():
        reason = (
            f"the engines are not installed: python3 -m venv {_HOME.name} && "
            f"{_HOME.name}/bin/pip install -r {REQUIREMENTS}"
        )
        if os.environ.get("CI") == "true":
            pytest.fail(reason, pytrace=False)
        pytest.skip(reason)
    return python


class Engine:
    """A model server. Belongs to one thread."""

    def __init__(self, name: str, command: Sequence[str], log_file: Path, port: int) -> None:
        """Not started yet. Whatever the command writes is appended to the log."""
        self.name = name
        self.log_file = log_file
        self.port = port
        self._command = command
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def log(self) -> str:
        """Everything that it has written so far."""
        return self.log_file.read_text("utf-8", "replace") if self.log_file.exists() else ""

    @property
    def is_alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def launch(self) -> Self:
        """Start the process without waiting for it."""
        kept = ("PATH", "HOME", "LANG", "TMPDIR")
        with self.log_file.open("ab") as log:
            self._process = subprocess.Popen(
                self._command,
                cwd=ROOT,
                env={**{name: os.environ[name] for name in kept if name in os.environ}, **_QUIET},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        running.append(self)
        return self

    def start(self) -> Self:
        """Start it, and wait until it serves."""
        self.launch()
        what = f"a good health of {self!r}"
        wait_until(lambda: self.is_healthy() or not self.is_alive, what, START_DEADLINE)
        assert self.is_alive, f"{self.name} did not start:\n{self.log}"
        return self

    def is_healthy(self) -> bool:
        """Whether it serves."""
        with contextlib.suppress(OSError, EOFError, http.client.HTTPException):
            return ask(self.url, "GET", "/health").status == 200
        return False

    def wait(self, timeout: float = DEADLINE) -> int:
        """Its exit status, once it has ended."""
        assert self._process is not None
        status = self._process.wait(timeout)
        if self in running:
            running.remove(self)
        return status

    def kill(self) -> int:
        """End it without a word; its exit status."""
        assert self._process is not None
        self._process.kill()
        return self.wait()

    def stop(self) -> int:
        """End it, by force if it takes too long; its exit status."""
        assert self._process is not None
        self._process.terminate()
        try:
            return self.wait()
        except subprocess.TimeoutExpired:
            return self.kill()

    def get(self, path: str) -> Answer:
        """A request past the worker."""
        return ask(self.url, "GET", path)

    def post(self, path: str, body: bytes) -> Answer:
        """A request past the worker."""
        return ask(self.url, "POST", path, body, {"Content-Type": "application/json"})

    def wait_for_log(self, text: str, timeout: float = DEADLINE, *, since: int = 0) -> None:
        """Until the log holds `text` behind its first `since` characters."""
        wait_until(lambda: text in self.log[since:], f"{text!r} in the log of {self.name}", timeout)

    def __repr__(self) -> str:
        return f"<Engine {self.name} on {self.port} {'alive' if self.is_alive else 'not running'}>"


#: No hub, and no more threads than this machine has to spare.
_QUIET: Mapping[str, str] = {
    "HF_HUB_OFFLINE": "1",
    "PYTHONUNBUFFERED": "1",
    "OMP_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
}


def llama_cpp(folder: Path, *options: str) -> Engine:
    """llama.cpp's server. Not started."""
    port = free_port()
    command = [str(engines_python()), "-m", "pyworker.local.llama_engine", "--port", str(port), *options]
    return Engine("llama.cpp", command, folder / "llama.log", port)


def transformers_serve(folder: Path) -> Engine:
    """`transformers serve`. Not started; its model is made if `folder` has none."""
    python = engines_python()
    model = folder / "tiny-gpt2"
    if not model.exists():
        script = ROOT / "tests" / "engines" / "scripts" / "tiny_gpt2.py"
        done = subprocess.run(
            [str(python), str(script), str(model)],
            env={**os.environ, **_QUIET},
            capture_output=True,
            text=True,
            timeout=START_DEADLINE,
            check=False,
        )
        assert done.returncode == 0, done.stderr
    port = free_port()
    serve = python.with_name("transformers")
    command = [str(serve), "serve", str(model), "--port", str(port), "--host", "127.0.0.1", "--device", "cpu"]
    return Engine("transformers serve", command, folder / "transformers.log", port)
