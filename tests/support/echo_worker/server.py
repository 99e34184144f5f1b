"""The routes: each has the same path on the model server."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import flask
import requests
from typing_extensions import Self

from pyworker import responses
from pyworker.backend import Backend
from pyworker.config import Settings
from pyworker.data_types import ApiPayload, EndpointHandler, LogAction
from pyworker.runtime.sample import ResponseSample

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


def exit_process(model_response: requests.Response) -> flask.Response:
    raise SystemExit(f"a handler that ends the process, after {model_response.status_code}")


def nothing(model_response: requests.Response) -> Any:
    """A handler without a return statement."""


def with_header(name: str, value: str) -> Answering:
    def answer(model_response: requests.Response) -> flask.Response:
        response = responses.pass_through(model_response)
        response.headers[name] = value
        return response

    return answer


def with_body(make: Callable[[], Any]) -> Answering:
    def answer(model_response: requests.Response) -> flask.Response:
        response = responses.pass_through(model_response)
        response.response = make()
        return response

    return answer


def exit_at_once() -> Iterator[bytes]:
    raise SystemExit
    yield b""


def exit_later() -> Iterator[bytes]:
    yield b"x"
    raise SystemExit


def with_broken_callback(model_response: requests.Response) -> flask.Response:
    def fail() -> None:
        raise RuntimeError("a fault of the handler at the end")

    response = responses.pass_through(model_response)
    response.call_on_close(fail)
    return response


#: What handlers may do wrong; each is a serial route, so that a slot that is lost shows.
RUDE: dict[str, Answering] = {
    "exception": fail,
    "exit": exit_process,
    "nothing": nothing,
    "no-latin-1": with_header("X-Name", "\u4e16\u754c"),
    "control": with_header("X-Name", "\x01"),
    "location": with_header("Location", "http://[::1"),
    "no-iterable": with_body(lambda: 7),
    "no-bytes": with_body(lambda: [7, 8]),
    "exit-at-once": with_body(exit_at_once),
    "exit-later": with_body(exit_later),
    "callback": with_broken_callback,
}


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
    handlers += [
        EchoHandler(path=f"/rude/{name}", allow_parallel_requests=False, answering=answering)
        for name, answering in RUDE.items()
    ]
    for handler in handlers:
        blueprint.add_url_rule(handler.endpoint, view_func=backend.create_handler(handler), methods=["POST"])
    blueprint.add_url_rule("/frozen", view_func=lambda: str(gc.get_freeze_count()))
    return blueprint
