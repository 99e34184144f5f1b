"""The worker of a server with OpenAI's API, and what the workers of single engines make theirs of."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import flask

from pyworker import responses
from pyworker.backend import Backend
from pyworker.config import Settings
from pyworker.data_types import Dialect, EndpointHandler, Form, HiddenEvents, ResponseSample
from pyworker.engines import LLAMA_CPP, SGLANG, VLLM
from pyworker.lifecycle.log_lines import LogActions
from pyworker.routes import Get, blueprint_of
from pyworker.server import start_server
from workers.openai import routes
from workers.openai.data_types.base import OpenAIPayload
from workers.openai.data_types.forms import UploadPayload
from workers.openai.data_types.text import UsagePayload
from workers.openai.settings import OpenAISettings
from workers.openai.settlement import tokens_of

MODEL_SERVER_URL = "http://127.0.0.1:18000"
MAX_QUEUE_TIME = 600.0
#: SGLang's may generate a token for its answer.
HEALTH_TIMEOUT = 30.0
#: Pictures and videos take minutes, and so does a first request that compiles.
BENCHMARK_TIMEOUT = 600.0

AnyPayload = OpenAIPayload | UploadPayload


@dataclass(frozen=True)
class Engine:
    """What is particular to one server.

    log_file: where the images of the service have its log; MODEL_LOG wins. models: variables with the name of
    its model, the first that is set counts.
    """

    log: LogActions
    log_file: str | None
    models: Sequence[str]


@dataclass(kw_only=True)
class OpenAIHandler(responses.PassThrough, EndpointHandler[Any]):
    """One route. name: that in `routes`; model: put into requests that name none, unless it is empty."""

    dialect = Dialect.OPENAI

    name: str
    model: str
    options: OpenAISettings

    @property
    def route(self) -> routes.Route:
        return routes.ROUTES[self.name]

    @property
    def endpoint(self) -> str:
        return f"/v1/{self.name}"

    def make_benchmark_payload(self) -> AnyPayload:
        return self.route.payload.for_benchmark(self.options)

    def generate_payload_json(self, payload: AnyPayload) -> dict[str, Any]:
        fields = payload.generate_payload_json()
        if self.model and not fields.get("model"):
            fields["model"] = self.model
        return fields

    def generate_payload_multipart(self, payload: AnyPayload) -> Form | None:
        form = payload.generate_payload_multipart()
        if form is None or not self.model or any(name == "model" and text for name, text in form.fields):
            return form
        others = [(name, text) for name, text in form.fields if name != "model"]
        return dataclasses.replace(form, fields=[*others, ("model", self.model)])

    def hidden_events(self, payload: AnyPayload) -> HiddenEvents | None:
        if isinstance(payload, UsagePayload) and payload.stream and not payload.asks_for_usage:
            return USAGE_EVENT
        return None

    def count_work(self, response: ResponseSample) -> float | None:
        if not self.route.payload.in_tokens:
            return None
        return tokens_of(response, self.route.preamble)

    def find_failure(self, response: ResponseSample) -> str:
        return responses.error_in(response)


def _has_usage_alone(event: bytes) -> bool:
    """Whether an event is what `include_usage` adds to a stream: `usage`, and no choices."""
    data = b"\n".join(line[5:] for line in event.splitlines() if line.startswith(b"data:"))
    try:
        chunk: object = json.loads(data)
    except (ValueError, RecursionError):
        return False
    fields = cast("dict[str, object]", chunk) if isinstance(chunk, dict) else {}
    return fields.get("choices") == [] and isinstance(fields.get("usage"), dict)


#: No other event of a stream has this key: within a text its quotes would be escaped.
USAGE_EVENT = HiddenEvents(b'"completion_tokens"', _has_usage_alone)


def handler_of(name: str, engine: Engine, options: OpenAISettings) -> OpenAIHandler:
    """The handler of a route."""
    route = routes.ROUTES[name]

    class RouteHandler(OpenAIHandler):
        @classmethod
        def payload_cls(cls) -> type[AnyPayload]:
            return route.payload

    return RouteHandler(
        name=name,
        model=options.model_of(engine.models),
        options=options,
        benchmark_runs=route.rounds,
        concurrency=route.at_once,
    )


def worker_of(
    engine_of: Callable[[OpenAISettings], Engine],
) -> tuple[Callable[[Settings], Backend], Callable[[Backend], flask.Blueprint]]:
    """The functions `create_backend` and `create_blueprint` of a worker. engine_of: by its settings."""

    def create_backend(settings: Settings) -> Backend:
        """Where the model server is, and what its log lines mean."""
        options = settings.read(OpenAISettings)
        engine = engine_of(options)
        routes.served(options)  # raises ConfigError
        return Backend(
            MODEL_SERVER_URL,
            engine.log_file,
            True,
            handler_of(routes.benchmarked(options), engine, options),
            engine.log,
            max_queue_time=MAX_QUEUE_TIME,
            benchmark_timeout=BENCHMARK_TIMEOUT,
            health_endpoint="/health",
            health_timeout=HEALTH_TIMEOUT,
            settings=settings,
        )

    def create_blueprint(backend: Backend) -> flask.Blueprint:
        """The routes that are served, and the list of models."""
        options = backend.settings.read(OpenAISettings)
        engine = engine_of(options)
        handlers = [handler_of(name, engine, options) for name in routes.served(options)]
        return blueprint_of(backend, [*handlers, Get("/v1/models").handler()])

    return create_backend, create_blueprint


_MODELS = ("MODEL_NAME", "VLLM_MODEL", "SGLANG_MODEL", "LLAMA_MODEL")


def _engine_of(options: OpenAISettings) -> Engine:
    """By the variable that names the model; vLLM's lines if that says nothing."""
    log = VLLM
    if not options.vllm_model and (options.sglang_model or options.llama_model):
        log = SGLANG if options.sglang_model else LLAMA_CPP
    return Engine(log, None, _MODELS)


create_backend, create_blueprint = worker_of(_engine_of)

if __name__ == "__main__":
    start_server("openai")
