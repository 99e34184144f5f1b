"""A worker under gunicorn, in a process of its own."""

from __future__ import annotations

import http.client
import os
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from pyworker.config import raw_environment
from pyworker.server import config_file

_STOP_SECONDS = 40.0
_TRIES = 5
_TICK = 0.05


class WorkerProcess:
    """gunicorn with one worker. Belongs to one thread."""

    def __init__(self, name: str, folder: Path, variables: Mapping[str, str]) -> None:
        """name: as for `create_app`; folder: where it runs, and its log is."""
        self._name = name
        self._folder = folder
        self._variables = variables
        self._log_file = folder / "worker.log"
        self._process: subprocess.Popen[bytes] | None = None
        self.port = free_port()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def log(self) -> str:
        """What the worker has written."""
        return self._log_file.read_text("utf-8", "replace") if self._log_file.exists() else ""

    @property
    def is_alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self, timeout: float) -> str:
        """Until it answers at all; the reason if it does not."""
        deadline = time.monotonic() + timeout
        for _ in range(_TRIES):
            self._launch()
            while self.is_alive and not self._answers():
                if time.monotonic() > deadline:
                    return f"it did not answer /ping within {timeout:g} s"
                time.sleep(_TICK)
            if self.is_alive:
                return ""
            if "in use" not in self.log:
                break
            self.port = free_port()
        return "it has ended by itself"

    def _launch(self) -> None:
        own = {
            name: text
            for name, text in raw_environment().items()
            if name in ("PATH", "HOME", "LANG", "TMPDIR")
        }
        path = os.pathsep.join(str(Path(folder or ".").resolve()) for folder in sys.path)
        port = {
            "WORKER_PORT": str(self.port),
            "WORKER_HTTP_PORT": str(free_port()),
            "PYWORKER_PUBLIC_URL": self.url,
        }
        command = ["-m", "gunicorn", "-c", str(config_file()), f"pyworker:create_app({self._name!r})"]
        with self._log_file.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, *command],
                env={**own, "PYTHONPATH": path, **self._variables, **port},
                cwd=self._folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def _answers(self) -> bool:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
        try:
            connection.request("GET", "/ping")
            return connection.getresponse().read() == b"pong"
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    def stop(self) -> None:
        """End it, by force if it takes too long."""
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def __repr__(self) -> str:
        return f"<WorkerProcess {self._name} {self.url}>"


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
