"""What a client sends to the hello_world model server."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from pydantic import Field

from pyworker.config import Settings
from pyworker.data_types import ApiPayload
from pyworker.tokenizer import TokenCounter
from pyworker.words import random_words

TEST_WORDS = 250
RESPONSE_TOKENS = 300


@dataclass
class InputData(ApiPayload):
    """A prompt, and the longest response in tokens (None: the model decides)."""

    tokens: ClassVar[TokenCounter] = TokenCounter("openai-community/openai-gpt")

    prompt: str
    max_response_tokens: Annotated[int, Field(ge=1)] | None = None

    @classmethod
    def of_random_words(cls, count: int) -> InputData:
        """A prompt of `count` words, which no cache of the model has seen."""
        return cls(random_words(count), RESPONSE_TOKENS)

    @classmethod
    def for_test(cls) -> InputData:
        return cls.of_random_words(TEST_WORDS)

    @classmethod
    def prepare(cls, settings: Settings) -> None:
        cls.tokens.load(settings.tokenizer)

    def count_workload(self) -> float:
        """Tokens of the prompt."""
        return self.tokens.count(self.prompt)
