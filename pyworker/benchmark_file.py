"""The file that remembers what the benchmark measured, and of what."""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pyworker import __version__
from pyworker.data_types import EndpointHandler

logger = logging.getLogger(__name__)

_MAX_FILE = 4096


def describe(handler: EndpointHandler[Any]) -> Mapping[str, str]:
    """What a benchmark of this handler measures: the worker, its version, the route, and by which code."""
    module = type(handler).__module__
    package = module.rpartition(".")[0] or module
    return {
        "worker": package,
        "worker_version": str(getattr(sys.modules.get(package), "__version__", "")),
        "route": handler.endpoint,
        "pyworker": __version__,
    }


def load_result(path: Path, about: Mapping[str, str]) -> float | None:
    """The stored result in workload per second; None if there is none that makes sense and is about this.

    Its first line is the number, its second a JSON object that says what was measured. A file of an earlier
    version, which holds the number only, is taken for right.
    """
    try:
        with path.open("rb") as file:
            number, _, name = file.read(_MAX_FILE).decode("utf-8").strip().partition("\n")
        result = float(number)
        measured = json.loads(name) if name.strip() else dict(about)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        logger.warning("the benchmark result in %s is unreadable (%.200s); measuring again", path, error)
        return None
    if not (math.isfinite(result) and result > 0):
        logger.warning("the benchmark result in %s makes no sense (%s); measuring again", path, result)
        return None
    if measured != dict(about):
        logger.warning(
            "the benchmark result in %s is not about %s, but %.200s; measuring again", path, dict(about), name
        )
        return None
    return result


def store_result(path: Path, result: float, about: Mapping[str, str]) -> None:
    """Write the result so that a crash leaves the old file or the new one; a failure is a warning."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}")
    try:
        temporary.write_text(f"{result!r}\n{json.dumps(about, sort_keys=True)}\n", "utf-8")
        temporary.replace(path)
    except OSError as error:
        logger.warning(
            "the benchmark result cannot be kept in %s (%s); a restart measures again", path, error
        )
        with contextlib.suppress(OSError):  # a read-only disk refuses this too
            temporary.unlink()
