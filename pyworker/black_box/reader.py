"""A file from disk, checked: it may be cut, huge, or made by somebody else."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from pyworker.errors import PyworkerError, shortened
from pyworker.lifecycle.log_tail import unfollowable
from pyworker.runtime.redaction import one_line

_LARGEST = 4 * 2**20
_LONGEST = 500
_LONGEST_LIST = 500
# No size and no time is larger, and none is not a number.
_MOST = 2.0**80


class NotABlackBox(PyworkerError):
    """The file cannot be read as one; the message says why."""


class Part:
    """An object of the file. Whatever it holds, each getter returns what its name says."""

    def __init__(self, value: object) -> None:
        self._fields: Mapping[str, Any] = cast("dict[str, Any]", value) if isinstance(value, dict) else {}

    def text(self, name: str) -> str:
        """One line; empty if there is none."""
        value = self._fields.get(name)
        return shortened(one_line(value), _LONGEST) if isinstance(value, str) else ""

    def number(self, name: str) -> float | None:
        """Finite; None if there is none."""
        value: object = self._fields.get(name)
        if not isinstance(value, int | float) or isinstance(value, bool):
            return None
        return float(value) if abs(value) < _MOST else None

    def flag(self, name: str) -> bool:
        return self._fields.get(name) is True

    def part(self, name: str) -> Part:
        return Part(self._fields.get(name))

    def parts(self, name: str) -> Sequence[Part]:
        """The objects of a list."""
        return [Part(cast("object", one)) for one in self._list(name) if isinstance(one, dict)]

    def texts(self, name: str) -> Sequence[str]:
        """The strings of a list."""
        return [shortened(one_line(one), _LONGEST) for one in self._list(name) if isinstance(one, str)]

    def numbers(self) -> Mapping[str, float]:
        """Every number, by its name."""
        found = {one_line(name)[:_LONGEST]: self.number(name) for name in list(self._fields)[:_LONGEST_LIST]}
        return {name: value for name, value in found.items() if value is not None}

    def names(self) -> Sequence[str]:
        return list(self._fields)[:_LONGEST_LIST]

    def _list(self, name: str) -> Sequence[object]:
        value = self._fields.get(name)
        return cast("list[object]", value)[-_LONGEST_LIST:] if isinstance(value, list) else []


def read(path: Path) -> Part:
    """The file's contents; raises `NotABlackBox`."""
    problem = unfollowable(path)  # before it is opened: to open a pipe may never end
    if problem:
        raise NotABlackBox(f"{path} {problem}")
    try:
        with path.open("rb") as file:
            data = file.read(_LARGEST + 1)
    except OSError as error:
        raise NotABlackBox(f"{path} cannot be read ({error.strerror})") from None
    if len(data) > _LARGEST:
        raise NotABlackBox(f"{path} is no black box: it has more than {_LARGEST // 2**20} MiB")
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        raise NotABlackBox(f"{path} is no black box, or was cut: it is not JSON") from None
    if not isinstance(value, dict) or "what" not in value:
        raise NotABlackBox(f"{path} is no black box: it does not say what happened")
    return Part(cast("object", value))
