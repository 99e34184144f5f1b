"""The tokens that a response of TGI shows to have been generated. Pure.

With `details` it says so itself, a whole response and the last event of a stream. A stream without is counted
by its events, of which each carries a token.
"""

from __future__ import annotations

import re

from pyworker import responses
from pyworker.runtime.sample import EVENT_STREAM, ResponseSample, Work

# Within a text the quotes are escaped, so this is found in no other place.
_DETAILS = b'"details":{'
_TOKENS = re.compile(rb'"generated_tokens":([0-9]{1,12})\b')
#: `generated_tokens` is the second field.
_REACH = 200


def tokens_of(response: ResponseSample) -> Work | None:
    """How many tokens were generated; None if the response does not tell."""
    if response.content_type.partition(";")[0].strip().lower() != EVENT_STREAM:
        return _told(response.beginning, response.beginning.find(_DETAILS)) if response.is_complete else None
    told = _told(response.end, response.end.rfind(_DETAILS))
    if told is not None:
        return told
    is_error = response.is_complete and bool(responses.error_in(response))
    return _work(max(response.events - is_error, 0))


def _told(text: bytes, at: int) -> Work | None:
    """What the details at this place say; below 0: there are none."""
    match = None if at < 0 else _TOKENS.search(text, at, at + _REACH)
    return None if match is None else _work(int(match[1]))


def _work(tokens: int) -> Work:
    return Work(tokens, generation_tokens=tokens)
