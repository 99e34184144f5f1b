"""The OpenAI-compatible API as a face of the local model server."""

from __future__ import annotations

import hmac
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import flask
from werkzeug.exceptions import HTTPException

from pyworker.errors import NotReady
from pyworker.local.generation import EngineFailure
from pyworker.local.model_api import ModelApi
from pyworker.local.model_engine import Engine
from pyworker.local.openai_api import audio, completions, images, messages, pooling, responses
from pyworker.local.openai_api.api_error import ApiError, engine_failed
from pyworker.local.openai_api.events import route, whole
from pyworker.local.openai_api.face import Face
from pyworker.local.openai_api.service import Service
from pyworker.local.openai_api.sglang import Sglang
from pyworker.local.openai_api.vllm import Vllm

MODEL = "local-model"
CONTEXT = 8192
FACES: Mapping[str, type[Face]] = {face.name: face for face in (Vllm, Sglang)}


@dataclass(eq=False)
class OpenAIApi(ModelApi):
    """model: the name it is served under; context: the most tokens of prompt and response together.

    api_key: what requests to `/v1` have to bring as a bearer token; empty for none.
    """

    engine: str = "vllm"
    model: str = MODEL
    context: int = CONTEXT
    api_key: str = field(default="", repr=False)

    def __post_init__(self) -> None:
        self._face = FACES[self.engine]()
        self.loading_steps = self._face.loading_steps

    def add_routes(self, app: flask.Flask, engine: Engine) -> None:
        service = Service(engine, self._face, self.model, self.context)
        gate = _Gate(service, self.api_key)
        app.before_request(gate.let_in)
        app.after_request(gate.log_response)
        app.register_error_handler(ApiError, gate.refused)
        app.register_error_handler(EngineFailure, gate.failed)
        app.register_error_handler(NotReady, gate.not_ready)
        app.register_error_handler(HTTPException, gate.unknown)
        route(app, "/health", lambda: flask.Response(""), "GET")
        route(app, "/v1/models", lambda: _models(service), "GET")
        for module in (completions, responses, messages, pooling, audio, images):
            module.add_routes(app, service)
        self._face.add_routes(app, service)

    def loading_lines(self, step: int) -> Sequence[str]:
        return self._face.loading_lines(step, self.model)

    def loaded_lines(self, url: str) -> Sequence[str]:
        return self._face.loaded_lines(url)

    def failed_lines(self, path: str, reason: str) -> Sequence[str]:
        return self._face.failed_lines(path, reason)


@dataclass(frozen=True, eq=False)
class _Gate:
    """What happens before and after the views. Any thread may call it."""

    service: Service
    api_key: str

    def let_in(self) -> flask.Response | None:
        if flask.request.path == "/stats":
            return None
        flask.g.seen = self.service.engine.stats.see(flask.request)
        if self.api_key and flask.request.path.startswith("/v1"):
            given = flask.request.headers.get("Authorization", "").removeprefix("Bearer ")
            if not hmac.compare_digest(given.encode(), self.api_key.encode()):
                return whole({"error": "Unauthorized"}, 401)
        self.service.engine.loaded_model()
        return None

    def log_response(self, response: flask.Response) -> flask.Response:
        request = flask.request
        # A path without a route may hold anything: it is not copied.
        path = "-" if request.url_rule is None else request.url_rule.rule
        client = f"{request.remote_addr}:{request.environ.get('REMOTE_PORT', 0)}"
        face = self.service.face
        self.service.engine.log.write(
            face.access_line(client, f"{request.method} {path} HTTP/1.1", response.status.title())
        )
        return response

    def refused(self, error: ApiError) -> flask.Response:
        if flask.request.path == messages.PATH:
            return whole(messages.error_body(error.as_json()), error.status)
        return whole(self.service.face.error_body(error), error.status)

    def failed(self, error: EngineFailure) -> flask.Response:
        return self.refused(engine_failed(str(error)))

    def not_ready(self, error: NotReady) -> flask.Response:
        return self.refused(ApiError(str(error), status=503, kind="ServiceUnavailableError"))

    def unknown(self, error: HTTPException) -> flask.Response:
        """As the engines' web framework says it."""
        return whole({"detail": error.name}, error.code or 500)


def _models(service: Service) -> flask.Response:
    card = {
        "id": service.model,
        "object": "model",
        "created": int(time.time()),
        "owned_by": service.face.name,
        "root": service.model,
        "parent": None,
        "max_model_len": service.context,
    }
    return whole({"object": "list", "data": [card]})
