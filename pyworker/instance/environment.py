"""The folder .venv: made and filled when that is needed, also if an earlier start was interrupted."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

from pyworker.instance.children import Children
from pyworker.instance.output import Output, StartError

PYTHON = ".venv/bin/python"
_REQUIREMENTS = Path("requirements.txt")
#: Says for which Python and which requirements everything was installed.
_STAMP = Path(".venv/.requirements-installed")
_INSTALL = (PYTHON, "-m", "pip", "install", "--disable-pip-version-check")


class Environment:
    """The project's .venv, in the current folder."""

    def __init__(self, children: Children, output: Output) -> None:
        self._children = children
        self._output = output

    def prepare(self) -> None:
        """Make it and install requirements.txt unless that is done already; raises `StartError`."""
        if _STAMP.is_file() and _STAMP.read_text().strip() == _fingerprint():
            return
        self._require_pip()
        try:
            text = "installing requirements.txt into .venv (a minute or two)"
            self._children.run(text, *_INSTALL, "-r", str(_REQUIREMENTS))
        except StartError as error:
            self._output.show_tail(self._children.log)
            raise StartError(
                "pip could not install requirements.txt. Is the network there, and space on the disk?",
                "Start again: what is installed already is kept.",
            ) from error
        self.stamp()

    def upgrade(self, requirements: Path) -> None:
        """Install the newest versions that these requirements allow; raises `StartError`."""
        self._require_pip()
        self._children.run("updating what is installed", *_INSTALL, "--upgrade", "-r", str(requirements))

    def _require_pip(self) -> None:
        # Without the stamp, the next start takes an interrupted installation up again.
        _STAMP.unlink(missing_ok=True)
        if output_of(PYTHON, "-m", "pip", "--version"):
            return
        try:
            # --clear: an earlier attempt may have left half of it, or its Python is gone.
            self._children.run("making .venv", "python3", "-m", "venv", "--clear", ".venv")
        except StartError as error:
            self._output.show_tail(self._children.log)
            raise StartError(
                f"{shutil.which('python3')} -m venv does not work. Install your system's package of Python's "
                "venv module, then start again:",
                "    sudo apt-get update && sudo apt-get install -y python3 python3-venv",
            ) from error

    def stamp(self) -> None:
        """Everything is installed."""
        _STAMP.write_text(_fingerprint() + "\n")


def install_packages(children: Children, *names: str) -> None:
    """Install packages of Debian or Ubuntu if this user may; what is still missing then, the caller sees."""
    if shutil.which("apt-get") is None or os.geteuid() != 0:
        return
    install = ("env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "install", "-y", *names)
    # An old list of packages is good enough if no new one can be fetched.
    with contextlib.suppress(StartError):
        children.run("updating the list of packages", "apt-get", "update")
    with contextlib.suppress(StartError):
        children.run(f"installing {' '.join(names)}", *install)


def output_of(*command: str, environ: Mapping[str, str] | None = None) -> str:
    """What the command prints; empty if it fails."""
    try:
        done = subprocess.run(
            command, env=environ, stdin=subprocess.DEVNULL, capture_output=True, check=False
        )
    except OSError:
        return ""
    return done.stdout.decode("utf-8", "replace").strip() if done.returncode == 0 else ""


def _fingerprint() -> str:
    """What .venv was made for and of."""
    digest = hashlib.sha256(_REQUIREMENTS.read_bytes()).hexdigest()
    return f"{output_of(PYTHON, '-V')}\n{digest}  -"
