"""The folder .venv: made and filled if that is needed, also if an earlier start was interrupted."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

from pyworker.instance.children import Children
from pyworker.instance.output import StartError

_PACKAGE = Path(__file__).resolve().parent.parent
#: The checkout.
ROOT = _PACKAGE.parent
PYTHON = ".venv/bin/python"
REQUIREMENTS = Path("requirements.txt")
#: Says for which Python and which requirements everything was installed.
_STAMP = Path(".venv/.requirements-installed")
#: False for a package that is installed in an environment of somebody else's.
IS_CHECKOUT = (ROOT / REQUIREMENTS).is_file()
#: Of a folder under workers/, or the dotted path of a package.
WORKER_NAME = re.compile(r"[A-Za-z0-9_.-]+")
_INSTALL = (PYTHON, "-m", "pip", "install", "--disable-pip-version-check", "-r")


def prepare(children: Children) -> None:
    """Make .venv and install requirements.txt, unless that is done already; raises `StartError`."""
    if _STAMP.is_file() and _STAMP.read_text().strip() == _fingerprint():
        return
    _require_pip(children)
    text = "installing requirements.txt into .venv (a minute or two)"
    try:
        children.run(text, *_INSTALL, str(REQUIREMENTS))
    except StartError as error:
        children.output.show_tail(children.log)
        raise StartError(
            "pip could not install requirements.txt. Is the network there, and space on the disk?",
            "Start again: what is installed already is kept.",
        ) from error
    stamp()


def upgrade(children: Children, requirements: Path) -> None:
    """Install the newest versions that these requirements allow; raises `StartError`."""
    _require_pip(children)
    children.run("updating what is installed", *_INSTALL, str(requirements), "--upgrade")


def stamp() -> None:
    """Everything is installed."""
    _STAMP.write_text(_fingerprint() + "\n")


def _require_pip(children: Children) -> None:
    # Without the stamp, the next start takes an interrupted installation up again.
    _STAMP.unlink(missing_ok=True)
    if output_of(PYTHON, "-m", "pip", "--version"):
        return
    try:
        # --clear: an earlier attempt may have left half of it, or its Python is gone.
        children.run("making .venv", "python3", "-m", "venv", "--clear", ".venv")
    except StartError as error:
        children.output.show_tail(children.log)
        raise StartError(
            f"{shutil.which('python3')} -m venv does not work. Install your system's package of Python's "
            "venv module, then start again:",
            "    sudo apt-get update && sudo apt-get install -y python3 python3-venv",
        ) from error


def install_packages(children: Children, *names: str) -> None:
    """Install packages of Debian or Ubuntu if this user may; failures are only logged."""
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


def gunicorn(worker: str) -> tuple[str, ...]:
    """The module that serves this worker, and its options."""
    config = (_PACKAGE / "resources" / "gunicorn.conf.py").resolve()
    return ("gunicorn", "-c", str(config), f'pyworker:create_app("{worker}")')


def _fingerprint() -> str:
    """What .venv was made for and of."""
    digest = hashlib.sha256(REQUIREMENTS.read_bytes()).hexdigest()
    return f"{output_of(PYTHON, '-V')}\n{digest}  -"
