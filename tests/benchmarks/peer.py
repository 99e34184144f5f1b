"""The peer: the asyncio worker of the public `vastai` package, in an environment of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from pyworker.errors import ConfigError
from tests.benchmarks.programs import BUILD

VERSION = "1.9.1"
# setuptools brings the distutils that it imports, which left Python with 3.12.
_PACKAGES = (f"vastai=={VERSION}", "setuptools<81")


def peer_python(folder: Path = BUILD) -> Path:
    """The interpreter that has the peer; installed from PyPI the first time. Raises `ConfigError`."""
    here = f"{sys.version_info.major}.{sys.version_info.minor}"
    environment = folder / f"vastai-{VERSION}-python{here}"
    python = environment / "bin" / "python"
    done = environment / "installed"
    if not done.exists():
        _run(sys.executable, "-m", "venv", "--clear", str(environment))
        _run(str(python), "-m", "pip", "install", "--quiet", *_PACKAGES)
        done.touch()
    return python


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise ConfigError(f"the peer cannot be installed: {' '.join(command)}\n{done.stderr[-2000:]}")
