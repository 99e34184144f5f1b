"""SGLang: its model info, log and error bodies, and its shapes of rerank and score."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from typing import Any

import flask

from pyworker.local.openai_api.api_error import ApiError
from pyworker.local.openai_api.events import route, whole
from pyworker.local.openai_api.face import Face
from pyworker.local.openai_api.fields import ItemScoreFields, RerankFields
from pyworker.local.openai_api.pooling import ranking, similarity, take_in_texts
from pyworker.local.openai_api.service import Service


class Sglang(Face):
    """https://docs.sglang.ai/basic_usage/openai_api.html"""

    name = "sglang"
    loading_steps = 4

    def add_routes(self, app: flask.Flask, service: Service) -> None:
        def model_info() -> flask.Response:
            return whole(
                {
                    "model_path": service.model,
                    "tokenizer_path": service.model,
                    "is_generation": True,
                    "preferred_sampling_params": None,
                    "weight_version": "default",
                }
            )

        route(app, "/get_model_info", model_info, "GET")
        route(app, "/v1/rerank", lambda: _rerank(service))
        route(app, "/v1/score", lambda: _score(service))

    def error_body(self, error: ApiError) -> Mapping[str, Any]:
        return {"object": "error", **error.as_json()}

    def check_length(self, prompt_tokens: int, max_tokens: int | None, context: int) -> None:
        if prompt_tokens >= context:
            raise ApiError(
                f"The input ({prompt_tokens} tokens) is longer than the model's context length "
                f"({context} tokens)."
            )
        if max_tokens is not None and prompt_tokens + max_tokens > context:
            raise ApiError(
                f"Requested token count exceeds the model's maximum context length of {context} tokens. You "
                f"requested a total of {prompt_tokens + max_tokens} tokens: {prompt_tokens} tokens from the "
                f"input messages and {max_tokens} tokens for the completion."
            )

    def loading_lines(self, step: int, model: str) -> Sequence[str]:
        return (
            [_line(f"server_args=ServerArgs(model_path='{model}', tp_size=1)")],
            [_line("Load weight begin. avail mem=46.62 GB")],
            [_line("Load weight end. type=LlamaForCausalLM, avail mem=46.62 GB, mem usage=0.00 GB.")],
            [_line("Capture cuda graph end. Time elapsed: 0.10 s. mem usage=0.00 GB.")],
        )[step]

    def loaded_lines(self, url: str) -> Sequence[str]:
        return [
            _web(f"Started server process [{os.getpid()}]"),
            _web("Application startup complete."),
            _web(f"Uvicorn running on {url} (Press CTRL+C to quit)"),
            _line("The server is fired up and ready to roll!"),
        ]

    def failed_lines(self, path: str, reason: str) -> Sequence[str]:
        return [
            _line(f"Scheduler hit an exception: ValueError: {path}: {reason}"),
            _line("Received sigquit from a child process. It usually means the child failed."),
        ]

    def access_line(self, client: str, request: str, status: str) -> str:
        return _web(f'{client} - "{request}" {status}')

    def aborted_line(self, request_id: str) -> str:
        return _line(f"Client disconnected. Abort request rid={request_id}")


def _line(text: str) -> str:
    return f"[{time.strftime('%Y-%m-%d %H:%M:%S')}] {text}"


def _web(text: str) -> str:
    """As its web server writes."""
    return _line(f"INFO:     {text}")


def _rerank(service: Service) -> flask.Response:
    fields = service.fields(RerankFields)
    results, _ = ranking(service, fields)
    return whole(
        [
            {
                "score": result.score,
                "document": result.document,
                "index": result.index,
                "meta_info": None,
            }
            for result in results
        ]
    )


def _score(service: Service) -> flask.Response:
    fields = service.fields(ItemScoreFields)
    items = [fields.items] if isinstance(fields.items, str) else fields.items
    tokens = take_in_texts(service, [f"{fields.query} {item}" for item in items])
    scores = [similarity(fields.query, item) for item in items]
    others = len(fields.label_token_ids) - 1
    return whole(
        {
            "scores": [[score, *([0.0] * others)] for score in scores],
            "model": service.model,
            "usage": {"prompt_tokens": tokens, "total_tokens": tokens, "completion_tokens": 0},
            "object": "scoring",
        }
    )
