"""Checks a configuration, and makes a handler of each route."""

from __future__ import annotations

import dataclasses
import importlib.util
import inspect
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

from pyworker import responses
from pyworker.config import ReadinessSource
from pyworker.data_types import EndpointHandler
from pyworker.errors import ConfigError
from pyworker.sdk.config import BenchmarkConfig, HandlerConfig, WorkerConfig
from pyworker.sdk.payload import ClassRules, FunctionRules, Rules, SdkPayload, payload_class

#: What makes the client's response of aiohttp's request and of the model server's response.
ResponseGenerator = Callable[[Any, Any], Awaitable[Any]]
_MOST_CONCURRENT = 10
_NO_FORMS = (
    "a payload class with generate_payload_multipart is not supported beside a response_generator or in a "
    "handler_class: write an EndpointHandler of pyworker (workers/README.md)"
)


@dataclass(frozen=True)
class Route:
    """One route, checked.

    path: of the worker; model_path: of the model server. generator, remote: what the bridge runs; at most one
    of them.
    """

    path: str
    model_path: str
    rules: Rules
    is_parallel: bool
    max_queue_time: float | None
    runs: int
    concurrency: int
    has_benchmark: bool
    generator: ResponseGenerator | None = None
    remote: Callable[..., Any] | None = None

    @property
    def is_bridged(self) -> bool:
        """Whether the bridge answers it."""
        return self.generator is not None or self.remote is not None

    def handler(self) -> EndpointHandler[Any]:
        """What serves it."""
        return _handler(self)


def checked(config: WorkerConfig) -> Sequence[Route]:
    """The routes of a configuration. Raises `ConfigError` with a line for each fault."""
    faults = list(_faults(config))
    if faults:
        raise ConfigError(*faults)
    routes = [_route(handler) for handler in config.handlers]
    measured = [route.path for route in routes if route.has_benchmark]
    if len(measured) != 1:
        raise ConfigError(
            f"{len(measured)} routes have a benchmark ({', '.join(measured) or 'none'}): exactly one "
            "HandlerConfig needs benchmark_config=BenchmarkConfig(dataset=[…])"
        )
    if not config.model_server_url and any(route.remote is None for route in routes):
        raise ConfigError('WorkerConfig.model_server_url is missing: such as "http://127.0.0.1"')
    if any(route.is_bridged for route in routes) or config.lifecycle is not None:
        _require_aiohttp()
    return routes


def _faults(config: WorkerConfig) -> Iterator[str]:
    if not config.handlers:
        yield "WorkerConfig.handlers is empty: give a HandlerConfig for each route"
    paths = [handler.route for handler in config.handlers]
    for path in sorted({path for path in paths if paths.count(path) > 1}):
        yield f"two handlers have the route {path!r}"
    for handler in config.handlers:
        yield from _faults_of(handler)
    sources = [source.value for source in ReadinessSource]
    if config.readiness is not None and config.readiness not in sources:
        yield f"WorkerConfig.readiness is {config.readiness!r}: write one of {', '.join(sources)}"
    for name in ("readiness_timeout", "healthcheck_probe_timeout"):
        seconds: object = getattr(config, name)
        if seconds is not None and not (isinstance(seconds, int | float) and 0 < seconds < float("inf")):
            yield f"WorkerConfig.{name} is {seconds!r}: write a number of seconds above 0"
    if config.lifecycle is not None and not hasattr(config.lifecycle, "__aenter__"):
        yield "WorkerConfig.lifecycle is no asynchronous context manager: it needs __aenter__ and __aexit__"


def _faults_of(config: HandlerConfig) -> Iterator[str]:
    where = f"HandlerConfig(route={config.route!r})"
    if not config.route.startswith("/") or set(config.route) & set("<>{}?#"):
        yield f"{where}: a route is a path without variables, such as '/v1/completions'"
    benchmark = config.benchmark_config
    if benchmark is not None and not (benchmark.dataset or benchmark.generator) and not config.payload_class:
        yield f"{where}: BenchmarkConfig needs a dataset with at least one payload, or a generator"
    functions = {
        "request_parser": config.request_parser,
        "workload_calculator": config.workload_calculator,
        "BenchmarkConfig.generator": benchmark and benchmark.generator,
    }
    for name, function in functions.items():
        if inspect.iscoroutinefunction(function):
            yield f"{where}: {name} is called, not awaited: write `def` in place of `async def`"
    if config.response_generator is not None and _makes_forms(config.payload_class):
        yield f"{where}: {_NO_FORMS}"


def _makes_forms(payload: Any) -> bool:
    """Whether it has a `generate_payload_multipart` of its own."""
    bases: Sequence[type] = getattr(payload, "__mro__", ())
    return any("generate_payload_multipart" in vars(cls) and cls.__name__ != "ApiPayload" for cls in bases)


def _require_aiohttp() -> None:
    if importlib.util.find_spec("aiohttp") is None:
        raise ConfigError(
            "response_generator, remote_function and lifecycle need aiohttp, which is not installed: "
            "pip install 'aiohttp>=3.10,<4'"
        )


def unused(config: WorkerConfig) -> Iterator[str]:
    """A line for each option that is given and has no effect."""
    if config.benchmark_data:
        yield "WorkerConfig.benchmark_data has no effect: use BenchmarkConfig.dataset"
    if config.benchmark_route:
        yield "WorkerConfig.benchmark_route has no effect: the route with a benchmark_config is measured"
    for handler in config.handlers:
        where = f"HandlerConfig(route={handler.route!r})"
        if handler.healthcheck:
            yield f"{where}: healthcheck has no effect: use WorkerConfig.model_healthcheck_url"
        if handler.is_remote_dispatch and handler.remote_function is None:
            yield f"{where}: is_remote_dispatch has no effect without a remote_function"
        yield from (f"{where}: {fault}" for fault in _overruled(handler))


def _overruled(config: HandlerConfig) -> Iterator[str]:
    """The options of one route that others overrule."""
    if config.handler_class is not None:
        names = {option.name for option in dataclasses.fields(config)} - {"route", "healthcheck"}
        yield from (f"handler_class decides; {name} has no effect" for name in _given(config, names))
    elif config.payload_class is not None:
        names = {"request_parser", "workload_calculator"}
        yield from (f"payload_class decides; {name} has no effect" for name in _given(config, names))
    elif config.remote_function is not None and config.response_generator is not None:
        yield "remote_function decides; response_generator has no effect"


def _given(config: HandlerConfig, names: set[str]) -> Sequence[str]:
    """Those of these options that are not at their default."""
    default = HandlerConfig(config.route)
    return sorted(
        name
        for name in names - {"handler_class", "payload_class", "is_remote_dispatch"}
        if getattr(config, name) != getattr(default, name)
    )


def _route(config: HandlerConfig) -> Route:
    if config.handler_class is not None:
        return _route_of_class(config.route, config.handler_class())
    benchmark = config.benchmark_config
    is_remote = config.remote_function is not None
    return Route(
        path=config.route,
        model_path=config.route,
        rules=FunctionRules(config) if config.payload_class is None else ClassRules(config.payload_class),
        is_parallel=config.allow_parallel_requests,
        max_queue_time=config.max_queue_time,
        runs=(benchmark or BenchmarkConfig()).runs,
        concurrency=(benchmark or BenchmarkConfig()).concurrency or _MOST_CONCURRENT,
        has_benchmark=benchmark is not None,
        generator=None if is_remote else config.response_generator,
        remote=config.remote_function,
    )


def _route_of_class(path: str, handler: Any) -> Route:
    """handler: has the attributes of the public SDK's `EndpointHandler`."""
    remote = getattr(handler, "remote_function", None)
    if remote is None and _makes_forms(handler.payload_cls()):
        raise ConfigError(f"HandlerConfig(route={path!r}): {_NO_FORMS}")
    return Route(
        path=path,
        model_path=handler.endpoint,
        rules=ClassRules(handler.payload_cls(), handler.make_benchmark_payload),
        is_parallel=bool(getattr(handler, "allow_parallel_requests", False)),
        max_queue_time=getattr(handler, "max_queue_time", None),
        runs=getattr(handler, "benchmark_runs", 8),
        concurrency=getattr(handler, "concurrency", None) or _MOST_CONCURRENT,
        has_benchmark=bool(getattr(handler, "has_benchmark", True)),
        generator=None if remote else cast("ResponseGenerator", handler.generate_client_response),
        remote=remote,
    )


def _handler(route: Route) -> EndpointHandler[Any]:
    class RouteHandler(responses.PassThrough, EndpointHandler[SdkPayload]):
        payload: type[SdkPayload] = payload_class(route.rules, bridged=route.is_bridged)

        @property
        def endpoint(self) -> str:
            # The bridge knows the path on the model server.
            return route.path

        @classmethod
        def payload_cls(cls) -> type[SdkPayload]:
            return cls.payload

        def make_benchmark_payload(self) -> SdkPayload:
            return self.payload.for_test()

    return RouteHandler(
        benchmark_runs=route.runs,
        allow_parallel_requests=route.is_parallel,
        max_queue_time=route.max_queue_time,
        concurrency=route.concurrency,
    )
