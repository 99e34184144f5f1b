"""Replays a recorded load: JSON lines with the time of each request, and its lengths if they are known.

`{"at": 1.5}` is in seconds from the start, `{"timestamp": 1500}` in milliseconds as in published traces;
both with `input_length` and `output_length` in tokens if there are any.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import pydantic

from pyworker.errors import ConfigError
from pyworker.resources import resource_path

LONGEST = 2_000_000
WORDS_PER_TOKEN = 0.75
"""Of English text, about; the first words of a request differ from those of the one before."""
_STRIDE = 7_919


class _Line(pydantic.BaseModel):
    at: float | None = pydantic.Field(None, ge=0, allow_inf_nan=False)
    timestamp: float | None = pydantic.Field(None, ge=0, allow_inf_nan=False)
    input_length: int | None = pydantic.Field(None, ge=0, le=LONGEST)
    output_length: int | None = pydantic.Field(None, ge=0, le=LONGEST)


@dataclass(frozen=True)
class Trace:
    """moments: seconds from the start, rising. lengths: input and output of each in tokens, None if unknown.
    fields: the paths in a payload at which they stand; without them only the times are replayed.
    """

    name: str
    moments: Sequence[float]
    lengths: Sequence[tuple[int | None, int | None]]
    fields: tuple[str, str] | None

    def check(self, payload: Mapping[str, object]) -> None:
        """Raises `ConfigError` if it has no place for the lengths."""
        for field in self.fields or ():
            _with(payload, field.split("."), "")

    def shaped(self, number: int, payload: Mapping[str, object]) -> Mapping[str, object]:
        """The payload, checked before, with the lengths of this request."""
        lengths = self.lengths[number % len(self.lengths)]
        if self.fields is None:
            return payload
        (source, target), (input_length, output_length) = self.fields, lengths
        made: object = payload
        if input_length is not None:
            made = _with(made, source.split("."), _text(number, input_length))
        if output_length is not None:
            made = _with(made, target.split("."), output_length)
        return cast("Mapping[str, object]", made)

    def workload(self, number: int, otherwise: float) -> float:
        """Tokens in and out, if they are known."""
        lengths = self.lengths[number % len(self.lengths)]
        return float(sum(filter(None, lengths))) or otherwise if self.fields else otherwise


def read_trace(path: Path, fields: str | None) -> Trace:
    """fields: two names with a comma between them, each with dots for what is further inside. Raises
    `ConfigError`.
    """
    names = None if fields is None else fields.split(",")
    if names is not None and (len(names) != 2 or not all(names)):
        raise ConfigError("--trace-fields are two names, such as messages.0.content,max_tokens")
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
        None if names is None else (names[0], names[1]),
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


def _with(value: object, path: Sequence[str], new: object) -> object:
    """A copy with another value at the path."""
    if not path:
        return new
    key, rest = path[0], path[1:]
    if isinstance(value, Mapping):
        fields = cast("Mapping[str, object]", value)
        if key in fields or not rest:
            return {**fields, key: _with(fields.get(key), rest, new)}
    if isinstance(value, list) and key.isdecimal() and int(key) < len(cast("list[object]", value)):
        items = [*cast("list[object]", value)]
        items[int(key)] = _with(items[int(key)], rest, new)
        return items
    raise ConfigError(f"--trace-fields: the payload has no field {key!r}")


def _text(number: int, tokens: int) -> str:
    words = _words()
    begin = number * _STRIDE % len(words)
    count = round(tokens * WORDS_PER_TOKEN)
    around = words[begin:] + words * (count // len(words) + 1)
    return " ".join(around[:count])


@functools.cache
def _words() -> list[str]:
    return resource_path("words.txt").read_text("utf-8").split()
