"""Disk and descriptors of the instance."""

from __future__ import annotations

import resource
import shutil
import tempfile

from pyworker.config import RESERVED_THREADS, descriptor_limit
from pyworker.doctor.finding import Examination, Finding, fail, ok, warn

_GIB = 2**30
_LITTLE_DISK = 2 * _GIB
_NO_DISK = _GIB // 10


def disk(_examination: Examination) -> Finding:
    """Logs and model files need room."""
    usage = shutil.disk_usage("/")
    found = f"{usage.free / _GIB:.1f} of {usage.total / _GIB:.0f} GiB on / are free"
    if usage.free >= _LITTLE_DISK:
        return ok(found)
    judge = fail if usage.free < _NO_DISK else warn
    return judge(found, "remove files, or rent an instance with a larger disk")


def state_folder(examination: Examination) -> Finding:
    """The result of the benchmark can be kept over a restart."""
    folder = examination.settings.state_dir.resolve()
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"\0" * 4096)
    except OSError as error:
        return fail(
            f"{folder} cannot be written ({error.strerror}), so each restart measures anew",
            "set PYWORKER_STATE_DIR to a folder that can be",
        )
    return ok(f"{folder} can be written")


def descriptors(examination: Examination) -> Finding:
    """Each request in progress takes a connection of the client and one to the model server."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = descriptor_limit()
    settings = examination.settings
    asked = settings.threads + settings.threads_refused
    found = f"{soft} open files, which the worker raises to {limit}; WORKER_THREADS={asked}"
    if settings.threads_refused:
        needed = 4 * (asked + RESERVED_THREADS)
        return warn(
            f"{found} is reduced to {settings.threads}",
            f"raise the hard limit (ulimit -Hn {needed}), or set WORKER_THREADS lower",
        )
    return ok(found)
