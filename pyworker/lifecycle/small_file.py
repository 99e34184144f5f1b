"""Small files that keep something over a restart."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

_MAX_SIZE = 4096


def read(path: Path) -> bytes:
    """At most 4096 bytes; raises OSError."""
    with path.open("rb") as file:
        return file.read(_MAX_SIZE)


def write(path: Path, text: str) -> None:
    """Replace the file, so that a crash leaves the old one or the new one; raises OSError."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}")
    try:
        temporary.write_text(text, "utf-8")
        temporary.replace(path)
    except OSError:
        with contextlib.suppress(OSError):  # a read-only disk refuses this too
            temporary.unlink()
        raise
