"""The file that remembers what the benchmark measured, and of what."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Mapping
from pathlib import Path

from pyworker.lifecycle import small_file

logger = logging.getLogger(__name__)


def load_result(path: Path, about: Mapping[str, str]) -> float | None:
    """The stored result in workload per second; None if there is none, or it is invalid or about something
    else.

    Its first line is the number, its second a JSON object that says what was measured. A file of an earlier
    version, which holds the number only, is taken for right.
    """
    try:
        number, _, name = small_file.read(path).decode("utf-8").strip().partition("\n")
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
    """Keep the result for the next process; a failure is logged as a warning."""
    try:
        small_file.write(path, f"{result!r}\n{json.dumps(about, sort_keys=True)}\n")
    except OSError as error:
        logger.warning(
            "the benchmark result cannot be kept in %s (%s); a restart measures again", path, error
        )
