"""Routes that generate text: the workload is the number of tokens that the request may generate."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from pydantic import Field
from typing_extensions import Self

from pyworker.data_types import JsonDataException
from pyworker.validation import MISSING_PARAMETER
from pyworker.words import random_words
from workers.openai.data_types.base import UNIT, OpenAIPayload, scaled
from workers.openai.settings import OpenAISettings

#: Tokens counted for a request that does not limit its response. It is what a request of the benchmark asks
#: for, so such a request counts as an ordinary one until its response tells how many there were. Without an
#: estimate it would count nothing, and a worker full of such requests would look idle.
ESTIMATED_TOKENS = 500
_BENCHMARK_WORDS = 250
_TEMPERATURE = 0.7

#: A limit in tokens. -1 means "no limit" to some servers.
Limit = Annotated[int, Field(ge=-1, le=10**9)] | None


def limit_of(*limits: int | None) -> int:
    """The first limit that is one, else the estimate."""
    return next((limit for limit in limits if limit is not None and limit >= 0), ESTIMATED_TOKENS)


@dataclass(kw_only=True)
class TextPayload(OpenAIPayload):
    """A request for text, whole or streamed."""

    in_tokens: ClassVar[bool] = True

    stream: bool | None = None
    max_tokens: Limit = None

    def count_workload(self) -> float:
        return float(limit_of(self.max_tokens))


@dataclass(kw_only=True)
class UsagePayload(TextPayload):
    """One whose stream tells its `usage` only if that is asked for."""

    stream_options: dict[str, Any] | None = None

    @property
    def asks_for_usage(self) -> bool:
        """Whether the client itself asked for the chunk with the `usage`."""
        return self.stream_options is not None and bool(self.stream_options.get("include_usage"))

    def generate_payload_json(self) -> dict[str, Any]:
        """As the client's; a stream is asked for its `usage`, which settles the workload."""
        payload = super().generate_payload_json()
        if self.stream and not self.asks_for_usage:
            payload["stream_options"] = {**(self.stream_options or {}), "include_usage": True}
        return payload


@dataclass(kw_only=True)
class Completion(UsagePayload):
    """`completions`. `prompt` may be missing if `prompt_embeds` are there."""

    @classmethod
    def from_json_msg(cls, json_msg: Mapping[str, Any]) -> Self:
        payload = super().from_json_msg(json_msg)
        if payload.sent.get("prompt") is None and payload.sent.get("prompt_embeds") is None:
            raise JsonDataException({"prompt": MISSING_PARAMETER})
        return payload

    @classmethod
    def for_benchmark(cls, options: OpenAISettings) -> Self:
        return cls.from_json_msg({"prompt": random_words(_BENCHMARK_WORDS), **_benchmark_limits()})


@dataclass(kw_only=True)
class StreamedCompletion(Completion):
    """As the load test sends it with --stream."""

    @classmethod
    def for_benchmark(cls, options: OpenAISettings) -> Self:
        return cls.from_json_msg({**Completion.for_benchmark(options).sent, "stream": True})


@dataclass(kw_only=True)
class Chat(UsagePayload):
    """`chat/completions`."""

    messages: list[Any]
    max_completion_tokens: Limit = None

    def count_workload(self) -> float:
        return float(limit_of(self.max_completion_tokens, self.max_tokens))

    @classmethod
    def for_benchmark(cls, options: OpenAISettings) -> Self:
        return cls.from_json_msg({"messages": _conversation(), **_benchmark_limits()})


@dataclass(kw_only=True)
class ChatBatch(OpenAIPayload):
    """`chat/completions/batch`: several conversations, each in `messages` a list of its own."""

    messages: Annotated[list[Any], Field(min_length=1)]
    max_tokens: Limit = None
    max_completion_tokens: Limit = None

    def count_workload(self) -> float:
        limit = limit_of(self.max_completion_tokens, self.max_tokens)
        return scaled(len(self.messages) * limit / UNIT)

    @classmethod
    def for_benchmark(cls, options: OpenAISettings) -> Self:
        return cls.from_json_msg({"messages": [_conversation()], **_benchmark_limits()})


@dataclass(kw_only=True)
class Responses(TextPayload):
    """`responses`. Its stream tells its `usage` unasked."""

    max_output_tokens: Limit = None

    def count_workload(self) -> float:
        return float(limit_of(self.max_output_tokens))

    @classmethod
    def for_benchmark(cls, options: OpenAISettings) -> Self:
        prompt = random_words(_BENCHMARK_WORDS)
        return cls.from_json_msg(
            {"input": prompt, "max_output_tokens": ESTIMATED_TOKENS, "temperature": _TEMPERATURE}
        )


@dataclass(kw_only=True)
class Messages(TextPayload):
    """`messages`, Anthropic's API. Its stream tells its `usage` unasked."""

    messages: list[Any]

    @classmethod
    def for_benchmark(cls, options: OpenAISettings) -> Self:
        return cls.from_json_msg({"messages": _conversation(), **_benchmark_limits()})


def _benchmark_limits() -> dict[str, Any]:
    return {"max_tokens": ESTIMATED_TOKENS, "temperature": _TEMPERATURE}


def _conversation() -> list[dict[str, str]]:
    return [{"role": "user", "content": random_words(_BENCHMARK_WORDS)}]
