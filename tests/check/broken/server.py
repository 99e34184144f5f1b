"""A worker with a fault in each route."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import flask
import requests
from typing_extensions import Self

from pyworker import routes
from pyworker.backend import Backend
from pyworker.data_types import ApiPayload, OpenPayload
from pyworker.jobs import Job
from pyworker.routes import Post

_EXAMPLE = {"prompt": "tide"}


@dataclass
class Good(ApiPayload):
    prompt: str

    @classmethod
    def for_test(cls) -> Self:
        return cls("tide")

    def count_workload(self) -> float:
        return 2.0


@dataclass
class Trusting(Good):
    """Believes that clients send what it needs."""

    @classmethod
    def from_json_msg(cls, json_msg: Mapping[str, Any]) -> Self:
        return cls(json_msg["prompt"].strip())


@dataclass
class Negative(Good):
    def count_workload(self) -> float:
        return -1.0


@dataclass
class Forgetful(OpenPayload):
    """Drops what it does not declare."""

    prompt: str

    @classmethod
    def for_test(cls) -> Self:
        return cls("tide")

    def count_workload(self) -> float:
        return 1.0

    def generate_payload_json(self) -> dict[str, Any]:
        return {"prompt": self.prompt}


def always_well(model_response: requests.Response) -> flask.Response:
    return flask.jsonify(said=model_response.headers.get("Content-Type"))


def unguarded(model_response: requests.Response) -> flask.Response:
    return flask.jsonify(model_response.json()["generated_text"])


def with_own_client(payload: Good, job: Job) -> flask.Response:
    url = flask.current_app.extensions["pyworker"].backend.client.base_url
    return job.respond(requests.post(f"{url}/own", json={"prompt": payload.prompt}, timeout=12).json())


create_backend, _create_blueprint = routes.worker(
    "http://127.0.0.1:1",
    Post("/good", Good, benchmark=_EXAMPLE, runs=1),
    Post("/trusting", Trusting),
    Post("/negative", Negative),
    Post("/forgetful", Forgetful),
    Post("/hiding", Good, respond=always_well),
    Post("/unguarded", Good, respond=unguarded),
    Post("/own-client", Good, perform=with_own_client),
    Post("/uncounted", Good),
    health="/health",
    parallel=True,
)


def create_blueprint(backend: Backend) -> flask.Blueprint:
    blueprint = _create_blueprint(backend)

    @blueprint.before_app_request
    def answer() -> flask.Response | None:  # pyright: ignore[reportUnusedFunction]
        if flask.request.path != "/uncounted" or flask.request.method != "POST":
            return None
        answered = requests.post(f"{backend.client.base_url}/x", json=flask.request.get_json(), timeout=2)
        return flask.Response(answered.content, answered.status_code)

    @blueprint.app_errorhandler(404)
    def not_found(_error: Exception) -> tuple[str, int]:  # pyright: ignore[reportUnusedFunction]
        return "<h1>Not here</h1>", 404

    @blueprint.post("/loose")
    def loose() -> str:  # pyright: ignore[reportUnusedFunction]
        return "done"

    return blueprint
