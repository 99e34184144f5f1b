"""The routes of the short way: each is an `EndpointHandler`, said in one call."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, cast

import flask
import requests

from pyworker import responses
from pyworker.contract.payloads import check_payload_class
from pyworker.contract.places import caller
from pyworker.data_types import (
    WITHOUT_BODY,
    ApiPayload,
    Dialect,
    EndpointHandler,
    FixedPayload,
    NoPayload,
    Priority,
    ResponseSample,
)
from pyworker.errors import ConfigError, JsonDataException
from pyworker.jobs import FunctionHandler

#: The payload of one request of the benchmark: made by a function, or of these fields.
BenchmarkPayload = Mapping[str, Any] | Callable[[], ApiPayload]
#: Makes the client's response from the model server's.
Respond = Callable[[requests.Response], flask.Response]
#: Makes the client's response of the payload and a `Job`, and of the path's variables by name.
Perform = Callable[..., flask.Response]

_MIXINS: Mapping[Respond, type[Any]] = {
    responses.pass_through: responses.PassThrough,
    responses.stream: responses.Stream,
}


@dataclass(frozen=True, kw_only=True)
class AnyRoute:
    """What every route may say. For `parallel` and `max_queue_time` the values of `worker` are the default.

    respond: what the client gets; by default what the model server sends, whole or as it comes. perform:
    makes the response itself, in place of one forwarded request. timeout, priority, pass_headers, pass_query:
    as for `EndpointHandler`. open: needs no signature.
    """

    method: ClassVar[str]

    parallel: bool | None = None
    max_queue_time: float | None = None
    timeout: float | None = None
    priority: Priority = Priority.NORMAL
    pass_headers: Sequence[str] = ()
    pass_query: bool = True
    open: bool = False
    dialect: Dialect = Dialect.ENVELOPE
    respond: Respond = responses.pass_through
    perform: Perform | None = None
    #: Where it was written, for error messages.
    place: str = field(default_factory=caller, init=False, repr=False, compare=False)


@dataclass(frozen=True)
class _WithPayload(AnyRoute):
    """A route that takes a payload.

    payload_cls: its class; without one any JSON object is passed on. workload: that of each request, in place
    of a payload class; 1 if there is neither. benchmark: the payload of the requests whose throughput the
    worker reports; one route of the worker needs it. runs, concurrency: rounds of the benchmark, and requests
    in each at a time.
    """

    path: str
    payload_cls: type[ApiPayload] | None = None
    benchmark: BenchmarkPayload | None = None
    runs: int = 3
    concurrency: int | None = None
    workload: float | None = field(default=None, kw_only=True)

    def handler(self) -> EndpointHandler[Any]:
        """The same as a handler."""
        if self.payload_cls is not None and self.workload is not None:
            raise ConfigError(
                f"{self.place}: {type(self).__name__}({self.path!r}) has a payload class, whose "
                "count_workload says the workload, and a workload: leave out one of them"
            )
        payload_cls = self.payload_cls or _fixed(1.0 if self.workload is None else self.workload)
        self._check_benchmark(payload_cls)
        return _handler(self, self.path, payload_cls, self.benchmark, self.runs, self.concurrency)

    def _check_benchmark(self, payload_cls: type[ApiPayload]) -> None:
        if self.benchmark is None or callable(self.benchmark):
            return
        check_payload_class(payload_cls)
        try:
            payload_cls.from_json_msg(self.benchmark)
        except JsonDataException as error:
            faults = "; ".join(f"{name}: {fault}" for name, fault in error.json_msg.items())
            raise ConfigError(
                f"{self.place}: {type(self).__name__}({self.path!r}).benchmark does not fit the payload "
                f"class {payload_cls.__name__}: {faults}"
            ) from error


@dataclass(frozen=True)
class Post(_WithPayload):
    """`Post("/v1/completions", Completion, benchmark={"prompt": "Hello"})`"""

    method = "POST"


@dataclass(frozen=True)
class Put(_WithPayload):
    """As `Post`, with another method."""

    method = "PUT"


@dataclass(frozen=True)
class Patch(_WithPayload):
    """As `Post`, with another method."""

    method = "PATCH"


@dataclass(frozen=True)
class _WithoutPayload(AnyRoute):
    """A route without a payload or work. It does not wait in the queue unless `parallel` is False.

    The client's signature is in the header `X-Auth-Data`.
    """

    path: str

    def handler(self) -> EndpointHandler[Any]:
        """The same as a handler."""
        return _handler(self, self.path, NoPayload, None, 1, None)


@dataclass(frozen=True)
class Get(_WithoutPayload):
    """`Get("/v1/models")`, `Get("/v1/files/<file_id>")`"""

    method = "GET"


@dataclass(frozen=True)
class Delete(_WithoutPayload):
    """As `Get`, with another method."""

    method = "DELETE"


#: A route of the short way.
Route = Post | Put | Patch | Get | Delete


def _fixed(workload: float) -> type[FixedPayload]:
    return type("AnyPayload", (FixedPayload,), {"workload": workload, "__module__": __name__})


def _handler(
    route: AnyRoute,
    path: str,
    payload_cls: type[ApiPayload],
    benchmark: BenchmarkPayload | None,
    runs: int,
    concurrency: int | None,
) -> EndpointHandler[Any]:
    name = f"{type(route).__name__}({path!r})"

    class RouteHandler(_base_of(route)):
        dialect = route.dialect
        method = route.method
        shown_as = f"{route.place}: {name}"

        @property
        def endpoint(self) -> str:
            return path

        @classmethod
        def payload_cls(cls) -> type[ApiPayload]:
            return wanted

        def make_benchmark_payload(self) -> ApiPayload:
            if benchmark is None:
                return wanted.for_test()
            return benchmark() if callable(benchmark) else wanted.from_json_msg(benchmark)

        def find_failure(self, response: ResponseSample) -> str:
            return responses.error_in(response)

    wanted = payload_cls
    is_light = route.method in WITHOUT_BODY
    # The base is not abstract, whichever of the three it is.
    make = cast("Callable[..., EndpointHandler[Any]]", RouteHandler)
    return make(
        benchmark_runs=runs,
        allow_parallel_requests=True if is_light and route.parallel is None else route.parallel,
        max_queue_time=route.max_queue_time,
        concurrency=concurrency,
        timeout=route.timeout,
        priority=route.priority,
        pass_headers=route.pass_headers,
        pass_query=route.pass_query,
        is_open=route.open,
    )


def _base_of(route: AnyRoute) -> type[EndpointHandler[Any]]:
    """A handler that responds as the route says."""
    perform, respond = route.perform, route.respond
    if perform is not None:

        class Performing(FunctionHandler):
            function = staticmethod(perform)

        return Performing
    mixin = _MIXINS.get(respond)
    if mixin is not None:

        class Passing(mixin, EndpointHandler[Any]):
            pass

        return Passing

    class Responding(EndpointHandler[Any]):
        function = staticmethod(respond)

        def generate_client_response(
            self,
            client_request: flask.Request,  # noqa: ARG002
            model_response: requests.Response,
        ) -> flask.Response:
            return respond(model_response)

    return Responding
