"""TGI's worker: its two generating routes."""

from __future__ import annotations

import flask
import requests

from pyworker import responses
from pyworker.backend import Backend
from pyworker.config import Settings
from pyworker.data_types import EndpointHandler
from pyworker.engines import TGI
from pyworker.routes import blueprint_of
from pyworker.runtime.sample import ResponseSample
from pyworker.server import start_server
from workers.tgi.data_types import TEST_WORDS, GeneratePayload
from workers.tgi.settlement import tokens_of

MODEL_SERVER_URL = "http://127.0.0.1:5001"
#: Where the images of the service have it; MODEL_LOG wins.
MODEL_LOG = "/workspace/infer.log"
MAX_QUEUE_TIME = 600.0


class GenerateHandler(EndpointHandler[GeneratePayload]):
    """The whole text, as JSON."""

    @property
    def endpoint(self) -> str:
        return "/generate"

    @classmethod
    def payload_cls(cls) -> type[GeneratePayload]:
        return GeneratePayload

    def make_benchmark_payload(self) -> GeneratePayload:
        return GeneratePayload.of_random_words(self.benchmark_words)

    def generate_client_response(
        self, client_request: flask.Request, model_response: requests.Response
    ) -> flask.Response:
        return responses.pass_through(model_response)

    def count_work(self, response: ResponseSample) -> float | None:
        return tokens_of(response)

    def find_failure(self, response: ResponseSample) -> str:
        # What is wrong with a request for a stream, TGI says within the stream, with status 200.
        return responses.error_in(response)


class GenerateStreamHandler(GenerateHandler):
    """One token at a time, as server-sent events."""

    @property
    def endpoint(self) -> str:
        return "/generate_stream"

    def generate_client_response(
        self, client_request: flask.Request, model_response: requests.Response
    ) -> flask.Response:
        return responses.stream(model_response)


def create_backend(settings: Settings) -> Backend:
    """Where the model server is, and what its log lines mean."""
    return Backend(
        model_server_url=MODEL_SERVER_URL,
        model_log_file=MODEL_LOG,
        allow_parallel_requests=True,
        benchmark_handler=GenerateHandler(benchmark_runs=3, benchmark_words=TEST_WORDS),
        log_actions=TGI,
        max_queue_time=MAX_QUEUE_TIME,
        concurrency=10,
        health_endpoint="/health",
        settings=settings,
    )


def create_blueprint(backend: Backend) -> flask.Blueprint:
    """The routes of this worker."""
    return blueprint_of(backend, [GenerateHandler(), GenerateStreamHandler()])


if __name__ == "__main__":
    start_server("tgi")
