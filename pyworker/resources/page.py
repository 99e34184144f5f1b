"""The pages of a worker or a fleet: each is one file without anything from elsewhere."""

from __future__ import annotations

import base64
import functools
import hashlib
import re
from collections.abc import Mapping
from typing import Literal

from pyworker.resources import resource_path

Kind = Literal["worker", "fleet"]

_INLINE = re.compile(r"<(style|script)>(.*?)</\1>", re.DOTALL)


@functools.cache
def page(kind: Kind) -> tuple[bytes, Mapping[str, str]]:
    """The document and its header fields. It holds no figure: its script asks the server it came from."""
    text = resource_path("page.html").read_text("utf-8")
    return _served(text.replace('data-kind=""', f'data-kind="{kind}"', 1))


@functools.cache
def docs_page() -> tuple[bytes, Mapping[str, str]]:
    """The page that tells the routes of a worker, and its header fields. Its script asks `/openapi.json`."""
    return _served(resource_path("docs.html").read_text("utf-8"))


def _served(text: str) -> tuple[bytes, Mapping[str, str]]:
    hashes = {name: _hash(content) for name, content in _INLINE.findall(text)}
    policy = (
        f"default-src 'none'; connect-src 'self'; script-src '{hashes['script']}'; "
        f"style-src '{hashes['style']}'; img-src data:; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    return text.encode(), {
        "Content-Type": "text/html; charset=utf-8",
        "Content-Security-Policy": policy,
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
        "Cache-Control": "no-cache",
        "Vary": "Accept",
    }


def _hash(content: str) -> str:
    """As https://www.w3.org/TR/CSP3/#grammardef-hash-source."""
    return "sha256-" + base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
