"""HTTP: what every path and method gets, those that there are not included."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence

from pyworker.check.finding import Finding
from pyworker.check.subject import RouteUnderTest
from pyworker.testing import Kit, Reply

_METHODS = ("DELETE", "PUT", "PATCH", "GET", "POST")
_LEAVE = "leave errors to the app: take out error handlers and catch-all paths of your blueprint"


def check_unknown_path(kit: Kit) -> Iterator[Finding]:
    """404, as JSON."""
    reply = kit.request("GET", "/pyworker-check/no-such-path", signed=False)
    if reply.status != 404 or not _is_error_object(reply):
        yield Finding(
            "protocol", "GET /…", f"a path that there is not gets {_shown(reply)}, not 404 as JSON", _LEAVE
        )


def check_methods(kit: Kit, routes: Sequence[RouteUnderTest]) -> Iterator[Finding]:
    """405 as JSON with Allow, OPTIONS, and HEAD where there is GET."""
    for path in sorted({route.path for route in routes}):
        own = {route.method for route in routes if route.path == path}
        missing = next(method for method in _METHODS if method not in own)
        reply = kit.request(missing, path, signed=False)
        allowed = {method.strip() for method in reply.headers.get("Allow", "").split(",")}
        if reply.status != 405 or not _is_error_object(reply) or not own <= allowed:
            yield Finding(
                "protocol", f"{missing} {path}", f"gets {_shown(reply)}, not 405 as JSON with Allow", _LEAVE
            )
        reply = kit.request("OPTIONS", path, signed=False)
        allowed = {method.strip() for method in reply.headers.get("Allow", "").split(",")}
        if reply.status not in (200, 204) or not own <= allowed:
            yield Finding(
                "protocol", f"OPTIONS {path}", f"gets {_shown(reply)}, without its methods in Allow", _LEAVE
            )
        reply = kit.request("HEAD", path, signed=False)
        is_good = reply.status < 500 if "GET" in own else reply.status == 405
        if reply.body or not is_good:
            yield Finding("protocol", f"HEAD {path}", f"gets {_shown(reply)}", _LEAVE)


def _is_error_object(reply: Reply) -> bool:
    if not reply.headers.get("Content-Type", "").startswith("application/json"):
        return False
    try:
        body = reply.json()
    except json.JSONDecodeError:
        return False
    return isinstance(body, dict) and "error" in body


def _shown(reply: Reply) -> str:
    return f"{reply.status} ({reply.headers.get('Content-Type') or 'no content type'})"
