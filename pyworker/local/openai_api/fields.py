"""The fields of requests that the local engine looks at; all others are ignored, as the engines do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from pydantic import ConfigDict, Field

from pyworker.validation import STRICT

Count = Annotated[int, Field(ge=1)]
Choices = Annotated[int, Field(ge=1, le=128)]
StopText = Annotated[str, Field(min_length=1, max_length=1000)]
Stop = StopText | Annotated[list[StopText], Field(max_length=16)]
Number = int | float
#: What a request may bring to generate from, or to look at: texts, or the ids of their tokens.
TextInput = str | list[str] | list[int] | list[list[int]]


@dataclass(frozen=True, kw_only=True)
class Fields:
    """What every request has."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    model: str | None = None


@dataclass(frozen=True, kw_only=True)
class StreamOptions:
    """What a stream tells of the tokens so far."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    include_usage: bool | None = None
    continuous_usage_stats: bool | None = None


@dataclass(frozen=True, kw_only=True)
class SamplingFields(Fields):
    """How long a text may become, and whether it is streamed.

    ignore_eos, min_tokens: extensions of both engines; the text goes on to `max_tokens`, or at least so far.
    """

    n: Choices | None = None
    max_tokens: Count | None = None
    min_tokens: Annotated[int, Field(ge=0)] | None = None
    ignore_eos: bool | None = None
    stop: Stop | None = None
    seed: int | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None


@dataclass(frozen=True, kw_only=True)
class Message:
    """One turn. Of a content in parts, those that are text count."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    role: str
    content: str | list[dict[str, Any]] | None = None


@dataclass(frozen=True, kw_only=True)
class CompletionFields(SamplingFields):
    """`/v1/completions`."""

    prompt: TextInput


@dataclass(frozen=True, kw_only=True)
class ChatFields(SamplingFields):
    """`/v1/chat/completions`."""

    messages: list[Message]
    max_completion_tokens: Count | None = None


@dataclass(frozen=True, kw_only=True)
class ChatBatchFields(SamplingFields):
    """`/v1/chat/completions/batch`: several conversations."""

    messages: Annotated[list[list[Message]], Field(min_length=1)]
    max_completion_tokens: Count | None = None


@dataclass(frozen=True, kw_only=True)
class ResponsesFields(Fields):
    """`/v1/responses`."""

    input: str | list[dict[str, Any]]
    instructions: str | None = None
    max_output_tokens: Count | None = None
    stream: bool | None = None


@dataclass(frozen=True, kw_only=True)
class MessagesFields(Fields):
    """`/v1/messages`."""

    messages: list[Message]
    max_tokens: Count
    system: str | list[dict[str, Any]] | None = None
    stop_sequences: Annotated[list[StopText], Field(max_length=16)] | None = None
    stream: bool | None = None


@dataclass(frozen=True, kw_only=True)
class EmbeddingFields(Fields):
    """`/v1/embeddings`."""

    input: TextInput
    encoding_format: str | None = None
    dimensions: Count | None = None


@dataclass(frozen=True, kw_only=True)
class RerankFields(Fields):
    """`/v1/rerank`."""

    query: str
    documents: list[str | dict[str, Any]]
    top_n: int | None = None


@dataclass(frozen=True, kw_only=True)
class ScoreFields(Fields):
    """`/v1/score` of vLLM."""

    text_1: str | list[str]
    text_2: str | list[str]


@dataclass(frozen=True, kw_only=True)
class ItemScoreFields(Fields):
    """`/v1/score` of SGLang."""

    query: str
    items: str | list[str]
    label_token_ids: Annotated[list[int], Field(min_length=1)]


@dataclass(frozen=True, kw_only=True)
class SpeechFields(Fields):
    """`/v1/audio/speech`."""

    input: str
    voice: str | None = None
    response_format: str = "wav"
    stream: bool = False
    stream_format: str | None = None


@dataclass(frozen=True, kw_only=True)
class SpeechBatchFields(Fields):
    """`/v1/audio/speech/batch`."""

    items: Annotated[list[dict[str, Any]], Field(min_length=1)]
    response_format: str = "wav"


@dataclass(frozen=True, kw_only=True)
class AudioFields(Fields):
    """`/v1/audio/generate`. audio_length: seconds."""

    input: str
    audio_length: Annotated[Number, Field(gt=0, le=600)] | None = None
    response_format: str = "wav"


@dataclass(frozen=True, kw_only=True)
class ImageFields(Fields):
    """`/v1/images/generations`."""

    prompt: str
    n: Annotated[int, Field(ge=1, le=10)] = 1
    size: str | None = None
    response_format: str = "b64_json"


#: Ids of tokens stand for words that nobody knows.
Ids = Sequence[int]
