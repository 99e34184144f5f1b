"""The routes of a worker, and an example of a request to each."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import flask

from pyworker.app import worker_of
from pyworker.data_types import WITHOUT_BODY, EndpointHandler
from pyworker.jobs import JobHandler
from pyworker.openapi.document import operations_of
from pyworker.openapi.examples import example_of

_VARIABLE = re.compile(r"<(?:[^<>:]*:)?[^<>]*>")


@dataclass(frozen=True)
class RouteUnderTest:
    """path: with a value for each variable; payload: an example, None if there is none or it cannot be made;
    handler: None for a view of the author's own.
    """

    method: str
    path: str
    handler: EndpointHandler[Any] | None
    payload: Mapping[str, Any] | None = None
    #: Why there is no example; and whether the author's code failed to make one.
    problem: str = ""
    is_broken: bool = False

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


def routes_of(app: flask.Flask) -> Sequence[RouteUnderTest]:
    """Every route of the worker, that of the benchmark first."""
    backend = worker_of(app).backend
    routes = [_route(one.rule, one.method, one.handler) for one in operations_of(app, backend)]
    measured = backend.benchmark_handler.endpoint
    return sorted(routes, key=lambda route: (not route.has_body, route.path != measured, route.path))


def _route(rule: str, method: str, handler: EndpointHandler[Any] | None) -> RouteUnderTest:
    path = _VARIABLE.sub("1", rule)
    if handler is None or method in WITHOUT_BODY:
        return RouteUnderTest(method, path, handler)
    try:
        payload = example_of(handler)
    except NotImplementedError as error:
        return RouteUnderTest(method, path, handler, None, str(error))
    except Exception as error:  # noqa: BLE001  the author's code, which is what is looked at
        return RouteUnderTest(method, path, handler, None, f"{type(error).__name__}: {error}", is_broken=True)
    return RouteUnderTest(method, path, handler, payload)
