"""Replays a recorded load: JSON lines with the time of each request, and its lengths if they are known.

`{"at": 1.5}` is in seconds from the start, `{"timestamp": 1500}` in milliseconds as in published traces;
both with `input_length` and `output_length` in tokens if there are any.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pydantic

from pyworker.errors import ConfigError
from pyworker.loadtest.texts import LONGEST


class _Line(pydantic.BaseModel):
    at: float | None = pydantic.Field(None, ge=0, allow_inf_nan=False)
    timestamp: float | None = pydantic.Field(None, ge=0, allow_inf_nan=False)
    input_length: int | None = pydantic.Field(None, ge=0, le=LONGEST)
    output_length: int | None = pydantic.Field(None, ge=0, le=LONGEST)


@dataclass(frozen=True)
class Trace:
    """moments: seconds from the start, rising. lengths: input and output in tokens, None if unknown."""

    name: str
    moments: Sequence[float]
    lengths: Sequence[tuple[int | None, int | None]]


def read_trace(path: Path) -> Trace:
    """Raises `ConfigError`."""
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise ConfigError(f"--trace {path} cannot be read: {reason}") from error
    lines = [
        _line(line, f"--trace {path}, line {number}")
        for number, line in enumerate(text.splitlines(), 1)
        if line.strip()
    ]
    if not lines:
        raise ConfigError(f'--trace {path} is empty; it needs lines such as {{"at": 1.5}}')
    lines.sort(key=lambda line: line[0])
    return Trace(
        path.name,
        [moment for moment, _ in lines],
        [(line.input_length, line.output_length) for _, line in lines],
    )


def _line(text: str, where: str) -> tuple[float, _Line]:
    try:
        line = _Line.model_validate_json(text)
    except pydantic.ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        name = ".".join(str(part) for part in first["loc"])
        raise ConfigError(f"{where}: {name}{': ' if name else ''}{first['msg']}") from error
    if line.at is not None:
        return line.at, line
    if line.timestamp is None:
        raise ConfigError(f"{where}: it has no time; that is at (seconds) or timestamp (milliseconds)")
    return line.timestamp / 1000, line
