"""vLLM: its version, log and error bodies, and its shapes of rerank and score."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from typing import Any

import flask

from pyworker.local.openai_api.api_error import ApiError
from pyworker.local.openai_api.events import route, whole
from pyworker.local.openai_api.face import Face
from pyworker.local.openai_api.fields import RerankFields, ScoreFields
from pyworker.local.openai_api.pooling import ranking, similarity, take_in_texts
from pyworker.local.openai_api.service import Service, new_id

VERSION = "0.11.0"
CORE = "EngineCore_DP0"


class Vllm(Face):
    """https://docs.vllm.ai/en/stable/serving/openai_compatible_server.html"""

    name = "vllm"
    loading_steps = 4

    def add_routes(self, app: flask.Flask, service: Service) -> None:
        route(app, "/version", lambda: whole({"version": VERSION}), "GET")
        route(app, "/load", lambda: whole({"server_load": 0}), "GET")
        for path in ("/rerank", "/v1/rerank", "/v2/rerank"):
            route(app, path, lambda: _rerank(service))
        for path in ("/score", "/v1/score"):
            route(app, path, lambda: _score(service))

    def error_body(self, error: ApiError) -> Mapping[str, Any]:
        return {"error": error.as_json()}

    def check_length(self, prompt_tokens: int, max_tokens: int | None, context: int) -> None:
        wanted = max_tokens or 1
        if prompt_tokens + wanted > context:
            raise ApiError(
                f"This model's maximum context length is {context} tokens. However, you requested {wanted} "
                f"output tokens and your prompt contains {prompt_tokens} input tokens, for a total of "
                f"{prompt_tokens + wanted} tokens. Please reduce the length of the input prompt or the "
                "number of requested output tokens.",
                param="input_tokens",
            )

    def loading_lines(self, step: int, model: str) -> Sequence[str]:
        return (
            [
                _info("APIServer", f"[api_server.py:1896] vLLM API server version {VERSION}"),
                _info("APIServer", f"[utils.py:233] non-default args: {{'model': '{model}'}}"),
            ],
            [_info(CORE, f"[gpu_model_runner.py:2602] Starting to load model {model}...")],
            [
                _info(CORE, "[default_loader.py:267] Loading weights took 0.31 seconds"),
                _info(CORE, "[gpu_model_runner.py:2653] Model loading took 0.0010 GiB and 0.4 seconds"),
            ],
            [_info(CORE, "[gpu_model_runner.py:3480] Graph capturing finished in 1 secs, took 0.00 GiB")],
        )[step]

    def loaded_lines(self, url: str) -> Sequence[str]:
        return [
            _info("APIServer", f"[api_server.py:1971] Starting vLLM API server 0 on {url}"),
            _plain(f"Started server process [{os.getpid()}]"),
            _plain("Waiting for application startup."),
            _plain("Application startup complete."),
        ]

    def failed_lines(self, path: str, reason: str) -> Sequence[str]:
        error = f"({CORE} pid={os.getpid()}) ERROR {_now()} [core.py:708]"
        return [
            f"{error} EngineCore failed to start.",
            f"{error} Traceback (most recent call last):",
            f"{error} ValueError: {path}: {reason}",
            f"(APIServer pid={os.getpid()}) RuntimeError: Engine core initialization failed. "
            "See root cause above. Failed core proc(s): {}",
        ]

    def access_line(self, client: str, request: str, status: str) -> str:
        return _plain(f'{client} - "{request}" {status}')

    def aborted_line(self, request_id: str) -> str:
        return _info("APIServer", f"[async_llm.py:345] Request {request_id} aborted.")


def _now() -> str:
    return time.strftime("%m-%d %H:%M:%S")


def _info(process: str, text: str) -> str:
    return f"({process} pid={os.getpid()}) INFO {_now()} {text}"


def _plain(text: str) -> str:
    """As its web server writes."""
    return f"(APIServer pid={os.getpid()}) INFO:     {text}"


def _rerank(service: Service) -> flask.Response:
    fields = service.fields(RerankFields)
    results, tokens = ranking(service, fields)
    return whole(
        {
            "id": new_id("rerank"),
            "model": service.model,
            "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
            "results": [
                {
                    "index": result.index,
                    "document": {"text": result.document, "multi_modal": None},
                    "relevance_score": result.score,
                }
                for result in results
            ],
        }
    )


def _score(service: Service) -> flask.Response:
    fields = service.fields(ScoreFields)
    queries = [fields.text_1] if isinstance(fields.text_1, str) else fields.text_1
    texts = [fields.text_2] if isinstance(fields.text_2, str) else fields.text_2
    if len(queries) == 1:
        queries = queries * len(texts)
    if not texts or len(queries) != len(texts):
        raise ApiError("Input lengths must be either 1:1, 1:N or N:N", param="text_1")
    tokens = take_in_texts(service, [f"{query} {text}" for query, text in zip(queries, texts, strict=True)])
    return whole(
        {
            "id": new_id("score"),
            "object": "list",
            "created": int(time.time()),
            "model": service.model,
            "data": [
                {"index": index, "object": "score", "score": similarity(query, text)}
                for index, (query, text) in enumerate(zip(queries, texts, strict=True))
            ],
            "usage": {"prompt_tokens": tokens, "total_tokens": tokens, "completion_tokens": 0},
        }
    )
