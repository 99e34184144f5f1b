"""The API of Text Generation Inference (TGI), by its published routes, shapes and log."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import flask

from pyworker.errors import JsonDataException, NotReady, Unprocessable
from pyworker.local.generation import Ending, EngineFailure, Generation
from pyworker.local.model_api import ModelApi
from pyworker.local.model_engine import Engine
from pyworker.local.model_log import json_line
from pyworker.local.model_stats import SeenRequest
from pyworker.local.tgi_text import GenerateRequest, Parameters, TgiError, TgiText
from pyworker.validation import parse_fields

VERSION = "3.3.4"
MODEL = "local-model"
DEFAULT_TOKENS = 100
LAUNCHER, ROUTER = "text_generation_launcher", "text_generation_router::server"


@dataclass(eq=False)
class TgiApi(ModelApi):
    """max_input, max_total: tokens of a prompt, and of a prompt with its response."""

    model: str = MODEL
    max_input: int = 4095
    max_total: int = 4096

    loading_steps = 3

    def add_routes(self, app: flask.Flask, engine: Engine) -> None:
        routes = _Routes(engine, self)
        views = {
            "/generate": routes.generate,
            "/generate_stream": routes.generate_stream,
            "/": routes.either,
        }
        for path, view in views.items():
            app.add_url_rule(path, path, view, methods=["POST"])
        app.add_url_rule("/health", view_func=routes.health, methods=["GET"])
        app.add_url_rule("/info", view_func=routes.info, methods=["GET"])
        app.add_url_rule("/v1/models", view_func=routes.models, methods=["GET"])
        app.register_error_handler(TgiError, _refused)
        app.register_error_handler(EngineFailure, lambda error: _refused(_failed(error)))
        app.register_error_handler(NotReady, lambda _: _refused(TgiError("unhealthy", "healthcheck", 503)))
        app.register_error_handler(Unprocessable, _undecoded)

    def loading_lines(self, step: int) -> Sequence[str]:
        text = (
            f"Starting check and download process for {self.model}",
            "Download file: model.safetensors",
            "Starting shard",
        )[step]
        return [json_line(text, target=LAUNCHER)]

    def loaded_lines(self, url: str) -> Sequence[str]:  # noqa: ARG002
        return [
            json_line("Starting Webserver", target=LAUNCHER),
            json_line("Connected", target=ROUTER),
        ]

    def failed_lines(self, path: str, reason: str) -> Sequence[str]:
        return [
            json_line(
                f"Shard complete standard error output: {path}: {reason}", level="ERROR", target=LAUNCHER
            ),
            json_line("Shutting down shards", target=LAUNCHER),
            "Error: ShardCannotStart",
        ]


class _Routes:
    """Views; any thread may call them."""

    def __init__(self, engine: Engine, api: TgiApi) -> None:
        self._engine = engine
        self._api = api

    def health(self) -> flask.Response:
        self._engine.loaded_model()
        return flask.Response("")

    def info(self) -> flask.Response:
        self._engine.loaded_model()
        return _json(
            {
                "model_id": self._api.model,
                "model_sha": None,
                "model_pipeline_tag": "text-generation",
                "max_concurrent_requests": 128,
                "max_best_of": 1,
                "max_stop_sequences": 16,
                "max_input_tokens": self._api.max_input,
                "max_total_tokens": self._api.max_total,
                "validation_workers": 2,
                "max_client_batch_size": 4,
                "router": "text-generation-router",
                "version": VERSION,
                "sha": None,
                "docker_label": None,
            }
        )

    def models(self) -> flask.Response:
        self._engine.loaded_model()
        card = {"id": self._api.model, "object": "model", "created": 0, "owned_by": self._api.model}
        return _json({"object": "list", "data": [card]})

    def generate(self) -> flask.Response:
        return self._whole(self._request())

    def generate_stream(self) -> flask.Response:
        return self._stream(self._request())

    def either(self) -> flask.Response:
        """Where `InferenceClient` posts if it is given the server's URL alone."""
        request = self._request()
        return self._stream(request) if request.stream else self._whole(request, in_list=True)

    def _request(self) -> GenerateRequest:
        self._engine.loaded_model()
        flask.g.seen = self._engine.stats.see(flask.request)
        try:
            decoded: object = json.loads(flask.request.get_data())
        except (ValueError, RecursionError):
            raise Unprocessable("Failed to parse the request body as JSON") from None
        if not isinstance(decoded, dict):
            raise Unprocessable("Failed to deserialize the JSON body into the target type: not an object")
        return parse_fields(GenerateRequest, cast("dict[str, object]", decoded))

    def _whole(self, request: GenerateRequest, *, in_list: bool = False) -> flask.Response:
        started = time.monotonic()
        sequence, generation = self._begin(request)
        with contextlib.closing(generation.items()) as tokens:
            for _ in tokens:
                pass
        body: dict[str, Any] = {"generated_text": sequence.generated_text}
        if sequence.parameters.details or sequence.parameters.decoder_input_details:
            body["details"] = {**sequence.details(), "prefill": [], "tokens": sequence.tokens}
        response = _json([body] if in_list else body)
        headers = {
            **_compute_headers(request),
            "x-total-time": str(round((time.monotonic() - started) * 1000)),
            "x-prompt-tokens": str(sequence.input_length),
            "x-generated-tokens": str(len(sequence.tokens)),
        }
        response.headers.extend(headers)
        return response

    def _stream(self, request: GenerateRequest) -> flask.Response:
        # Everything that is wrong is said within the stream, whose status is 200.
        try:
            parameters = request.parameters or Parameters()
            if (parameters.best_of or 1) != 1:
                raise _invalid("`best_of` != 1 is not allowed in stream mode")
            if parameters.decoder_input_details:
                raise _invalid("`decoder_input_details` == true is not supported when streaming tokens")
            events = _events(*self._begin(request))
        except TgiError as error:
            events = iter([_event(error.as_json())])
        response = flask.Response(events, mimetype="text/event-stream")
        response.headers.extend({**_compute_headers(request), "x-accel-buffering": "no"})
        response.headers["Cache-Control"] = "no-cache"
        return response

    def _begin(self, request: GenerateRequest) -> tuple[TgiText, Generation[Mapping[str, Any]]]:
        parameters = request.parameters or Parameters()
        length = len(request.inputs.split()) + 1
        limit = DEFAULT_TOKENS if parameters.max_new_tokens is None else parameters.max_new_tokens
        self._check(request, length, limit)
        engine, seen = self._engine, cast("SeenRequest", flask.g.seen)
        prompt = request.inputs.encode("utf-8", "replace").decode()
        source = engine.loaded_model().generate(prompt, None, engine.rng(prompt, parameters.seed))
        sequence = TgiText(request, parameters, source, limit, length)
        engine.stats.prompt(seen, length)

        def end(ending: Ending, count: int, _seconds: float) -> None:
            engine.stats.end(seen, ending.value, count)
            if ending is Ending.DONE:
                engine.log.write(json_line("Success", target=ROUTER))

        return sequence, engine.generate(sequence.steps(), end)

    def _check(self, request: GenerateRequest, length: int, limit: int) -> None:
        """Raise `TgiError` if the context has no room."""
        if not request.inputs:
            raise _invalid("`inputs` cannot be empty")
        if limit == 0:
            raise _invalid("`max_new_tokens` must be strictly positive")
        if length > self._api.max_input:
            raise _invalid(f"`inputs` must have less than {self._api.max_input} tokens. Given: {length}")
        if length + limit > self._api.max_total:
            raise _invalid(
                f"`inputs` tokens + `max_new_tokens` must be <= {self._api.max_total}. Given: {length} "
                f"`inputs` tokens and {limit} `max_new_tokens`"
            )


def _events(sequence: TgiText, generation: Generation[Mapping[str, Any]]) -> Generator[str]:
    """An event for each token; the last one has the whole text, and the details if they are asked for."""
    try:
        with contextlib.closing(generation.items()) as tokens:
            for token in tokens:
                event: dict[str, Any] = {
                    "index": generation.count,
                    "token": token,
                    "generated_text": None,
                    "details": None,
                }
                if sequence.finish_reason is not None:
                    event["generated_text"] = sequence.generated_text
                    if sequence.parameters.details:
                        event["details"] = {**sequence.details(), "input_length": sequence.input_length}
                yield _event(event)
    except EngineFailure as error:
        yield _event(_failed(error).as_json())


def _event(value: object) -> str:
    """Without a blank behind the colon, which is as good."""
    return f"data:{json.dumps(value, separators=(',', ':'), ensure_ascii=False)}\n\n"


def _json(value: object, status: int = 200) -> flask.Response:
    body = json.dumps(value, separators=(",", ":"), ensure_ascii=False)
    return flask.Response(body, status, content_type="application/json")


def _compute_headers(request: GenerateRequest) -> Mapping[str, str]:
    return {"x-compute-type": "cpu", "x-compute-characters": str(len(request.inputs))}


def _invalid(message: str) -> TgiError:
    return TgiError(f"Input validation error: {message}")


def _failed(error: EngineFailure) -> TgiError:
    return TgiError(f"Request failed during generation: {error}", "generation", 424)


def _refused(error: TgiError) -> flask.Response:
    return _json(error.as_json(), error.status)


def _undecoded(error: Unprocessable) -> flask.Response:
    """As TGI's web framework says it: plain text."""
    text = str(error)
    if isinstance(error, JsonDataException):
        text = "; ".join(f"{name}: {message}" for name, message in error.json_msg.items())
    return flask.Response(text, 422, content_type="text/plain; charset=utf-8")
