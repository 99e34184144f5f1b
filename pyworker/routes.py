"""The short way to a worker: its model server and its routes in one call.

    create_backend, create_blueprint = worker(
        "http://127.0.0.1:8080",
        Post("/v1/completions", Completion, benchmark={"prompt": "Tell me about the sea.", "max_tokens": 64}),
        Get("/v1/models"),
        log=LLAMA_CPP, health="/health", parallel=True,
    )

The two functions are what the app factory calls in a worker's `server.py`. A route for which this does not
suffice is an `EndpointHandler`, which `worker` takes as well.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import flask

from pyworker import responses
from pyworker.backend import Backend
from pyworker.config import Settings
from pyworker.data_types import ApiPayload, EndpointHandler, NoPayload
from pyworker.errors import ConfigError
from pyworker.lifecycle.log_lines import LogActions
from pyworker.runtime.sample import ResponseSample

#: The payload of one request of the benchmark: made by a function, or of these fields.
BenchmarkPayload = Mapping[str, Any] | Callable[[], ApiPayload]


@dataclass(frozen=True)
class Post:
    """A route that takes a payload. The client gets what the model server sends, whole or as it comes.

    benchmark: the payload of the requests whose throughput the worker reports; one route needs it.
    runs, concurrency: rounds of the benchmark, and requests in each at a time. parallel, max_queue_time: as
    for `worker`, whose values are the default.
    """

    path: str
    payload_cls: type[ApiPayload]
    benchmark: BenchmarkPayload | None = None
    runs: int = 3
    concurrency: int | None = None
    parallel: bool | None = None
    max_queue_time: float | None = None

    def handler(self) -> EndpointHandler[Any]:
        """The same as a handler."""
        return _post_handler(self)


@dataclass(frozen=True)
class Get:
    """A route without a payload or work, such as a list of models."""

    path: str

    def handler(self) -> EndpointHandler[Any]:
        """The same as a handler."""
        return _get_handler(self.path)


def worker(
    model_server_url: str,
    *routes: Post | Get | EndpointHandler[Any],
    log: LogActions = (),
    log_file: str | Path | None = None,
    health: str | None = None,
    parallel: bool = False,
    max_queue_time: float | None = None,
    benchmark: EndpointHandler[Any] | None = None,
) -> tuple[Callable[[Settings], Backend], Callable[[Backend], flask.Blueprint]]:
    """The functions `create_backend` and `create_blueprint` of a worker.

    log, log_file: phrases of the model's log, and where it lies; health: a path with a 2xx response while the
    model is healthy; parallel: False sends requests to the model one at a time; max_queue_time: seconds of
    estimated wait above which a request is refused; benchmark: the handler whose throughput is measured,
    default: that of the route with a benchmark. Raises `ConfigError` if there is none.
    """
    handlers = [route if isinstance(route, EndpointHandler) else route.handler() for route in routes]
    if benchmark is None:
        measurable = [
            handler
            for route, handler in zip(routes, handlers, strict=True)
            if isinstance(route, Post) and route.benchmark is not None
        ]
        if len(measurable) != 1:
            raise ConfigError(
                f"{len(measurable)} routes have a benchmark: give one route, whose throughput the worker "
                'reports, an example of its payload, such as Post(…, benchmark={"prompt": "Hello"})'
            )
        [benchmark] = measurable

    def create_backend(settings: Settings) -> Backend:
        return Backend(
            model_server_url,
            log_file,
            parallel,
            benchmark,
            log,
            max_queue_time=max_queue_time,
            health_endpoint=health,
            settings=settings,
        )

    return create_backend, lambda backend: blueprint_of(backend, handlers)


def blueprint_of(backend: Backend, handlers: Iterable[EndpointHandler[Any]]) -> flask.Blueprint:
    """A blueprint with one view for each handler, on the path that it has on the model server."""
    blueprint = flask.Blueprint("routes", __name__)
    for handler in handlers:
        view = backend.create_handler(handler)
        blueprint.add_url_rule(handler.endpoint, view_func=view, methods=[handler.method])
    return blueprint


def _post_handler(route: Post) -> EndpointHandler[Any]:
    class PostHandler(responses.PassThrough, EndpointHandler[Any]):
        @property
        def endpoint(self) -> str:
            return route.path

        @classmethod
        def payload_cls(cls) -> type[ApiPayload]:
            return route.payload_cls

        def make_benchmark_payload(self) -> ApiPayload:
            if route.benchmark is None:
                return route.payload_cls.for_test()
            if callable(route.benchmark):
                return route.benchmark()
            return route.payload_cls.from_json_msg(route.benchmark)

        def find_failure(self, response: ResponseSample) -> str:
            return responses.error_in(response)

    return PostHandler(
        benchmark_runs=route.runs,
        allow_parallel_requests=route.parallel,
        max_queue_time=route.max_queue_time,
        concurrency=route.concurrency,
    )


def _get_handler(path: str) -> EndpointHandler[Any]:
    class GetHandler(responses.PassThrough, EndpointHandler[NoPayload]):
        method = "GET"

        @property
        def endpoint(self) -> str:
            return path

        @classmethod
        def payload_cls(cls) -> type[NoPayload]:
            return NoPayload

        def make_benchmark_payload(self) -> NoPayload:
            return NoPayload()

    return GetHandler(allow_parallel_requests=True)
