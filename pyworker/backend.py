"""The model server as the author of a worker describes it, and the views of its routes."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypedDict

import flask
from typing_extensions import Unpack

from pyworker.config import ReadinessSource, Settings
from pyworker.contract.backends import check_loaded_sign, check_model_server
from pyworker.contract.handlers import check_benchmark, check_handler
from pyworker.contract.places import caller, place_of
from pyworker.data_types import ApiPayload, EndpointHandler, LogAction, Priority
from pyworker.errors import ConfigError
from pyworker.jobs import FunctionHandler
from pyworker.lifecycle import probe
from pyworker.lifecycle.log_lines import LogActions
from pyworker.lifecycle.log_tail import unfollowable
from pyworker.lifecycle.state import ModelLifecycle
from pyworker.proxy.direct import RAISED
from pyworker.proxy.pipeline import Route, pipeline_of
from pyworker.runtime.budget import Budget
from pyworker.runtime.request_queue import Admission, RequestQueue, Unlimited
from pyworker.runtime.services import Loop
from pyworker.upstream.client import ModelClient

#: Default of `max_open`.
MAX_OPEN = 16
_NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9_-]")


class Backend:
    """The model server of a worker: its URL and log, and how requests are forwarded to it.

    model_server_url, model_log_file: MODEL_SERVER_URL and MODEL_LOG override them.
    log_actions: what phrases in the model's log mean; MODEL_LOAD_LOG_MSG, MODEL_ERROR_LOG_MSGS and
        MODEL_INFO_LOG_MSGS replace those of their kind.
    allow_parallel_requests: False sends requests to the model one at a time, in order of arrival.
    max_queue_time: estimated wait in seconds above which a request is refused; None: no limit.
    concurrency: concurrent requests in a round of the benchmark; benchmark_timeout: seconds for each.
    health_endpoint: a path or URL with a 2xx response while the model is healthy; MODEL_HEALTH_ENDPOINT
        overrides it.
    health_timeout: seconds that a probe of it may take.
    max_sessions: sessions that may be open at a time, 0: no limit; MAX_SESSIONS overrides it.
    max_open: requests to open routes (`EndpointHandler.is_open`) that may be in hand at a time.
    settings: those passed to `create_backend`; default: from the environment.
    """

    def __init__(
        self,
        model_server_url: str,
        model_log_file: str | Path | None,
        allow_parallel_requests: bool = False,
        benchmark_handler: EndpointHandler[Any] | None = None,
        log_actions: LogActions = (),
        *,
        max_queue_time: float | None = None,
        concurrency: int = 10,
        benchmark_timeout: float = 120.0,
        health_endpoint: str | None = None,
        health_timeout: float = probe.TIMEOUT,
        max_sessions: int = 10,
        max_open: int = MAX_OPEN,
        settings: Settings | None = None,
    ) -> None:
        #: File and line of the author's that made it.
        self.place = caller()
        check_model_server(model_server_url, log_actions, self.place)
        if benchmark_handler is None:
            raise ConfigError(
                f"{self.place}: Backend needs a benchmark_handler: the route whose speed the worker reports"
            )
        check_benchmark(benchmark_handler)
        self.settings = settings if settings is not None else Settings.from_env()
        self.allow_parallel_requests = allow_parallel_requests
        self.benchmark_handler = benchmark_handler
        self.log_actions = _with_settings(log_actions, self.settings)
        self.max_queue_time = max_queue_time
        self.concurrency = concurrency
        self.benchmark_timeout = benchmark_timeout
        self.health_timeout = health_timeout
        log_file = self.settings.model_log or model_log_file
        self.model_log_file = None if log_file is None else Path(log_file)
        chosen = self.settings.max_sessions
        self.max_sessions = max_sessions if chosen is None else chosen
        self.client = ModelClient(
            self.settings.model_server_url or model_server_url,
            api_key=self.settings.model_api_key,
            timeout=self.settings.model_timeout,
            pool_size=self.settings.threads,
            ca_file=self.settings.model_ca_file,
        )
        #: The pooled session. Relative URLs go to the model server.
        self.session = self.client.session
        endpoint = self.settings.model_health_endpoint or health_endpoint
        #: The URL of the health probe; None if health is not probed.
        self.health_url = None if endpoint is None else self.session.absolute(endpoint)
        #: What says that the model is loaded.
        self.readiness = self.settings.model_readiness or self._best_readiness()
        self._queue = RequestQueue()
        self._open_places = Budget(max_open)
        self._handlers: list[EndpointHandler[Any]] = [benchmark_handler]
        #: Each view that was made, and its route.
        self.views: dict[Callable[..., flask.Response], Route] = {}

    #: The dotted name of the worker's package; empty if it is not known.
    package = ""
    #: Whether there is a model server at the URL, or will be.
    knows_model_server = True

    @property
    def handlers(self) -> tuple[EndpointHandler[Any], ...]:
        """The benchmark's handler, and that of every route."""
        return tuple(self._handlers)

    def require_loaded_sign(self) -> None:
        """Raise `ConfigError` if no phrase and no health endpoint could say that the model is loaded."""
        check_loaded_sign(self.log_actions, self.health_url, self.place)

    def require_readiness_source(self) -> None:
        """Raise `ConfigError` if nothing can tell that the model is loaded."""
        source = self.readiness
        if source.by_log and self.model_log_file is None:
            raise ConfigError("MODEL_LOG is not set: set it to the file that the model server logs to")
        problem = "" if self.model_log_file is None else unfollowable(self.model_log_file)
        chosen = self.settings.model_readiness
        if problem and (chosen is None or not chosen.by_health):
            raise ConfigError(f"MODEL_LOG={self.model_log_file} {problem}")
        if source.by_health and self.health_url is None:
            raise ConfigError(
                f"MODEL_READINESS={source.value} needs a health endpoint: set MODEL_HEALTH_ENDPOINT to a "
                "path or URL of the model server that answers 2xx once the model is loaded"
            )

    def loops(self, lifecycle: ModelLifecycle) -> Sequence[Loop]:  # noqa: ARG002
        """Background loops of this backend's own, beside those of the worker."""
        return ()

    def _best_readiness(self) -> ReadinessSource:
        """All that there is: the log, the health endpoint, or whichever of them comes first."""
        if self.health_url is None:
            return ReadinessSource.LOGS
        return ReadinessSource.HEALTH if self.model_log_file is None else ReadinessSource.EITHER

    @property
    def benchmark_concurrency(self) -> int:
        """Concurrent requests in a round of the benchmark; 1 for a serial route."""
        handler = self.benchmark_handler
        chosen = self.concurrency if handler.concurrency is None else handler.concurrency
        return chosen if self._is_parallel(handler) else 1

    def create_handler(self, handler: EndpointHandler[Any]) -> Callable[..., flask.Response]:
        """The Flask view of this handler's route; register it for the handler's method."""
        check_handler(handler)
        self._handlers.append(handler)
        is_parallel = self._is_parallel(handler)
        admission: Admission = Unlimited() if is_parallel else self._queue.of(handler.priority)
        limit = self.max_queue_time if handler.max_queue_time is None else handler.max_queue_time
        route = Route(handler, admission, limit, self._open_places if handler.is_open else None)

        def view(**_variables: str) -> flask.Response:
            raised = flask.request.environ.pop(RAISED, None)
            if raised is not None:
                raise raised
            return pipeline_of(flask.current_app).serve(route, flask.request)

        view.__name__ = self._new_view_name(handler.endpoint)
        self.views[view] = route
        return view

    def counted_view(
        self, payload_cls: type[ApiPayload], *, method: str = "POST", **options: Unpack[ViewOptions]
    ) -> Callable[[Callable[..., flask.Response]], Callable[..., flask.Response]]:
        """Decorates a function that makes a response: the view that it becomes checks signatures, waits in
        the queue, is counted, and answers 502 or 504 if the model server is down or silent.

            @blueprint.post("/describe/<language>")
            @backend.counted_view(InputData)
            def describe(payload: InputData, job: Job, language: str) -> flask.Response: ...

        method: that for which it is registered. options: of an `EndpointHandler`.
        """

        def decorate(function: Callable[..., flask.Response]) -> Callable[..., flask.Response]:
            return self.create_handler(_handler_of(function, payload_cls, method)(**options))

        return decorate

    def _new_view_name(self, endpoint: str) -> str:
        """Flask identifies views by name, and in a blueprint the name must not contain a dot."""
        name = _NOT_IN_NAMES.sub("_", endpoint.strip("/")) or "root"
        taken = {view.__name__ for view in self.views}
        number = next(number for number in itertools.count(1) if _numbered(name, number) not in taken)
        return _numbered(name, number)

    def _is_parallel(self, handler: EndpointHandler[Any]) -> bool:
        own = handler.allow_parallel_requests
        return self.allow_parallel_requests if own is None else own

    def __repr__(self) -> str:
        return f"<Backend {self.client!r} {self._queue!r}>"


class ViewOptions(TypedDict, total=False):
    """Options of a `counted_view`; see `EndpointHandler`."""

    allow_parallel_requests: bool | None
    max_queue_time: float | None
    timeout: float | None
    priority: Priority
    is_open: bool


def _handler_of(
    function: Callable[..., flask.Response], wanted: type[ApiPayload], view_method: str
) -> type[FunctionHandler]:
    class ViewHandler(FunctionHandler):
        method = view_method
        shown_as = place_of(function)

        @property
        def endpoint(self) -> str:
            # Where it is registered is not known yet; this is its name in the figures.
            return f"/{function.__name__}"

        @classmethod
        def payload_cls(cls) -> type[ApiPayload]:
            return wanted

        def make_benchmark_payload(self) -> ApiPayload:
            return wanted.for_test()

    ViewHandler.function = staticmethod(function)
    return ViewHandler


def _numbered(name: str, number: int) -> str:
    return name if number == 1 else f"{name}_{number}"


def _with_settings(log_actions: LogActions, settings: Settings) -> LogActions:
    """The author's phrases. Those of the environment replace all of the same action."""
    chosen = {
        LogAction.ModelLoaded: settings.model_load_log_msg,
        LogAction.ModelError: settings.model_error_log_msgs,
        LogAction.Info: settings.model_info_log_msgs,
    }
    kept = [(action, phrase) for action, phrase in log_actions if chosen[action] is None]
    return [*kept, *((action, phrase) for action, phrases in chosen.items() for phrase in phrases or ())]
