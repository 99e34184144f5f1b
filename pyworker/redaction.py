"""URLs without what must not be in a log: the user and the password that they may hold."""

from __future__ import annotations

_MARK = "://"
#: What ends the part of a URL that may hold them.
_ENDS = frozenset("/?#\\ \t\r\n\"'<>`,;")


def redacted(text: str) -> str:
    """A URL, or a text that holds some, with `***` in place of user and password. In linear time."""
    if "@" not in text:
        return text
    begin, *rest = text.split(_MARK)
    return _MARK.join([begin, *map(_without_user, rest)])


def _without_user(text: str) -> str:
    """Behind a scheme."""
    end = next((index for index, character in enumerate(text) if character in _ENDS), len(text))
    at = text.rfind("@", 0, end)
    return text if at < 0 else f"***{text[at:]}"
