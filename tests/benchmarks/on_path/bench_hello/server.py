"""The routes; hello_world itself forwards none of the fields that steer the stub model server."""

from __future__ import annotations

import flask
from bench_worker.server import GenerateHandler, StreamHandler, create_backend

from pyworker import responses
from pyworker.backend import Backend
from pyworker.routes import blueprint_of
from pyworker.runtime.sample import ResponseSample

__all__ = ["create_backend", "create_blueprint"]


class JudgingHandler(GenerateHandler):
    """The whole response."""

    def find_failure(self, response: ResponseSample) -> str:
        return responses.error_in(response)


class JudgingStreamHandler(StreamHandler):
    """Token by token."""

    def find_failure(self, response: ResponseSample) -> str:
        return responses.error_in(response)


def create_blueprint(backend: Backend) -> flask.Blueprint:
    return blueprint_of(backend, [JudgingHandler(), JudgingStreamHandler()])
