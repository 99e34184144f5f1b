"""The configuration of a `worker.py`. Names, order and defaults are those of the public SDK."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Any

Json = dict[str, Any]
#: The example of a payload, as the model server or the remote function takes it.
Generator = Callable[[], Json]


@dataclass
class LogActionConfig:
    """Phrases of the model's log, each of which may stand anywhere in a line.

    on_load: the model is loaded; on_error: it has failed; on_info: the line is copied into the worker's log.
    """

    on_load: list[str] = field(default_factory=list[str])
    on_error: list[str] = field(default_factory=list[str])
    on_info: list[str] = field(default_factory=list[str])


@dataclass
class BenchmarkConfig:
    """The requests whose throughput the worker reports: random ones of `dataset`, else made by `generator`.

    runs: rounds; concurrency: requests of a round at a time, 1 for a serial route. One request that does not
    count always comes first, whatever `do_warmup` says: it finds out whether the model server listens.
    """

    dataset: list[Json] | None = None
    generator: Generator | None = None
    runs: int = 8
    concurrency: int | None = 10
    do_warmup: bool = True


@dataclass
class HandlerConfig:
    """One route.

    allow_parallel_requests: False sends requests to the model one at a time, in order of arrival.
    max_queue_time: estimated wait in seconds above which a request is refused; None: no limit.
    request_parser: makes the model server's JSON of the client's payload; raises `JsonDataException`.
    workload_calculator: the work of what the parser returned; 100 without one, or if it fails.
    response_generator: a coroutine function that makes the client's response, with aiohttp's classes.
    remote_function: is called with the payload as keyword arguments, in place of a model server. A coroutine
        function runs on the event loop, any other on a thread.
    payload_class, handler_class: classes after the public SDK's `ApiPayload` and `EndpointHandler`.
    healthcheck, is_remote_dispatch: without effect, as in the public SDK.
    """

    route: str
    healthcheck: str | None = None
    allow_parallel_requests: bool = False
    max_queue_time: float | None = 30.0
    benchmark_config: BenchmarkConfig | None = None
    handler_class: Callable[[], Any] | None = None
    payload_class: Any = None
    request_parser: Callable[[Json], Json] | None = None
    response_generator: Callable[[Any, Any], Any] | None = None
    workload_calculator: Callable[[Json], float] | None = None
    is_remote_dispatch: bool = False
    remote_function: Callable[..., Any] | None = None


@dataclass
class WorkerConfig:
    """A worker. MODEL_SERVER_URL, MODEL_LOG, MODEL_HEALTH_ENDPOINT and MAX_SESSIONS win over it.

    model_server_url, model_server_port: not used if every route is a remote function.
    model_healthcheck_url: a path or URL with a 2xx response while the model is healthy.
    max_sessions: sessions that may be open at a time; None or 0: no limit.
    lifecycle: an asynchronous context manager; the worker is loaded once it is entered, whatever the log
        says, and it is left at the end.
    benchmark_data, benchmark_route: without effect, as in the public SDK.
    readiness: what says that the model is loaded: "logs", "health" or "either"; None: all that there is.
        MODEL_READINESS wins.
    readiness_timeout: seconds from "loaded" until the model server has to serve; MODEL_READY_TIMEOUT wins.
    healthcheck_probe_timeout: seconds that a probe of the health may take.
    """

    model_server_url: str | None = None
    model_server_port: int | str | None = None
    model_log_file: str | None = None
    benchmark_data: list[Json] = field(default_factory=list[Json])
    handlers: list[HandlerConfig] = field(default_factory=list[HandlerConfig])
    model_healthcheck_url: str | None = None
    benchmark_route: str | None = None
    log_action_config: LogActionConfig = field(default_factory=LogActionConfig)
    max_sessions: int | None = 10
    lifecycle: AbstractAsyncContextManager[Any] | None = None
    # Of later releases, which programs look for in this class's signature.
    readiness: str | None = None
    readiness_timeout: float | None = None
    healthcheck_probe_timeout: float | None = None
