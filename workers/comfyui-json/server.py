"""The worker of templates that run ComfyUI behind the service's wrapper, on port 18288."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import flask

from pyworker import responses
from pyworker.backend import Backend
from pyworker.config import Settings
from pyworker.data_types import EndpointHandler, LogAction
from pyworker.runtime.sample import ResponseSample
from pyworker.server import start_server
from workers.comfyui.benchmark import BenchmarkWorkflow
from workers.comfyui.settings import BenchmarkSettings

from .data_types import WrapperRequest

MODEL_SERVER_URL = "http://127.0.0.1:18288"
LOG_FILE = Path("/var/log/portal/api-wrapper.log")
MAX_QUEUE_TIME = 10.0
# Of the benchmark; the first run loads the checkpoint.
_BENCHMARK_TIMEOUT = 300.0
# Within the first fields of the wrapper's response.
_FAILED = (b'"status":"failed"', b'"status": "failed"')


@dataclass(kw_only=True)
class GenerateHandler(responses.PassThrough, EndpointHandler[WrapperRequest]):
    """Passes requests on to the wrapper."""

    benchmark: BenchmarkWorkflow

    @property
    def endpoint(self) -> str:
        return "/generate/sync"

    @classmethod
    def payload_cls(cls) -> type[WrapperRequest]:
        return WrapperRequest

    def make_benchmark_payload(self) -> WrapperRequest:
        return WrapperRequest.of(self.benchmark.make())

    def find_failure(self, response: ResponseSample) -> str:
        if any(words in response.beginning for words in _FAILED):
            return "the wrapper's response says that the generation failed"
        return responses.error_in(response)


def create_backend(settings: Settings) -> Backend:
    """Where the wrapper is, and what its log lines mean."""
    benchmark = BenchmarkWorkflow(settings.read(BenchmarkSettings), Path(__file__).parent)
    return Backend(
        model_server_url=MODEL_SERVER_URL,
        model_log_file=LOG_FILE,
        allow_parallel_requests=False,
        benchmark_handler=GenerateHandler(benchmark=benchmark, benchmark_runs=2),
        log_actions=[
            # Before the line of success, which it begins with.
            (LogAction.ModelError, "BACKENDS_READY_TIMEOUT"),
            (LogAction.ModelError, "BACKEND_UNRECOVERABLE"),
            (LogAction.ModelError, "Application startup failed"),
            (LogAction.ModelLoaded, "BACKENDS_READY"),
        ],
        max_queue_time=MAX_QUEUE_TIME,
        benchmark_timeout=_BENCHMARK_TIMEOUT,
        health_endpoint="/health",
        settings=settings,
    )


def create_blueprint(backend: Backend) -> flask.Blueprint:
    """The route of this worker."""
    blueprint = flask.Blueprint("comfyui_json", __name__)
    handler = backend.benchmark_handler
    blueprint.add_url_rule(handler.endpoint, view_func=backend.create_handler(handler), methods=["POST"])
    return blueprint


if __name__ == "__main__":
    start_server("comfyui-json")
