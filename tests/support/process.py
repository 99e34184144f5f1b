"""A worker in a process of its own, under gunicorn, as it runs on an instance."""

from __future__ import annotations

import contextlib
import http.client
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from typing_extensions import Self

from tests.support.http import ask
from tests.support.ports import free_port
from tests.support.waiting import DEADLINE, wait_until

ROOT = Path(__file__).resolve().parent.parent.parent
STOP_DEADLINE = 45.0  # seconds; gunicorn kills its worker after DRAIN_TIMEOUT + 10
_PORT_TRIES = 5

#: Those that run now, for the report of a failed test.
running: list[WorkerProcess] = []


def environment(folder: Path, port: int, variables: Mapping[str, str]) -> dict[str, str]:
    """The environment of a worker in `folder`; nothing of this process's own but where programs are."""
    own = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "TMPDIR") if name in os.environ}
    return {
        **own,
        "PYTHONPATH": str(ROOT),
        "PYTHONUNBUFFERED": "1",
        "WORKER_HOST": "127.0.0.1",
        "WORKER_PORT": str(port),
        "WORKER_HTTP_PORT": str(free_port()),
        "PUBLIC_IPADDR": "127.0.0.1",
        f"VAST_TCP_PORT_{port}": str(port),
        "CONTAINER_ID": "1",
        "MODEL_LOG": str(folder / "model.log"),
        "PYWORKER_STATE_DIR": str(folder),
        "PYWORKER_UPDATE_FLAG": str(folder / "update"),
        **variables,
    }


class WorkerProcess:
    """gunicorn with one worker. Belongs to one thread."""

    def __init__(self, app: str, folder: Path, variables: Mapping[str, str]) -> None:
        """Not started yet. `folder` holds its state, its log and the model's log."""
        self.folder = folder
        self.model_log = folder / "model.log"
        self.log_file = folder / "worker.log"
        self.port = 0
        #: What the command is started through, such as a program that sets limits.
        self.prefix: tuple[str, ...] = ()
        #: What is run.
        self.command: tuple[str, ...] = (
            sys.executable,
            "-m",
            "gunicorn",
            "-c",
            str(ROOT / "gunicorn.conf.py"),
            app,
        )
        self._app = app
        self._variables = variables
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        scheme = "https" if self._variables.get("USE_SSL") == "true" else "http"
        return f"{scheme}://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        """Of gunicorn's master."""
        assert self._process is not None
        return self._process.pid

    @property
    def worker_pid(self) -> int:
        """Of gunicorn's one child, which does the work."""
        [child] = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text("utf-8").split()
        return int(child)

    @property
    def peak_memory(self) -> int:
        """The most resident memory the child has had so far, in bytes."""
        lines = Path(f"/proc/{self.worker_pid}/status").read_text("utf-8").splitlines()
        [kilobytes] = [line.split()[1] for line in lines if line.startswith("VmHWM")]
        return int(kilobytes) * 1024

    @property
    def children(self) -> list[int]:
        """The worker processes of gunicorn's master."""
        found = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text("ascii")
        return [int(pid) for pid in found.split()]

    def show_state(self) -> None:
        """Have the worker process say in its log how things stand."""
        for pid in self.children:
            os.kill(pid, signal.SIGUSR1)

    @property
    def log(self) -> str:
        """Everything the worker has written so far."""
        return self.log_file.read_text("utf-8", "replace") if self.log_file.exists() else ""

    @property
    def is_alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def launch(self) -> Self:
        """Start the process without waiting for it."""
        self.port = free_port()
        with self.log_file.open("ab") as log:
            self._process = subprocess.Popen(
                [*self.prefix, *self.command],
                env=environment(self.folder, self.port, self._variables),
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        running.append(self)
        return self

    def start(self) -> Self:
        """Start it, and wait until it answers; another port where somebody was faster with this one."""
        for _ in range(_PORT_TRIES):
            self.launch()
            wait_until(lambda: self.answers_ping() or not self.is_alive, f"an answer of {self!r}")
            if self.is_alive:
                return self
            self.wait()
            assert "in use" in self.log, f"the worker did not start:\n{self.log}"
        raise AssertionError("no free port was found")

    def answers_ping(self) -> bool:
        """Whether it serves."""
        with contextlib.suppress(OSError, EOFError, http.client.HTTPException):
            return ask(self.url, "GET", "/ping").body == b"pong"
        return False

    def terminate(self) -> None:
        """Ask it to end: what the platform does."""
        assert self._process is not None
        self._process.terminate()

    def wait(self, timeout: float = STOP_DEADLINE) -> int:
        """Its exit status, once it has ended."""
        assert self._process is not None
        status = self._process.wait(timeout)
        if self in running:
            running.remove(self)
        return status

    def stop(self) -> None:
        """End it and wait, by force where it takes too long; fails then."""
        if self._process is None or self._process.poll() is not None:
            if self in running:
                running.remove(self)
            return
        self.terminate()
        try:
            self.wait()
        except subprocess.TimeoutExpired:
            self._kill()
            raise AssertionError(f"the worker did not end within {STOP_DEADLINE:g} s:\n{self.log}") from None

    def _kill(self) -> None:
        """gunicorn's own children end once their parent is gone."""
        assert self._process is not None
        self._process.send_signal(signal.SIGKILL)
        self.wait(DEADLINE)

    def say(self, line: str) -> None:
        """Write a line into the model's log."""
        with self.model_log.open("a", encoding="utf-8") as log:
            log.write(line + "\n")

    def wait_for_log(self, text: str, timeout: float = DEADLINE) -> None:
        """Until the worker's own log holds `text`."""
        wait_until(lambda: text in self.log, f"{text!r} in the worker's log", timeout)

    def __repr__(self) -> str:
        state = "alive" if self.is_alive else "not running"
        return f"<WorkerProcess {self._app} on {self.port} {state} at {time.monotonic():.0f}>"
