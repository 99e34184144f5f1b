"""The worker that runs beside the doctor, and its settings: a shell seldom has all of them."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pyworker.config import Settings

_APP = re.compile(rb"pyworker(?:\.app)?:create_app\(\s*['\"]([\w.-]+)['\"]")
_PORT = "WORKER_PORT"
# Bytes; a longer one is not of gunicorn.
_MOST = 2**20


@dataclass(frozen=True)
class Running:
    """gunicorn's master with a worker. worker: its name; folder: where relative paths of its settings lie."""

    pid: int
    worker: str
    environ: Mapping[str, str]
    folder: Path

    def settings(self) -> Settings:
        """Raises `ConfigError`."""
        settings = Settings.from_env(self.environ)
        log = settings.model_log
        return replace(
            settings,
            state_dir=self.folder / settings.state_dir,
            model_log=None if log is None else self.folder / log,
        )


def beside(own: Mapping[str, str], processes: Path = Path("/proc")) -> Running | None:
    """The worker on the port of this shell's environment; without WORKER_PORT the only one that runs here."""
    found = running(processes)
    port = own.get(_PORT, "").strip()
    if port:
        found = [one for one in found if (one.environ.get(_PORT, "").strip() or "3000") == port]
    return found[0] if len(found) == 1 else None


def running(processes: Path) -> Sequence[Running]:
    """The workers whose settings may be read: those of the same user."""
    found = {one.pid: (parent, one) for parent, one in _all(processes)}
    # Not gunicorn's children, which have the same command line.
    return [one for parent, one in found.values() if parent not in found]


def _all(processes: Path) -> Iterator[tuple[int, Running]]:
    for folder in processes.iterdir():
        if not folder.name.isdecimal():
            continue
        try:
            with (folder / "cmdline").open("rb") as file:
                match = _APP.search(file.read(_MOST))
            if match is None:
                continue
            environ = _environ((folder / "environ").read_bytes())
            # Behind the name, which may hold spaces and brackets: state, parent.
            parent = int((folder / "stat").read_bytes().rpartition(b")")[2].split()[1])
            yield parent, Running(int(folder.name), match[1].decode(), environ, (folder / "cwd").readlink())
        except (OSError, ValueError, IndexError):
            continue  # it has ended, or is somebody else's


def _environ(raw: bytes) -> Mapping[str, str]:
    pairs = (os.fsdecode(one).partition("=") for one in raw.split(b"\0") if b"=" in one)
    return {name: value for name, _, value in pairs}
