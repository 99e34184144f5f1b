"""What `python -m workers.<name>.server` does: serve the worker, as on an instance if this is one."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import NoReturn

import pyworker
from pyworker.config import is_instance_start
from pyworker.errors import ConfigError

_DESCRIPTION = """
Serve the worker {name}. Its settings are environment variables; README.md lists them.

If BACKEND is {name} and CONTAINER_ID is set, as the bootstrap of an instance has them, this is
the whole start of an instance, as start_server.sh does it: one start at a time, logs in
WORKSPACE_DIR, USE_SSL=true unless it is set, a certificate that is kept or signed, a report if the
worker cannot start or ends by itself. Python packages and the version of the checkout are left as
they are. CERTIFICATE_TIMEOUT is 20 and DRAIN_TIMEOUT is 7 unless they are set: an instance's
supervisor sends SIGTERM, and SIGKILL 10 s later, by when the last report has to be sent; and it
expects the port to listen within 60 s.

Otherwise this becomes gunicorn, with the settings as they are: for a terminal, or a supervisor of
your own.
"""


def config_file() -> Path:
    """gunicorn.conf.py: the checkout's, or the installed copy. Raises `ConfigError` if it is missing."""
    path = Path(pyworker.__file__).parent / "resources" / "gunicorn.conf.py"
    if not path.is_file():
        raise ConfigError(f"{path} is missing: install the package again")
    return path.resolve()


def start_server(name: str) -> NoReturn:
    """Become the launcher or gunicorn, serving the worker `name` (as in `create_app`); never returns.

    The command line takes no options but `--help`: everything is set by the environment.
    """
    argparse.ArgumentParser(
        prog=f"python -m {name if '.' in name else f'workers.{name}'}.server",
        description=_DESCRIPTION.format(name=name),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    ).parse_args()
    gunicorn = ("gunicorn", "-c", str(config_file()), f"pyworker:create_app({name!r})")
    module = ("pyworker.instance.launcher", name) if is_instance_start(name) else gunicorn
    # A process of its own name and little memory; the launcher lives as long as the worker.
    os.execv(sys.executable, [sys.executable, "-m", *module])
