"""The model servers of the demo: which one stands behind a worker, and what the worker is told of it.

Of the standard library alone, as the demo, which runs before there is an environment.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

#: Variables of the workers here that say something of a model server, which the demo's is not.
VARIABLES = {
    *("MODEL_NAME", "VLLM_MODEL", "SGLANG_MODEL", "LLAMA_MODEL", "OPENAI_ROUTES", "BENCHMARK_ROUTE"),
    *("MODEL_READINESS", "MODEL_LOAD_LOG_MSG", "MODEL_ERROR_LOG_MSGS", "MODEL_INFO_LOG_MSGS"),
    "OPENAI_API_KEY_DIGESTS",
}
#: Prints "True" if llama.cpp's server can be run.
LLAMA_CHECK = "from pyworker.local.llama_engine import is_available; print(is_available())"
LLAMA_PACKAGES = "xllamacpp gguf"
_STAND_IN = ("pyworker.local.model_server", "--tokens-per-second", "400", "--parallel", "10")
_LLAMA = ("pyworker.local.llama_engine", "--parallel", "4")
_OPENAI = ("openai", "vllm", "sglang", "llama")


@dataclass(frozen=True)
class DemoEngine:
    """name: in messages. command: its module and options, without port and log. health: a path with status
    200 once it serves. known_by: what a worker has to know of it. variables: for the worker. key: of its door
    for OpenAI clients; empty if it has none. hint: how to have a better one.
    """

    name: str
    command: Sequence[str]
    health: str
    known_by: str
    variables: Mapping[str, str] = field(default_factory=dict[str, str])
    key: str = field(default="", repr=False)
    hint: str = ""

    def command_at(self, port: str, log: str) -> tuple[str, ...]:
        """The module and all its options."""
        return (*self.command, "--port", port, "--log-file", log)


def engine_of(worker: str, *, has_llama: bool) -> DemoEngine:
    """has_llama: whether llama.cpp's server can be run."""
    if worker in _OPENAI:
        return _openai(worker, has_llama=has_llama)
    if worker == "tgi":
        command = (*_STAND_IN, "--load-seconds", "1", "--api", "tgi")
        return DemoEngine("The stand-in for TGI", command, "/health", "the routes and the log of TGI")
    known_by = 'the line "server has started" and the routes of hello_world'
    command = (*_STAND_IN, "--load-seconds", "1")
    return DemoEngine("The model server", command, "/healthcheck", known_by)


def wants_llama(worker: str) -> bool:
    """Whether llama.cpp's own server may stand behind this worker."""
    return worker in ("openai", "llama")


def _openai(worker: str, *, has_llama: bool) -> DemoEngine:
    key = f"sk-demo-{secrets.token_hex(8)}"
    door = {"OPENAI_API_KEY_DIGESTS": hashlib.sha256(key.encode()).hexdigest()}
    known_by = "the OpenAI routes, and the log of its engine"
    if has_llama and wants_llama(worker):
        variables = {**door, "LLAMA_MODEL": "tiny-llama"}
        return DemoEngine("llama.cpp's server", _LLAMA, "/health", known_by, variables, key)
    engine = "sglang" if worker == "sglang" else "vllm"
    name = {"sglang": "SGLang", "vllm": "vLLM"}[engine]
    command = (*_STAND_IN, "--load-seconds", "1", "--api", "openai", "--engine", engine)
    variables = {**door, f"{engine.upper()}_MODEL": "local-model"}
    if worker == "llama":  # which knows llama.cpp's log
        variables = {**door, "LLAMA_MODEL": "local-model", "MODEL_LOAD_LOG_MSG": "startup complete."}
    hint = ""
    if wants_llama(worker):
        hint = f"With .venv/bin/pip install {LLAMA_PACKAGES} the demo runs llama.cpp's own server instead."
    return DemoEngine(f"The stand-in for {name}", command, "/health", known_by, variables, key, hint)
