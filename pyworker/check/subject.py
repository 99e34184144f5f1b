"""The routes of a worker, and an example of a request to each."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import flask

from pyworker.app import worker_of
from pyworker.data_types import WITHOUT_BODY, ApiPayload, EndpointHandler
from pyworker.errors import JsonDataException
from pyworker.jobs import JobHandler
from pyworker.registry import sent_fields

#: Blueprints of every worker; the others are the author's.
OWN_BLUEPRINTS = ("pyworker", "status", "sessions", "docs")
_VARIABLE = re.compile(r"<(?:[^<>:]*:)?[^<>]*>")
_IMPLIED = {"HEAD", "OPTIONS"}


@dataclass(frozen=True)
class RouteUnderTest:
    """path: with a value for each variable; payload: an example, None if there is none or it cannot be made;
    handler: None for a view of the author's own.
    """

    method: str
    path: str
    handler: EndpointHandler[Any] | None
    payload: Mapping[str, Any] | None = None
    #: Why there is no example.
    problem: str = ""

    @property
    def name(self) -> str:
        return f"{self.method} {self.path}"

    @property
    def has_body(self) -> bool:
        return self.method not in WITHOUT_BODY

    @property
    def is_job(self) -> bool:
        """Whether its handler makes calls of its own, which a generic answer does not suit."""
        return isinstance(self.handler, JobHandler)

    @property
    def streaming_payload(self) -> Mapping[str, Any] | None:
        """The example; it asks for a stream if there is a field for that."""
        if self.payload is None or self.handler is None:
            return self.payload
        declared = {field.name for field in dataclasses.fields(self.handler.payload_cls())}
        return {**self.payload, "stream": True} if "stream" in declared else self.payload


def author_rules(app: flask.Flask) -> Iterable[tuple[str, str, EndpointHandler[Any] | None]]:
    """Path, method and handler of each rule that is the author's."""
    views = worker_of(app).backend.views
    for rule in app.url_map.iter_rules():
        if rule.endpoint.partition(".")[0] in OWN_BLUEPRINTS:
            continue
        route = views.get(app.view_functions[rule.endpoint])
        for method in sorted((rule.methods or set()) - _IMPLIED):
            yield rule.rule, method, None if route is None else route.handler


def routes_of(app: flask.Flask) -> Sequence[RouteUnderTest]:
    """Every route of the worker, that of the benchmark first."""
    routes = [_route(path, method, handler) for path, method, handler in author_rules(app)]
    measured = worker_of(app).backend.benchmark_handler.endpoint
    return sorted(routes, key=lambda route: (not route.has_body, route.path != measured, route.path))


def _route(rule: str, method: str, handler: EndpointHandler[Any] | None) -> RouteUnderTest:
    path = _VARIABLE.sub("1", rule)
    if handler is None or method in WITHOUT_BODY:
        return RouteUnderTest(method, path, handler)
    try:
        payload = example(handler)
    except NotImplementedError as error:
        return RouteUnderTest(method, path, handler, None, str(error))
    except Exception as error:  # noqa: BLE001  the author's code, which is what is looked at
        return RouteUnderTest(method, path, handler, None, f"{type(error).__name__}: {error}")
    return RouteUnderTest(method, path, handler, payload)


def example(handler: EndpointHandler[Any]) -> Mapping[str, Any]:
    """What a client would send, as plain JSON: what the benchmark sends, `for_test`, or nothing at all if
    the payload class takes that. Raises whatever the author's code does.
    """
    makers = (handler.make_benchmark_payload, handler.payload_cls().for_test)
    problem: Exception = NotImplementedError("no example")
    for make in makers:
        try:
            payload: ApiPayload = make()
            return cast("Mapping[str, Any]", json.loads(json.dumps(sent_fields(payload))))
        except NotImplementedError as error:
            problem = error
    try:
        handler.payload_cls().from_json_msg({})
    except JsonDataException:
        raise problem from None
    return {}
