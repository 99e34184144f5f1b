"""The trace that a request is part of (https://www.w3.org/TR/trace-context/). Pure."""

from __future__ import annotations

import random
import re
from typing import NamedTuple

#: The key of the environ with a request's `TraceContext`, if spans are exported.
TRACE = "pyworker.trace"
_TRACEPARENT = re.compile(r"[0-9a-f]{2}-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})")
_SAMPLED = 1


def is_traceparent(text: str) -> bool:
    """Whether it has the form of the header field."""
    return _TRACEPARENT.fullmatch(text) is not None


class TraceContext(NamedTuple):
    """The ids of a request's spans.

    method: of the request. parent: the caller's span; 0 if it has none. span, queue: of the request here.
    call: of the call to the model server, which becomes the parent of what that exports.
    """

    method: str
    trace: int
    parent: int
    span: int
    queue: int
    call: int
    flags: int = _SAMPLED

    @property
    def traceparent(self) -> str:
        """The header field for the model server."""
        return f"00-{self.trace:032x}-{self.call:016x}-{self.flags:02x}"


def trace_context(method: str, traceparent: str | None) -> TraceContext | None:
    """The spans of a request that came with this header field; None if its caller wants none of the trace."""
    trace, parent, flags = _new_id(128), 0, _SAMPLED
    found = None if traceparent is None else _TRACEPARENT.fullmatch(traceparent)
    if found is not None and int(found[1], 16) and int(found[2], 16):
        trace, parent, flags = (int(part, 16) for part in found.groups())
        if not flags & _SAMPLED:
            return None
    return TraceContext(method, trace, parent, _new_id(64), _new_id(64), _new_id(64), flags)


def _new_id(bits: int) -> int:
    """Random, but not 0."""
    return random.getrandbits(bits) or 1
