"""The routes; the peer's twin of this is `peer_worker`."""

from __future__ import annotations

from dataclasses import dataclass

import flask
from typing_extensions import Self

from pyworker import responses
from pyworker.backend import Backend
from pyworker.config import Settings
from pyworker.data_types import ApiPayload, EndpointHandler, LogAction


@dataclass
class BenchData(ApiPayload):
    """What the stub model server is asked for."""

    tokens: int = 0
    gap_ms: int = 0
    response_bytes: int = 0
    prompt: str = ""

    @classmethod
    def for_test(cls) -> Self:
        return cls()

    def count_workload(self) -> float:
        return 1.0 + self.tokens


class GenerateHandler(responses.PassThrough, EndpointHandler[BenchData]):
    """The whole response."""

    @property
    def endpoint(self) -> str:
        return "/generate"

    @classmethod
    def payload_cls(cls) -> type[BenchData]:
        return BenchData

    def make_benchmark_payload(self) -> BenchData:
        return BenchData()


class StreamHandler(responses.Stream, GenerateHandler):
    """Token by token."""

    @property
    def endpoint(self) -> str:
        return "/stream"


def create_backend(settings: Settings) -> Backend:
    return Backend(
        model_server_url="http://127.0.0.1:5001",
        model_log_file=settings.model_log,
        allow_parallel_requests=True,
        benchmark_handler=GenerateHandler(),
        log_actions=[(LogAction.ModelLoaded, "model is loaded")],
        max_queue_time=30.0,
        health_endpoint="/health",
        settings=settings,
    )


def create_blueprint(backend: Backend) -> flask.Blueprint:
    blueprint = flask.Blueprint("bench", __name__)
    for handler in (GenerateHandler(), StreamHandler()):
        blueprint.add_url_rule(handler.endpoint, view_func=backend.create_handler(handler), methods=["POST"])
    return blueprint
