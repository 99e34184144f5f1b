"""What has been read of the model's log so far, for people and for other threads. Immutable."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class LogGlance:
    """What a tailer has read so far. trouble: why it cannot read; `last`: the last lines, shortened.

    is_current: whether everything that was in the log before the first step is among it. new_lines: how many
    were not.
    """

    path: Path
    lines: int = 0
    last: tuple[str, ...] = ()
    trouble: str = ""
    is_current: bool = False
    new_lines: int = 0

    def __str__(self) -> str:
        if self.trouble:
            return f"{self.path}, which {self.trouble}"
        if not self.lines:
            return f"{self.path}, which has no complete line yet"
        shown = ", ".join(map(repr, self.last))
        return f"{self.path} ({self.lines} {'lines' if self.lines > 1 else 'line'}; last: {shown})"
