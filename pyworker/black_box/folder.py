"""The files: one that is written again and again, and those that are kept.

gunicorn's master uses this module too, so it imports little.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from pyworker.lifecycle import small_file

#: Under the state folder.
NAME = ".black_box"
#: Files that are kept, and the bytes of one.
KEPT = 5
LARGEST = 512 * 1024
_ROLLING = "now.json"
# Index of the start time (clock ticks since boot) among the fields after the name in parentheses.
_START_TIME = 19

#: What a file holds, as JSON.
Contents = Mapping[str, object]


class BoxFolder:
    """The folder. Methods raise OSError unless they say otherwise. One thread or process writes at a time."""

    def __init__(self, state_dir: Path) -> None:
        self.path = state_dir / NAME
        self._rolling = self.path / _ROLLING

    def roll(self, contents: Contents) -> None:
        """Replace the file that tells the next start how things stood."""
        self.path.mkdir(mode=0o700, exist_ok=True)
        small_file.write(self._rolling, _encoded(contents))

    def forget(self) -> None:
        """The worker has ended as it should. Raises nothing."""
        with contextlib.suppress(OSError):
            self._rolling.unlink()
            self.path.rmdir()  # unless there are others

    def keep(self, kind: str, contents: Contents, now: float | None = None) -> Path:
        """Write a file to keep, and remove the oldest; returns its path."""
        self.path.mkdir(mode=0o700, exist_ok=True)
        at = time.time() if now is None else now
        while (path := self.path / f"{_moment(at)}-{kind}.json").exists():
            at += 0.001
        small_file.write(path, _encoded({**contents, "kind": kind}))
        for old in self.kept()[:-KEPT]:
            with contextlib.suppress(OSError):
                old.unlink()
        return path

    def kept(self) -> Sequence[Path]:
        """Those that are kept, oldest first; raises nothing."""
        try:
            return sorted(path for path in self.path.glob("2*Z-*.json") if path.is_file())
        except OSError:
            return []

    def conclude(self, what: str, *, more: Contents | None = None) -> Path | None:
        """A process ended that should not have: keep how things stood, and that this happened.

        None if it left nothing that can be read, or the disk is full. Raises nothing.
        """
        left = self._left()
        kept = None
        if left:
            with contextlib.suppress(OSError):
                kept = self.keep("ended", {**left, "what": what, "ended_at": time.time(), **(more or {})})
        self._tidy()
        return kept

    def conclude_left(self, what: str) -> Path | None:
        """As `conclude`, unless the process lives, or has closed its file."""
        left = self._left()
        process = left.get("process")
        if isinstance(process, str) and process_mark(process.partition(" ")[0]) == process:
            return None
        if left.get("closed") is True:
            self._tidy()
            return None
        return self.conclude(what)

    def _left(self) -> dict[str, Any]:
        """How things stood; empty if nobody has left it."""
        try:
            with self._rolling.open("rb") as file:
                left = json.loads(file.read(LARGEST + 1))
        except (OSError, ValueError, RecursionError):
            return {}
        return cast("dict[str, Any]", left) if isinstance(left, dict) else {}

    def _tidy(self) -> None:
        with contextlib.suppress(OSError):
            for path in self.path.glob(f"{_ROLLING}*"):  # and what a write left that was cut
                path.unlink()
            self.path.rmdir()

    def __repr__(self) -> str:
        return f"<BoxFolder {self.path}>"


def _moment(at: float) -> str:
    """Of epoch seconds: their order is that of time."""
    seconds, milliseconds = divmod(int(at * 1000), 1000)
    return f"{time.strftime('%Y%m%dT%H%M%S', time.gmtime(seconds))}.{milliseconds:03}Z"


def _encoded(contents: Contents) -> str:
    """As JSON, "closed" first. Too long a list of lines or threads is halved until the whole is short."""
    fields: dict[str, object] = {"closed": False, **contents}
    while len(text := json.dumps(fields, default=str)) > LARGEST:
        sizes = {name: len(json.dumps(value, default=str)) for name, value in fields.items()}
        longest = max(sizes, key=lambda name: sizes[name])
        value = fields[longest]
        values = cast("list[object]", value) if isinstance(value, list) else []
        # Of a list the end: the newest.
        fields[longest] = values[(len(values) + 1) // 2 :] if values else "(too long)"
    return text + "\n"


def process_mark(pid: str) -> str:
    """The process with this id, told from one that has the id later; empty if there is none."""
    try:
        fields = (Path("/proc") / pid / "stat").read_text("utf-8", "replace").rpartition(")")[2].split()
        return "" if fields[0] == "Z" else f"{pid} {fields[_START_TIME]}"
    except (OSError, ValueError, IndexError):
        return ""
