"""What a client sends to TGI's own routes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, cast

from pydantic import ConfigDict, Field, with_config
from typing_extensions import TypedDict

from pyworker.data_types import OpenPayload
from pyworker.words import random_words

TEST_WORDS = 250
TEST_TOKENS = 128
#: What TGI generates at most if a request does not say.
DEFAULT_TOKENS = 100


@with_config(ConfigDict(strict=True, extra="allow"))
class Parameters(TypedDict, total=False):
    """What the worker looks at; all others travel on."""

    max_new_tokens: Annotated[int, Field(ge=1)] | None


@dataclass
class GeneratePayload(OpenPayload):
    """A prompt, and how to continue it."""

    inputs: str
    parameters: Parameters | None = None

    @classmethod
    def of_random_words(cls, count: int) -> GeneratePayload:
        """A prompt of `count` words, which no cache of the model has seen. Asks for the number of tokens."""
        parameters = cast("Parameters", {"max_new_tokens": TEST_TOKENS, "details": True})
        return cls(random_words(count), parameters)

    @classmethod
    def for_test(cls) -> GeneratePayload:
        return cls.of_random_words(TEST_WORDS)

    def count_workload(self) -> float:
        """The most tokens that may be generated."""
        return (self.parameters or {}).get("max_new_tokens") or DEFAULT_TOKENS

    def generate_payload_json(self) -> dict[str, Any]:
        # As the client wrote it, to the last digit of its numbers.
        return {**super().generate_payload_json(), **self.sent}
