"""Removes user and password from URLs, for logs and reports."""

from __future__ import annotations

_MARK = "://"
#: Characters that end the authority of a URL, which contains them.
_ENDS = frozenset("/?#\\ \t\r\n\"'<>`,;")


def redacted(text: str) -> str:
    """A URL, or a text with URLs, with `***` in place of user and password. In linear time."""
    if "@" not in text:
        return text
    begin, *rest = text.split(_MARK)
    return _MARK.join([begin, *map(_without_user, rest)])


def _without_user(text: str) -> str:
    """text: follows `://`."""
    end = next((index for index, character in enumerate(text) if character in _ENDS), len(text))
    at = text.rfind("@", 0, end)
    return text if at < 0 else f"***{text[at:]}"
