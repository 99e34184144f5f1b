"""hello_world's worker: two routes to an LLM server on port 5001."""

from __future__ import annotations

import flask

from pyworker import responses
from pyworker.backend import Backend
from pyworker.config import Settings
from pyworker.data_types import EndpointHandler, LogAction
from pyworker.runtime.sample import ResponseSample
from pyworker.server import start_server
from workers.hello_world.data_types import InputData

MODEL_SERVER_URL = "http://127.0.0.1:5001"


class GenerateHandler(responses.PassThrough, EndpointHandler[InputData]):
    """The whole text, as JSON."""

    @property
    def endpoint(self) -> str:
        return "/generate"

    @classmethod
    def payload_cls(cls) -> type[InputData]:
        return InputData

    def make_benchmark_payload(self) -> InputData:
        return InputData.of_random_words(self.benchmark_words)

    def find_failure(self, response: ResponseSample) -> str:
        return responses.error_in(response)


class GenerateStreamHandler(responses.Stream, GenerateHandler):
    """One token at a time, as server-sent events."""

    @property
    def endpoint(self) -> str:
        return "/generate_stream"


def create_backend(settings: Settings) -> Backend:
    """Where the model server is, and what its log lines mean."""
    return Backend(
        model_server_url=MODEL_SERVER_URL,
        model_log_file=settings.model_log,
        allow_parallel_requests=True,
        benchmark_handler=GenerateHandler(benchmark_runs=3, benchmark_words=256),
        log_actions=[
            (LogAction.ModelLoaded, "server has started"),
            (LogAction.ModelError, "Exception: corrupted model file"),
            (LogAction.Info, '"message":"Download'),
        ],
        settings=settings,
    )


def create_blueprint(backend: Backend) -> flask.Blueprint:
    """The routes of this worker."""
    blueprint = flask.Blueprint("hello_world", __name__)
    for handler in (GenerateHandler(), GenerateStreamHandler()):
        blueprint.add_url_rule(handler.endpoint, view_func=backend.create_handler(handler), methods=["POST"])
    return blueprint


if __name__ == "__main__":
    start_server("hello_world")
