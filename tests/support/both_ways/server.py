"""The routes: each has the same path on the model server."""

from __future__ import annotations

from dataclasses import dataclass

import flask
import requests

from pyworker import responses
from pyworker.data_types import EndpointHandler, LogAction
from pyworker.routes import worker
from pyworker.runtime.sample import ResponseSample
from tests.support.echo_worker.server import EchoData
from tests.support.stack import LOADED_LINE


@dataclass(kw_only=True)
class _Base(EndpointHandler[EchoData]):
    path: str

    @property
    def endpoint(self) -> str:
        return self.path

    @classmethod
    def payload_cls(cls) -> type[EchoData]:
        return EchoData

    def make_benchmark_payload(self) -> EchoData:
        return EchoData("a prompt of the benchmark")

    def find_failure(self, response: ResponseSample) -> str:
        return responses.error_in(response)


class DirectPass(responses.PassThrough, _Base):
    pass


class DirectStream(responses.Stream, _Base):
    pass


class ObjectPass(_Base):
    def generate_client_response(
        self, client_request: flask.Request, model_response: requests.Response
    ) -> flask.Response:
        return responses.pass_through(model_response)


class ObjectStream(_Base):
    def generate_client_response(
        self, client_request: flask.Request, model_response: requests.Response
    ) -> flask.Response:
        return responses.stream(model_response)


BENCHMARK = ObjectPass(path="/pass", benchmark_runs=1, concurrency=1)

create_backend, create_blueprint = worker(
    "http://127.0.0.1:5001",
    BENCHMARK,
    DirectPass(path="/direct/pass"),
    DirectStream(path="/direct/stream"),
    DirectPass(path="/direct/serial", allow_parallel_requests=False),
    ObjectPass(path="/objects/pass"),
    ObjectStream(path="/objects/stream"),
    ObjectPass(path="/objects/serial", allow_parallel_requests=False),
    log=[(LogAction.ModelLoaded, LOADED_LINE)],
    parallel=True,
    benchmark=BENCHMARK,
)
