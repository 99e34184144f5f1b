"""Removes from text for logs, pages and reports what does not belong there. In linear time."""

from __future__ import annotations

import re
import traceback
from collections.abc import Callable, Iterable

# Up to the last @ of the authority, which contains no slash: so no character is searched twice.
_USER = re.compile(r"""://[^/?#\\ \t\r\n"'<>`,;]*@""")
# A value behind a name such as "api_key", as in JSON, in Python's repr, in a header or a query; and behind an
# option of a command line.
_KEYED = re.compile(
    r"""(?i)((?:key|token|secret|password|passwd|authorization|cookie|signature|credentials?)["']?"""
    r"""\s{0,3}[:=]\s{0,3}["']?(?:(?:bearer|basic)\s{1,3})?)[^\s"',;&)}\]]+"""
)
_OPTION = re.compile(r"(?i)(--[\w-]{0,40}(?:key|token|secret|password)\s{1,3})[^\s]+")
_BEARER = re.compile(r"""(?i)\b(bearer|basic)\s{1,3}[^\s"',;)}\]]{6,}""")
_KNOWN_TOKENS = re.compile(r"\b(?:sk|hf|ghp|gho|xoxb|xoxp)[-_][A-Za-z0-9_-]{6,}")
# One of each is in every text that these patterns match.
_KEY_WORDS = (
    *("key", "token", "secret", "passw", "authorization", "cookie", "signature", "credential"),
    *("bearer", "basic"),
)
_TOKEN_WORDS = ("sk-", "sk_", "hf_", "hf-", "ghp", "gho", "xox")
_CONTENT_WORDS = ("prompt", "messages", "input", "content", "text", "query", "documents")
_QUERY = re.compile(r"""(/[\w.~%-]{0,64})\?[^\s"'<>]+""")
# What model servers call that which a client has sent.
_CONTENT = re.compile(
    r"""(?i)\b(?:prompts?|prompt_token_ids|messages|inputs?|content|text|query|documents)"""
    r"""["']{0,2}\s{0,3}[:=]"""
)
# What an error text may be quoted for; the rest of it may quote a request.
_SIGNS = (
    *("CUDA out of memory", "out of memory", "device-side assert", "illegal memory access", "CUDA error"),
    *("NCCL", "No space left on device", "Too many open files", "maximum context length", "timed out"),
    *("Connection refused", "overloaded", "queue is full"),
)
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]+")
# Shorter ones are words that may stand anywhere.
_SHORTEST_SECRET = 6


def redacted(text: str) -> str:
    """A URL, or a text with URLs, with `***` in place of user and password."""
    return _USER.sub("://***@", text)


def without_secrets(text: str) -> str:
    """With `***` in place of what looks like a key, a token, a password or a query string."""
    text = _QUERY.sub(r"\1?***", redacted(text))
    # Most lines hold none of the words, which is found out at a tenth of the cost.
    lower = text.lower()
    if any(word in lower for word in _KEY_WORDS):
        for pattern in (_KEYED, _OPTION):
            text = pattern.sub(r"\1***", text)
        text = _BEARER.sub(r"\1 ***", text)
    if any(word in lower for word in _TOKEN_WORDS):
        text = _KNOWN_TOKENS.sub("***", text)
    return text


def hiding_only(secrets: Iterable[str]) -> Callable[[str], str]:
    """As `redacted`, which hides these secrets too wherever they stand."""
    # The longest first: one may be a part of another.
    known = sorted((one for one in set(secrets) if len(one) >= _SHORTEST_SECRET), key=len, reverse=True)

    def hide(text: str) -> str:
        for secret in known:
            text = text.replace(secret, "***")
        return redacted(text)

    return hide


def hiding(secrets: Iterable[str]) -> Callable[[str], str]:
    """As `without_secrets`, which hides these secrets too: for text that others wrote."""
    hide = hiding_only(secrets)
    return lambda text: without_secrets(hide(text))


def without_content(line: str) -> str:
    """A line of a model server's log, cut where it begins to quote a request."""
    lower = line.lower()
    found = _CONTENT.search(line) if any(word in lower for word in _CONTENT_WORDS) else None
    return line if found is None else f"{line[: found.end()]} …"


def sign_in(text: str) -> str:
    """The words of a well-known trouble in the error text of a model server; empty if there are none."""
    return next((sign for sign in _SIGNS if sign in text), "")


def located(error: BaseException) -> str:
    """Where an exception was raised, without its message: code that reads a body may quote it there."""
    frames = traceback.extract_tb(error.__traceback__)
    where = f" in {frames[-1].name}, {frames[-1].filename}:{frames[-1].lineno}" if frames else ""
    return f"{type(error).__name__}{where}"


def one_line(text: str) -> str:
    """With a space in place of line ends, control characters, and characters that change the direction."""
    return text if text.isprintable() else _CONTROL.sub(" ", text)
