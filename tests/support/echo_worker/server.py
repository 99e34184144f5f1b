"""The routes: each has the same path on the model server."""

from __future__ import annotations

import gc
from collections.abc import Callable
from dataclasses import dataclass

import flask
import requests
from typing_extensions import Self

from pyworker import responses
from pyworker.backend import Backend
from pyworker.config import Settings
from pyworker.data_types import ApiPayload, EndpointHandler, LogAction
from pyworker.sample import ResponseSample

Answering = Callable[[requests.Response], flask.Response]


@dataclass
class EchoData(ApiPayload):
    """A prompt and how much work it is."""

    prompt: str
    work: float = 1.0

    @classmethod
    def for_test(cls) -> Self:
        return cls("a prompt of a load test")

    def count_workload(self) -> float:
        return self.work


@dataclass(kw_only=True)
class EchoHandler(EndpointHandler[EchoData]):
    """One route; `answering` turns the model's answer into the client's."""

    path: str
    answering: Answering = responses.pass_through

    @property
    def endpoint(self) -> str:
        return self.path

    @classmethod
    def payload_cls(cls) -> type[EchoData]:
        return EchoData

    def make_benchmark_payload(self) -> EchoData:
        return EchoData("a prompt of the benchmark", work=10.0)

    def generate_client_response(
        self, client_request: flask.Request, model_response: requests.Response
    ) -> flask.Response:
        return self.answering(model_response)


@dataclass(kw_only=True)
class JudgingHandler(EchoHandler):
    """Finds error objects in responses with status 200."""

    def find_failure(self, response: ResponseSample) -> str:
        if response.beginning == b"judge fails":
            raise RuntimeError("a fault of find_failure")
        return responses.error_in(response)


def fail(model_response: requests.Response) -> flask.Response:
    """A handler with a fault."""
    raise RuntimeError(f"a fault of the handler, after the model answered {model_response.status_code}")


def create_backend(settings: Settings) -> Backend:
    return Backend(
        model_server_url="http://127.0.0.1:5001",
        model_log_file=settings.model_log,
        allow_parallel_requests=True,
        benchmark_handler=EchoHandler(path="/benchmark", benchmark_runs=2, concurrency=3),
        log_actions=[
            (LogAction.ModelLoaded, "echo model is loaded"),
            (LogAction.ModelError, "echo model has failed"),
            (LogAction.Info, "echo model says"),
        ],
        settings=settings,
    )


def create_blueprint(backend: Backend) -> flask.Blueprint:
    blueprint = flask.Blueprint("echo", __name__)
    handlers = [
        EchoHandler(path="/pass"),
        EchoHandler(path="/stream", answering=responses.stream),
        EchoHandler(path="/json", answering=responses.json_response),
        EchoHandler(path="/copy", answering=responses.copy),
        EchoHandler(path="/serial", allow_parallel_requests=False),
        EchoHandler(path="/serial/stream", allow_parallel_requests=False, answering=responses.stream),
        EchoHandler(path="/serial/fail", allow_parallel_requests=False, answering=fail),
        EchoHandler(path="/serial/limited", allow_parallel_requests=False, max_queue_time=2.0),
        JudgingHandler(path="/judged"),
        JudgingHandler(path="/judged/stream", answering=responses.stream),
        JudgingHandler(path="/judged/json", answering=responses.json_response),
    ]
    for handler in handlers:
        blueprint.add_url_rule(handler.endpoint, view_func=backend.create_handler(handler), methods=["POST"])
    blueprint.add_url_rule("/frozen", view_func=lambda: str(gc.get_freeze_count()))
    return blueprint
