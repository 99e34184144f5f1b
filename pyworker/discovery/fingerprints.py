"""Which model server answers at a URL, told by what only that server says."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import pydantic_core

from pyworker.lifecycle.probe import HealthProbe, HealthResponse, ProbeFailed

#: Any server with OpenAI's routes that none of the others is.
GENERIC = "openai"
#: Seconds for one question, and after which a server is asked no more.
_TIMEOUT = 2.0
_PATIENCE = 3.0
_KEY_IS_MISSING = (401, 403)

_MODELS = "/v1/models"
_VERSION = "/version"
# `owned_by` of the models at /v1/models.
_OWNERS = {"vllm": "vllm", "sglang": "sglang", "llamacpp": "llama"}

#: Makes the probe of a URL.
NewProbe = Callable[[str], HealthProbe]


@dataclass(frozen=True)
class Answer:
    """What was found at a URL. workers: by name, where and how; trouble: why there may be more."""

    url: str
    workers: Mapping[str, str]
    trouble: str = ""


def new_probe(api_key: str, ca_file: Path | None) -> NewProbe:
    """Probes with a deadline, for a bounded response."""
    return lambda url: HealthProbe(url, api_key, ca_file=ca_file, timeout=_TIMEOUT)


def ask(url: str, probe: NewProbe) -> Answer:
    """Ask for everything that tells servers apart. Takes `_PATIENCE` and `_TIMEOUT` seconds at most."""
    found: dict[str, str] = {}
    trouble = ""
    deadline = time.monotonic() + _PATIENCE
    for path in (_MODELS, *_SHAPES, _VERSION):
        if time.monotonic() >= deadline:
            trouble = trouble or "it is too slow to tell what it is"
            break
        try:
            response = probe(url + path).fetch()
        except ProbeFailed as error:
            trouble = str(error)
            break
        if response.status in _KEY_IS_MISSING:
            trouble = f"{path} answers {response.status}: does it need MODEL_API_KEY?"
        elif response.status == 200 and response.body is None:
            trouble = trouble or f"{path} is too long, or was cut"
        found.update(_told_by(path, response, refused=_MODELS in trouble))
    if len(found) > 1:
        found.pop(GENERIC, None)
    return Answer(url, found, trouble)


def _told_by(path: str, response: HealthResponse, *, refused: bool) -> Iterator[tuple[str, str]]:
    """Each worker that this response speaks for, with the reason."""
    content = _json(response)
    if path == _MODELS:
        yield from _models(content)
    elif path == _VERSION:
        # Other servers have such a route too; it counts only where the list of models is refused.
        if refused and set(content) == {"version"}:
            yield "vllm", "/version has vLLM's form"
    else:
        worker, fits = _SHAPES[path]
        if fits(content):
            yield worker, f"{path} has the form of {worker}"


def _json(response: HealthResponse) -> Mapping[str, Any]:
    """The JSON object of a 200 response; empty if it is none."""
    if response.status != 200 or response.body is None:
        return {}
    try:
        content = pydantic_core.from_json(response.body)
    except ValueError:
        return {}
    return cast("dict[str, Any]", content) if isinstance(content, dict) else {}


def _models(content: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    models = content.get("data")
    if not isinstance(models, list):
        return
    entries = [
        cast("dict[str, Any]", entry) for entry in cast("list[Any]", models) if isinstance(entry, dict)
    ]
    owners = {owner for entry in entries if isinstance(owner := entry.get("owned_by"), str)}
    known = {_OWNERS[owner]: owner for owner in owners if owner in _OWNERS}
    for worker, owner in known.items():
        yield worker, f"{_MODELS} is owned by {owner}"
    if not known:
        yield GENERIC, f"{_MODELS} lists {len(entries)} models"


def _has(*names: str) -> Callable[[Mapping[str, Any]], bool]:
    return lambda content: all(name in content for name in names)


def _is_tgi(content: Mapping[str, Any]) -> bool:
    # The second is of older releases; TEI, which embeds, has other limits.
    return content.get("router") == "text-generation-router" or _has("model_id", "max_total_tokens")(content)


def _is_comfyui(content: Mapping[str, Any]) -> bool:
    return isinstance(content.get("system"), dict) and isinstance(content.get("devices"), list)


def _is_wrapper(content: Mapping[str, Any]) -> bool:
    paths = content.get("paths")
    return isinstance(paths, dict) and "/generate/sync" in paths


# By path: the worker, and whether this JSON object is its server's.
_SHAPES: Mapping[str, tuple[str, Callable[[Mapping[str, Any]], bool]]] = {
    "/info": ("tgi", _is_tgi),
    "/get_model_info": ("sglang", _has("model_path", "is_generation")),
    "/props": ("llama", _has("default_generation_settings", "total_slots")),
    "/system_stats": ("comfyui", _is_comfyui),
    "/openapi.json": ("comfyui-json", _is_wrapper),
}
