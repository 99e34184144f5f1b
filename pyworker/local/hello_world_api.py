"""The routes of hello_world's inference server."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar, cast

import flask
from pydantic import ConfigDict, Field

from pyworker.errors import Unprocessable
from pyworker.local.generation import Ending, EngineFailure, Generation
from pyworker.local.model_api import ModelApi
from pyworker.local.model_engine import Engine
from pyworker.local.model_log import json_line
from pyworker.local.serving import json_errors
from pyworker.validation import STRICT, parse_fields

_STATUS = {Ending.DONE: 200, Ending.CUT: 499, Ending.FAILED: 500}


@dataclass(frozen=True)
class GenerateRequest:
    """The body of both generating routes."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    prompt: str
    max_response_tokens: Annotated[int, Field(ge=1, le=1_000_000)] | None = None


class HelloWorldApi(ModelApi):
    """Whole responses and streams of tokens."""

    loading_steps = 3  # the files that it pretends to download

    def add_routes(self, app: flask.Flask, engine: Engine) -> None:
        routes = _Routes(engine)
        app.add_url_rule("/healthcheck", view_func=routes.health, methods=["GET"])
        app.add_url_rule("/generate", view_func=routes.generate, methods=["POST"])
        app.add_url_rule("/generate_stream", view_func=routes.generate_stream, methods=["POST"])
        json_errors(app)
        app.register_error_handler(EngineFailure, _failed_response)
        app.after_request(routes.log_response)

    def loading_lines(self, step: int) -> Sequence[str]:
        return [json_line(f"Download file {step + 1}/{self.loading_steps} of the model")]

    def loaded_lines(self, url: str) -> Sequence[str]:
        return [json_line(f"infer server has started on {url}")]

    def failed_lines(self, path: str, reason: str) -> Sequence[str]:
        return [json_line(f"Exception: corrupted model file: {path}: {reason}", level="ERROR")]


class _Routes:
    """Views; any thread may call them."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def health(self) -> flask.Response:
        self._engine.loaded_model()
        return flask.jsonify(status="ok")

    def generate(self) -> flask.Response:
        generation = self._begin()
        with contextlib.closing(generation.items()) as tokens:
            return flask.jsonify(response="".join(tokens), tokens=generation.count)

    def generate_stream(self) -> flask.Response:
        response = flask.Response(_events(self._begin()), mimetype="text/event-stream")
        response.headers["Cache-Control"] = "no-cache"
        return response

    def log_response(self, response: flask.Response) -> flask.Response:
        # A generation writes its own line when it ends. A path without a route may hold anything: not copied.
        if "generates" not in flask.g:
            rule = flask.request.url_rule
            path = "unknown path" if rule is None else rule.rule
            self._engine.log.write(json_line(f"{flask.request.method} {path} {response.status_code}"))
        return response

    def _begin(self) -> Generation[str]:
        engine = self._engine
        model = engine.loaded_model()
        wanted = parse_fields(GenerateRequest, _json_object(flask.request.get_data()))
        path = flask.request.path
        flask.g.generates = True
        seen = engine.stats.see(flask.request)

        def log(ending: Ending, count: int, seconds: float) -> None:
            engine.stats.end(seen, ending.value, count)
            text = f"POST {path} {_STATUS[ending]}, {count} tokens in {seconds:.3f} s"
            engine.log.write(json_line(text))

        tokens = model.generate(wanted.prompt, wanted.max_response_tokens, engine.rng(wanted.prompt))
        return engine.generate(tokens, log)


def _events(generation: Generation[str]) -> Generator[str]:
    """The tokens as server-sent events."""
    with contextlib.closing(generation.items()) as tokens:
        for token in tokens:
            yield f"data: {json.dumps({'token': token})}\n\n"
    yield "data: [DONE]\n\n"


def _json_object(body: bytes) -> dict[str, object]:
    try:
        decoded: object = json.loads(body)
    except (ValueError, RecursionError):  # the latter for a body of a hundred thousand brackets
        decoded = None
    if not isinstance(decoded, dict):
        raise Unprocessable("the body must be a JSON object")
    fields = cast("dict[str, object]", decoded)
    if isinstance(prompt := fields.get("prompt"), str):
        fields["prompt"] = prompt.encode("utf-8", "replace").decode()  # JSON can carry half a character
    return fields


def _failed_response(error: EngineFailure) -> tuple[flask.Response, int]:
    return flask.jsonify(error=str(error)), 500
