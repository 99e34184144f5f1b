"""Says in the log which fields of clients a payload class leaves out, since it does not declare them."""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, cast

import pydantic_core

from pyworker.data_types import ApiPayload
from pyworker.errors import shortened

logger = logging.getLogger(__name__)

# The first requests of each class are looked at, as far as they are small, and then one per second.
_FIRST = 100
_SMALL = 64 * 1024
_PAUSE = 1.0
# The share of the time that looking may take: one part of so many.
_SHARE = 100
#: Names that are told of one class.
MOST_NAMES = 20
_SHOWN = 60


class Undeclared:
    """Of one payload class. Any thread may call `look`; a race costs one look more or less."""

    def __init__(self, payload_cls: type[ApiPayload], now: Callable[[], float] = time.monotonic) -> None:
        fields: Mapping[str, Any] = getattr(payload_cls, "__dataclass_fields__", {})
        self._declared = frozenset(fields)
        self._class = payload_cls
        self._now = now
        self._left = _FIRST
        self._next = 0.0
        self._told: set[str] = set()

    def look(self, body: bytes, *, is_enveloped: bool) -> None:
        """Tell each name once. The body was parsed already, so it is a JSON object."""
        if self._left > 0 and len(body) <= _SMALL:
            self._left -= 1
        elif self._now() < self._next:
            return
        began = self._now()
        parsed: Any = pydantic_core.from_json(body)
        fields: object = parsed["payload"] if is_enveloped else parsed
        self._tell(cast("Mapping[str, object]", fields).keys() - self._declared)
        ended = self._now()
        self._next = ended + max(_PAUSE, _SHARE * (ended - began))

    def _tell(self, names: Iterable[str]) -> None:
        for name in sorted(names):
            if name in self._told or len(self._told) >= MOST_NAMES:
                continue
            self._told.add(name)
            shown = shortened("".join(sign if sign.isprintable() else "?" for sign in name), _SHOWN)
            logger.warning(
                "the field '%s' is not declared in %s, so it does not reach the model server: declare it, or "
                "make the class an OpenPayload",
                shown,
                self._class.__name__,
            )

    def __repr__(self) -> str:
        return f"<Undeclared of {self._class.__name__} [{len(self._told)} told]>"


@functools.cache
def undeclared_of(payload_cls: type[ApiPayload]) -> Undeclared | None:
    """None for a class that parses its fields itself, as an `OpenPayload` does."""
    own: Any = payload_cls.from_json_msg
    inherited: Any = ApiPayload.from_json_msg
    return Undeclared(payload_cls) if own.__func__ is inherited.__func__ else None
