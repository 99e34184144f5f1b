"""Model servers as `BACKEND=auto` sees them: small HTTP servers with the routes that tell them apart."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from tests.support.scripted import ScriptedServer, whole

#: By worker, what its server answers; everything else is 404.
ROUTES: Mapping[str, Mapping[str, Any]] = {
    "vllm": {
        "/v1/models": {"object": "list", "data": [{"id": "m", "object": "model", "owned_by": "vllm"}]},
        "/version": {"version": "0.11.0"},
        "/openapi.json": {"openapi": "3.1.0", "paths": {"/v1/completions": {}}},
    },
    "sglang": {
        "/v1/models": {"object": "list", "data": [{"id": "m", "object": "model", "owned_by": "sglang"}]},
        "/get_model_info": {"model_path": "m", "tokenizer_path": "m", "is_generation": True},
        "/openapi.json": {"openapi": "3.1.0", "paths": {"/generate": {}}},
    },
    "llama": {
        "/v1/models": {"object": "list", "data": [{"id": "m.gguf", "owned_by": "llamacpp"}]},
        "/props": {"default_generation_settings": {}, "total_slots": 4, "model_path": "m.gguf"},
    },
    "tgi": {
        "/info": {"model_id": "m", "router": "text-generation-router", "max_total_tokens": 4096},
        "/v1/models": {"object": "list", "data": [{"id": "m", "object": "model", "owned_by": "m"}]},
    },
    "comfyui": {
        "/system_stats": {
            "system": {"os": "posix", "comfyui_version": "0.3.64"},
            "devices": [{"type": "cuda"}],
        }
    },
    "comfyui-json": {"/openapi.json": {"openapi": "3.1.0", "paths": {"/generate/sync": {}, "/health": {}}}},
    "openai": {"/v1/models": {"object": "list", "data": [{"id": "m", "owned_by": "library"}]}},
}
NOT_FOUND = whole(b'{"detail": "Not Found"}', "Content-Type: application/json", status="404 Not Found")


def answer_as(server: ScriptedServer, worker: str) -> None:
    """From now on `server` is this worker's model server."""
    server.forget()
    server.default = (NOT_FOUND,)
    for path, content in ROUTES[worker].items():
        server.script(path, whole(json.dumps(content).encode(), "Content-Type: application/json"))
