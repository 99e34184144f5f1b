"""Where on the model server a request goes: its path with variables, query string, chosen header fields."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING
from urllib.parse import quote

from werkzeug.exceptions import NotFound

from pyworker.upstream.adapter import Trace

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment

#: A variable of a path, as Flask writes it: within one segment, or with `path:` several of them.
VARIABLE = re.compile(r"<(path:|string:)?([A-Za-z_][A-Za-z0-9_]*)>")
# Werkzeug puts it in place of bytes that are not UTF-8.
_REPLACED = "\N{REPLACEMENT CHARACTER}"
_QUERY = re.compile(r"[!-~]*")


class Target:
    """Of the requests of one route. Immutable.

    endpoint: the path, with variables as in `/files/<file_id>`; headers: names of the client's header fields
    that are sent along.
    """

    def __init__(self, endpoint: str, headers: Sequence[str], *, pass_query: bool) -> None:
        self._pieces = VARIABLE.split(endpoint)
        self._pass_query = pass_query
        self._headers = [(name, f"HTTP_{name.upper().replace('-', '_')}") for name in headers]
        #: Names of header fields, in lower case, that the worker does not add by itself.
        self.left_out = frozenset(name.lower() for name in headers)

    @property
    def is_fixed(self) -> bool:
        """Whether every request goes to the same path, without header fields of the client."""
        return len(self._pieces) == 1 and not self._pass_query and not self._headers

    def path(self, environ: WSGIEnvironment, variables: Mapping[str, object]) -> str:
        """Path and query string. variables: decoded, as Flask has found them.

        Raises `NotFound` for a variable by which the request could leave the path of the route.
        """
        query: str = environ.get("QUERY_STRING", "") if self._pass_query else ""
        first, *others = self._pieces
        if not others and not query:
            return first
        path = first
        for kind, name, literal in zip(others[::3], others[1::3], others[2::3], strict=True):
            path += _encoded(str(variables[name]), is_path=kind == "path:") + literal
        if not query:
            return path
        if not _QUERY.fullmatch(query):
            query = quote(query.encode("latin-1", "replace"), safe="!\"#$%&'()*+,/:;<=>?@[\\]^_`{|}~")
        return f"{path}?{query}"

    def headers(self, environ: WSGIEnvironment) -> Trace:
        """The client's header fields that are sent along."""
        found = ((name, environ.get(key)) for name, key in self._headers)
        return [(name, value) for name, value in found if value is not None and "\n" not in value]

    def __repr__(self) -> str:
        return f"<Target {''.join(self._pieces[::3])}>"


def _encoded(value: str, *, is_path: bool) -> str:
    """One or more segments, percent-encoded again."""
    segments = value.split("/") if is_path else [value]
    for segment in segments:
        # A dot segment would be resolved on the way, an empty one may be.
        if segment in ("", ".", "..") or "/" in segment or _REPLACED in segment:
            raise NotFound
    return "/".join(quote(segment, safe="") for segment in segments)
