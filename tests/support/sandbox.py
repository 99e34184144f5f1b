"""A throw-away root: this machine's files, whose changes go to memory and vanish with the processes in it.

Made of a mount and a process namespace and an overlay, so it takes root and a kernel that allows them.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest
from typing_extensions import Self

from tests.support.starting import Run, Start
from tests.support.waiting import DEADLINE

_SETUP = """
set -e
mount --make-rprivate /
mount -t tmpfs sandbox "$1"
mkdir "$1/changes" "$1/work" "$1/root"
mount -t overlay overlay -o "lowerdir=/,upperdir=$1/changes,workdir=$1/work" "$1/root"
mount --rbind /dev "$1/root/dev"
mount -t proc proc "$1/root/proc"
if [ -n "$2" ]; then mount --bind "$2" "$1/root$2"; fi
rm -rf "$1/root/workspace" "$1/root/.force_update" "$1"/root/etc/instance.*
echo ready
exec sleep infinity
"""


class Sandbox:
    """One such root. Belongs to one thread; skips the test where it cannot be made."""

    def __init__(self, *, network: bool = True, shared: Path | None = None) -> None:
        """network: False leaves it with no interface but a loopback that is down. shared: a folder whose
        changes are real.
        """
        namespaces = ["--mount", "--pid", *([] if network else ["--net"])]
        self._namespaces = namespaces
        self._mount = tempfile.mkdtemp(prefix="sandbox")
        self._holder = subprocess.Popen(
            [
                *("unshare", *namespaces, "--fork", "--kill-child"),
                *("bash", "-c", _SETUP, "bash", self._mount, str(shared or "")),
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> Self:
        assert self._holder.stdout is not None
        assert self._holder.stderr is not None
        if self._holder.stdout.readline() != "ready\n":
            reason = self._holder.stderr.read().strip()
            self.close()
            pytest.skip(f"no throw-away root on this machine: {reason}")
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    def close(self) -> None:
        """End every process in it, and with them the files."""
        self._holder.kill()
        self._holder.communicate(timeout=DEADLINE)
        Path(self._mount).rmdir()

    def path(self, path: str | Path) -> Path:
        """A path in there, as seen from here."""
        return Path(f"/proc/{self._init}/root{self._mount}/root{path}")

    def read(self, path: str) -> str:
        """The text of a file; empty where there is none."""
        file = self.path(path)
        return file.read_text("utf-8", "replace") if file.exists() else ""

    def write(self, path: str, text: str) -> None:
        """Make a file, and its folder."""
        file = self.path(path)
        file.parent.mkdir(exist_ok=True)
        file.write_text(text, "utf-8")

    def run(self, *command: str, folder: Path | str = "/") -> str:
        """What this command prints; it must succeed."""
        done = subprocess.run(
            [*self.inside, "env", "-C", str(folder), *command],
            capture_output=True,
            text=True,
            timeout=DEADLINE,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def start(self, start: Start, folder: Path, **settings: str) -> Run:
        """start_server.sh in there."""
        return start(folder, inside=self.inside, **settings)

    @property
    def inside(self) -> list[str]:
        """The command that runs another one in there."""
        nsenter, chroot = shutil.which("nsenter"), shutil.which("chroot")
        # Found here, since a test may give the command a PATH of its own.
        assert nsenter is not None
        assert chroot is not None
        return [nsenter, "--target", str(self._init), *self._namespaces, chroot, f"{self._mount}/root"]

    @property
    def _init(self) -> int:
        children = Path(f"/proc/{self._holder.pid}/task/{self._holder.pid}/children").read_text().split()
        return int(children[0])

    def __repr__(self) -> str:
        return f"<Sandbox {self._mount}>"
