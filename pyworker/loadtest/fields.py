"""Where something stands in a payload: `prompt`, or `messages.0.content` for what is further inside."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

from pyworker.errors import ConfigError

OPTION = "--fields/--trace-fields"

Path = Sequence[str]


def parsed_fields(text: str) -> tuple[str, ...]:
    """INPUT, INPUT,OUTPUT or INPUT,OUTPUT,PREFIX. Raises `ValueError`."""
    names = tuple(text.split(","))
    if len(names) > 3 or not all(all(name.split(".")) for name in names):
        raise ValueError(
            f"{text} are not INPUT,OUTPUT, such as prompt,max_tokens or messages.0.content,max_tokens"
        )
    return names


def with_value(value: object, path: Path, new: object) -> object:
    """A copy with another value at the path; raises `ConfigError` if there is no such place."""
    if not path:
        return new
    key, rest = path[0], path[1:]
    if isinstance(value, Mapping):
        fields = cast("Mapping[str, object]", value)
        if key in fields or not rest:
            return {**fields, key: with_value(fields.get(key), rest, new)}
    if isinstance(value, list) and key.isdecimal() and int(key) < len(cast("list[object]", value)):
        items = [*cast("list[object]", value)]
        items[int(key)] = with_value(items[int(key)], rest, new)
        return items
    raise ConfigError(f"{OPTION}: the payload has no field {key!r}")


def value_at(value: object, path: Path) -> object:
    """None if there is no such place."""
    for key in path:
        if isinstance(value, Mapping):
            value = cast("Mapping[str, object]", value).get(key)
        elif isinstance(value, list) and key.isdecimal() and int(key) < len(cast("list[object]", value)):
            value = cast("list[object]", value)[int(key)]
        else:
            return None
    return value
