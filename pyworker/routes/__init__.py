"""The short way to a worker: its model server and its routes in one call.

    create_backend, create_blueprint = worker(
        "http://127.0.0.1:8080",
        Post("/v1/completions", Completion, benchmark={"prompt": "Tell me about the sea.", "max_tokens": 64}),
        Get("/v1/models"),
        log=LLAMA_CPP, health="/health", parallel=True,
    )

The two functions are what the app factory calls in a worker's `server.py`. A route for which this does not
suffice is an `EndpointHandler`, which `worker` takes as well.

kinds  Get, Post, Put, Patch, Delete
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import flask

from pyworker.backend import MAX_OPEN, Backend
from pyworker.config import Settings
from pyworker.contract.backends import check_model_server
from pyworker.contract.places import caller
from pyworker.data_types import EndpointHandler
from pyworker.errors import ConfigError
from pyworker.lifecycle import probe
from pyworker.lifecycle.log_lines import LogActions
from pyworker.routes.kinds import BenchmarkPayload, Delete, Get, Patch, Perform, Post, Put, Respond, Route

__all__ = [
    "BenchmarkPayload",
    "Delete",
    "Get",
    "Patch",
    "Perform",
    "Post",
    "Put",
    "Respond",
    "Route",
    "blueprint_of",
    "worker",
]


def worker(
    model_server_url: str,
    *routes: Route | EndpointHandler[Any],
    log: LogActions = (),
    log_file: str | Path | None = None,
    health: str | None = None,
    parallel: bool = False,
    max_queue_time: float | None = None,
    benchmark: EndpointHandler[Any] | None = None,
    benchmark_timeout: float = 120.0,
    health_timeout: float = probe.TIMEOUT,
    max_open: int = MAX_OPEN,
) -> tuple[Callable[[Settings], Backend], Callable[[Backend], flask.Blueprint]]:
    """The functions `create_backend` and `create_blueprint` of a worker.

    log, log_file: phrases of the model's log, and where it lies; health: a path with a 2xx response while the
    model is healthy; parallel: False sends requests to the model one at a time; max_queue_time: seconds of
    estimated wait above which a request is refused; benchmark: the handler whose throughput is measured,
    default: that of the route with a benchmark; the others: as for `Backend`. Raises `ConfigError` for what
    is wrong, with its file and line.
    """
    place = caller()
    check_model_server(model_server_url, log, place)
    handlers = [route if isinstance(route, EndpointHandler) else route.handler() for route in routes]
    if benchmark is None:
        measurable = [
            handler
            for route, handler in zip(routes, handlers, strict=True)
            if isinstance(route, (Post, Put, Patch)) and route.benchmark is not None
        ]
        if len(measurable) != 1:
            raise ConfigError(
                f"{place}: {len(measurable)} routes have a benchmark: give one route, whose throughput the "
                'worker reports, an example of its payload, such as Post(…, benchmark={"prompt": "Hello"})'
            )
        [benchmark] = measurable

    def create_backend(settings: Settings) -> Backend:
        backend = Backend(
            model_server_url,
            log_file,
            parallel,
            benchmark,
            log,
            max_queue_time=max_queue_time,
            benchmark_timeout=benchmark_timeout,
            health_endpoint=health,
            health_timeout=health_timeout,
            max_open=max_open,
            settings=settings,
        )
        backend.place = place
        return backend

    return create_backend, lambda backend: blueprint_of(backend, handlers)


def blueprint_of(backend: Backend, handlers: Iterable[EndpointHandler[Any]]) -> flask.Blueprint:
    """A blueprint with one view for each handler, on the path that it has on the model server."""
    blueprint = flask.Blueprint("routes", __name__)
    for handler in handlers:
        view = backend.create_handler(handler)
        blueprint.add_url_rule(handler.endpoint, view_func=view, methods=[handler.method])
    return blueprint
