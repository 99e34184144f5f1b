"""The log of the local model server."""

from __future__ import annotations

import contextlib
import json
import threading
from datetime import datetime, timezone
from pathlib import Path
from typing import TextIO

from pyworker.errors import ConfigError


class ModelLog:
    """Writes to a new file at `path` and to `echo`. Thread-safe.

    The file of an earlier run moves to `<name>.old`, since the worker must not take the old start for
    this one. Raises `ConfigError` if the file cannot be written.
    """

    def __init__(self, path: Path | None = None, *, echo: TextIO | None = None) -> None:
        self._file = None if path is None else _begin_file(path)
        self._streams = [stream for stream in (echo, self._file) if stream is not None]
        # Guards the streams: a line must not be torn by another thread's. Held during a write, since
        # writing in order is all that this class is for.
        self._lock = threading.Lock()

    def write(self, *lines: str) -> None:
        """These lines, without others between them."""
        text = "".join(f"{line}\n" for line in lines)
        with self._lock:
            for stream in self._streams:
                # A full disk or a closed terminal must not end the serving of requests.
                with contextlib.suppress(OSError, ValueError):
                    stream.write(text)
                    stream.flush()

    def close(self) -> None:
        """Close the file; what is written later is dropped."""
        with self._lock:
            self._streams.clear()
            if self._file is not None:
                self._file.close()


def json_line(message: str, *, level: str = "INFO", **more: object) -> str:
    """A line of JSON, as inference servers write it; `more` are further fields."""
    now = datetime.now(timezone.utc).isoformat(timespec="milliseconds")
    return json.dumps({"timestamp": now, "level": level, "message": message, **more}, separators=(",", ":"))


def _begin_file(path: Path) -> TextIO:
    try:
        if path.is_file():
            path.replace(path.with_name(path.name + ".old"))
        return path.open("a", encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"cannot write the log file {path}: {error.strerror}") from error
