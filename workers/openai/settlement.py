"""The tokens that a response shows to have been generated. Pure.

A response says it itself, in its `usage`: a whole one at its top level, a stream in its last events. A stream
that was cut is counted by its events, of which each carries a token as a rule.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, cast

from pyworker.runtime.sample import ResponseSample, Work

_EVENTS = "text/event-stream"
_GENERATED = ("completion_tokens", "output_tokens")
_OF_PROMPT = ("prompt_tokens", "input_tokens")
_KEY = b'"usage"'
# What is needed of JSON to find the ends of its strings and the depth of its objects. An escape and what it
# escapes are one token.
_TOKENS = re.compile(rb'\\.|["{}\[\]]', re.DOTALL)
_VALUE = re.compile(rb'"usage"[ \t\r\n]*:[ \t\r\n]*(?=\{)')
#: The `usage` is in the response itself, or in an event one level deeper, in its `response` or `message`.
_DEEPEST_IN_EVENT = 2


def tokens_of(response: ResponseSample, preamble: int = 0) -> Work | None:
    """How many tokens were generated; None if the response does not tell.

    preamble: events at the beginning of a stream that carry no token.
    """
    if response.content_type.partition(";")[0].strip().lower() != _EVENTS:
        whole = response.beginning if response.is_whole else response.end
        return _told(whole, 1) if response.is_complete else None
    told = _told_last(response)
    if told is not None and response.is_complete:
        return told
    # What the events of a cut stream tell may be of its beginning.
    counted = max(response.events - preamble, 0)
    prompt = None if told is None else told.prompt_tokens
    return _work(max(counted, int(told or 0)), prompt)


def _told_last(response: ResponseSample) -> Work | None:
    """What the last event of a stream that tells it says."""
    for event in _last_events(response):
        told = _told(event, _DEEPEST_IN_EVENT)
        if told is not None:
            return told
    return None


def _told(text: bytes, deepest: int) -> Work | None:
    """`usage` of a JSON object, or of the end of one."""
    if _KEY not in text:
        return None
    usage = _usage(text, deepest)
    generated = _count(usage, _GENERATED)
    return None if generated is None else _work(generated, _count(usage, _OF_PROMPT))


def _count(usage: Mapping[str, Any], names: Sequence[str]) -> int | None:
    """The first of these fields that is a number of tokens."""
    for name in names:
        count = usage.get(name)
        if isinstance(count, int | float) and not isinstance(count, bool) and 0 <= count < 1e15:
            return int(count)
    return None


def _work(generated: int, prompt: int | None) -> Work:
    return Work(generated, prompt_tokens=prompt, generation_tokens=generated)


def _usage(text: bytes, deepest: int) -> Mapping[str, Any]:
    """The last `usage` object at most `deepest` levels deep; empty if there is none.

    Read backwards, because the beginning of `text` may be the middle of a string, while its end is the end of
    the outermost object. What a text inside says is escaped there, or deeper.
    """
    depth = 0
    string_ends_at: int | None = None  # while inside a string
    for token in reversed(list(_TOKENS.finditer(text))):
        sign = token[0]
        if sign == b'"':
            if string_ends_at is None:
                string_ends_at = token.start()
                continue
            found = _VALUE.match(text, token.start()) if 0 < depth <= deepest else None
            string_ends_at = None
            if found is not None:
                return _object(text, found.end())
        elif string_ends_at is None:
            depth += 1 if sign in b"}]" else -1 if sign in b"{[" else 0
    return {}


def _object(text: bytes, at: int) -> Mapping[str, Any]:
    try:
        value, _ = json.JSONDecoder().raw_decode(text[at:].decode("utf-8", "replace"))
    except (ValueError, RecursionError):
        return {}
    return cast("Mapping[str, Any]", value)


def _last_events(response: ResponseSample) -> Iterator[bytes]:
    """The data of the events in the sample's end, the last one first."""
    text = response.end.replace(b"\r\n", b"\n")
    for block in reversed(text.split(b"\n\n")):
        lines = [line[5:].strip() for line in block.split(b"\n") if line.startswith(b"data:")]
        if not lines and response.length > len(response.end) and block:
            # The one whose beginning was not sampled.
            lines = [block]
        if lines:
            yield b"\n".join(lines)
