"""The variables of this worker, beside those of every worker."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pyworker.config import parsers, setting


def _names(text: str) -> tuple[str, ...]:
    """Names with commas between them, each once, without the `/v1/` that a route's path begins with."""
    names = [name.strip().removeprefix("/").removeprefix("v1/") for name in text.split(",")]
    return tuple(dict.fromkeys(name for name in names if name))


def _name(text: str) -> str:
    names = _names(text)
    if len(names) != 1:
        raise ValueError("expected one name")
    return names[0]


@dataclass(frozen=True)
class OpenAISettings:
    """What this worker reads from its environment.

    model_name and the like: put into requests without `model`; which of them count depends on the engine.
    openai_routes: the routes served, benchmark_route: the one whose speed is measured, both by the names of
    `routes`. benchmark_embed_chars: characters of a benchmark request of `embeddings`.
    benchmark_speech_voice: the `voice` of one of `audio/speech`; empty: the model's default.
    """

    model_name: str = setting("MODEL_NAME", "", str)
    vllm_model: str = setting("VLLM_MODEL", "", str)
    sglang_model: str = setting("SGLANG_MODEL", "", str)
    llama_model: str = setting("LLAMA_MODEL", "", str)
    openai_routes: tuple[str, ...] = setting("OPENAI_ROUTES", (), _names)
    benchmark_route: str = setting("BENCHMARK_ROUTE", "", _name)
    benchmark_embed_chars: int = setting("BENCHMARK_EMBED_CHARS", 600, parsers.integer(1, 1_000_000))
    benchmark_speech_voice: str = setting("BENCHMARK_SPEECH_VOICE", "", str)

    def model_of(self, variables: Sequence[str]) -> str:
        """The first of these variables that is set, such as `MODEL_NAME`; else empty."""
        return next((name for variable in variables if (name := getattr(self, variable.lower()))), "")
