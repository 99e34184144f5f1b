"""gunicorn from Python: what `python -m workers.<name>.server` does."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import NoReturn

import pyworker
from pyworker.errors import ConfigError


def config_file() -> Path:
    """gunicorn.conf.py beside the package. Raises `ConfigError` if it is missing."""
    path = Path(pyworker.__file__).resolve().parent.parent / "gunicorn.conf.py"
    if not path.is_file():
        raise ConfigError(f"{path} is missing: run from a checkout of the project")
    return path


def start_server(name: str) -> NoReturn:
    """Become gunicorn serving the worker `name` (as in `create_app`); never returns.

    The command line takes no options but `--help`: everything is set by the environment.
    """
    argparse.ArgumentParser(
        prog=f"python -m {name if '.' in name else f'workers.{name}'}.server",
        description=f"Serve the worker {name} under gunicorn. Its settings are environment variables; "
        "README.md lists them.",
    ).parse_args()
    app = f"pyworker:create_app({name!r})"
    command = [sys.executable, "-m", "gunicorn", "-c", str(config_file()), app]
    os.execv(sys.executable, command)
