"""The routes of OpenAI's API, all below `/v1/`: their payloads, and how the speed of each is measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pyworker.errors import ConfigError
from workers.openai.data_types.audio import AudioGenerate, Speech, SpeechBatch
from workers.openai.data_types.base import OpenAIPayload
from workers.openai.data_types.files import ImageEdit, Transcription, VideoSync
from workers.openai.data_types.forms import UploadPayload
from workers.openai.data_types.images import ImageGeneration
from workers.openai.data_types.pooling import Embeddings, Rerank, Score
from workers.openai.data_types.text import Chat, ChatBatch, Completion, Messages, Responses
from workers.openai.settings import OpenAISettings


@dataclass(frozen=True)
class Route:
    """at_once, rounds: requests of the benchmark. preamble: events of a stream before its first token."""

    payload: type[OpenAIPayload] | type[UploadPayload]
    at_once: int
    rounds: int
    preamble: int = 0


ROUTES: Mapping[str, Route] = {
    "completions": Route(Completion, 10, 3),
    # The role of the speaker.
    "chat/completions": Route(Chat, 10, 3, preamble=1),
    "chat/completions/batch": Route(ChatBatch, 10, 3),
    # The response is created, in progress, has its first output, and that its first part.
    "responses": Route(Responses, 10, 3, preamble=4),
    # The message and its first block have begun.
    "messages": Route(Messages, 10, 3, preamble=2),
    "embeddings": Route(Embeddings, 10, 3),
    "rerank": Route(Rerank, 10, 3),
    "score": Route(Score, 10, 3),
    "audio/speech": Route(Speech, 4, 2),
    "audio/speech/batch": Route(SpeechBatch, 4, 2),
    "audio/generate": Route(AudioGenerate, 2, 1),
    "audio/transcriptions": Route(Transcription, 4, 2),
    "audio/translations": Route(Transcription, 4, 2),
    "images/generations": Route(ImageGeneration, 2, 1),
    "images/edits": Route(ImageEdit, 2, 1),
    "videos/sync": Route(VideoSync, 1, 1),
}
#: Served if OPENAI_ROUTES names none, beside that of the benchmark. Servers without the last two answer 404.
DEFAULT = ("completions", "chat/completions", "responses", "messages")


def served(options: OpenAISettings) -> Sequence[str]:
    """The names of the routes that are served. Raises `ConfigError`."""
    _check("OPENAI_ROUTES", options.openai_routes)
    if options.openai_routes:
        return options.openai_routes
    return tuple(dict.fromkeys((*DEFAULT, benchmarked(options))))


def benchmarked(options: OpenAISettings) -> str:
    """The name of the route whose speed is measured. Raises `ConfigError`.

    By default completions, or the first of OPENAI_ROUTES if that leaves them out.
    """
    if options.benchmark_route:
        _check("BENCHMARK_ROUTE", [options.benchmark_route])
        return options.benchmark_route
    names = options.openai_routes or DEFAULT
    return DEFAULT[0] if DEFAULT[0] in names else names[0]


def _check(variable: str, names: Sequence[str]) -> None:
    unknown = [name for name in names if name not in ROUTES]
    if unknown:
        raise ConfigError(f"{variable}: there is no route {unknown[0]!r:.100}; expected {', '.join(ROUTES)}")
