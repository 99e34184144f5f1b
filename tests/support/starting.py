"""start_server.sh as a user runs it, and copies of the project to run it in.

Each process that a run starts carries a mark in its environment, by which what is left of a run is found.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import select
import shutil
import signal
import subprocess
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.support.ports import free_port
from tests.support.process import ROOT as ROOT

MARK = "START_SERVER_TEST"
INSTALL_SECONDS = 400.0  # packages may come from a slow network
DEMO_SECONDS = 60.0
STOP_SECONDS = 20.0


class Run:
    """One run of start_server.sh and what it has said so far. Used by one thread."""

    def __init__(
        self,
        folder: Path,
        *arguments: str,
        inside: Sequence[str] = (),
        program: Sequence[str] = ("./start_server.sh",),
        stdin: str = os.devnull,
        **settings: str,
    ) -> None:
        """`inside`: the command that leads into another root, for which `folder` need not be there.
        `program`: what is run in place of the script.
        """
        self.mark = uuid.uuid4().hex
        environ = {"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/root"), MARK: self.mark}
        # Modules are compiled when they are imported: most of what is installed never is.
        environ["PIP_COMPILE"] = "0"
        # Whatever the machine needs for reaching a package index.
        kept = ("PIP_", "UV_", "HTTP", "http", "SSL_CERT", "REQUESTS_CA", "NO_PROXY", "no_proxy")
        environ.update({name: value for name, value in os.environ.items() if name.startswith(kept)})
        environ.update(settings)
        # Bash cannot trap a signal that was ignored when it started, as it is in some CI systems.
        command = [*inside, "env", "--default-signal=INT,TERM", "-C", str(folder), *program]
        with Path(stdin).open("rb") as read:
            self.process = subprocess.Popen(
                [*command, *arguments],
                env=environ,
                stdin=read,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._inside = bool(inside)
        self._said = bytearray()

    @property
    def said(self) -> str:
        return self._said.decode("utf-8", "replace")

    def read_until(self, text: str, seconds: float) -> None:
        """Until `text` was said; fails where the run ends or the time passes first."""
        deadline = time.monotonic() + seconds
        while text not in self.said:
            assert self._read_more(deadline), f"{text!r} was not said:\n{self.said}"

    def end(self, seconds: float) -> int:
        """Read until every process has closed the terminal; the script's exit status."""
        deadline = time.monotonic() + seconds
        while self._read_more(deadline):
            pass
        return self.process.wait(max(0.1, deadline - time.monotonic()))

    @property
    def script(self) -> int:
        """The process id of the script."""
        if self._inside:
            children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
            return int(children[0])
        return self.process.pid

    def close(self) -> None:
        """End by force what a failed test has left."""
        for pid in self.left():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait(STOP_SECONDS)
        assert self.process.stdout is not None
        self.process.stdout.close()

    def left(self) -> list[int]:
        """Processes of this run that are alive."""
        return [pid for pid in _pids() if f"{MARK}={self.mark}".encode() in _environment_of(pid)]

    def _read_more(self, deadline: float) -> bool:
        """Read what there is, waiting for it; False at the end of the output."""
        assert self.process.stdout is not None
        descriptor = self.process.stdout.fileno()
        ready, _, _ = select.select([descriptor], [], [], max(0.0, deadline - time.monotonic()))
        assert ready, f"nothing more was said in time:\n{self.said}"
        piece = os.read(descriptor, 65536)
        self._said += piece
        return bool(piece)


def _pids() -> list[int]:
    return [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()]


def _environment_of(pid: int) -> list[bytes]:
    """Empty for a process that is gone, a zombie, or somebody else's."""
    try:
        return Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return []


Start = Callable[..., Run]


def demo_ports() -> dict[str, str]:
    """Free ports, as the settings of a demo."""
    return {name: str(free_port()) for name in ("DEMO_MODEL_PORT", "DEMO_AUTOSCALER_PORT", "WORKER_PORT")}


def copy_project(target: Path) -> Path:
    """The project's files as a fresh clone has them, changes included."""
    skipped = shutil.ignore_patterns(".git", ".venv*", ".pyworker", "__pycache__", ".*_cache", ".hypothesis")
    shutil.copytree(ROOT, target, ignore=skipped)
    return target


@dataclass(frozen=True)
class Installed:
    """A copy in which the demo has run once, and what that run said."""

    folder: Path
    said: str
    status: int


def installed_copy(shared: Path, folder: Path) -> Installed:
    """An own copy, in `folder`, of what is installed once for all test processes that share a folder.

    The first one runs the demo, the others wait for it. The files are hard links: replace them, never write
    into them.
    """
    original, record = shared / "my pyworker", shared / "installed.json"
    with (shared / "installed.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not record.exists():
            run = Run(copy_project(original), "demo", "--once", **demo_ports())
            try:
                record.write_text(json.dumps([run.end(INSTALL_SECONDS), run.said]))
            finally:
                run.close()
    status, said = json.loads(record.read_text())
    return Installed(link_tree(original, folder / original.name), said, status)


def link_tree(source: Path, target: Path) -> Path:
    """A copy that shares its files, without the state of a demo."""
    state = shutil.ignore_patterns(".pyworker")
    shutil.copytree(source, target, symlinks=True, copy_function=os.link, ignore=state)
    return target
