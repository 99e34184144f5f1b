"""A text of TGI's API while it is generated, the request for it, and its errors."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar

from pydantic import ConfigDict, Field

from pyworker.errors import PyworkerError
from pyworker.validation import STRICT

END_TOKEN = "</s>"
StopText = Annotated[str, Field(min_length=1, max_length=1000)]


class TgiError(PyworkerError):
    """An error object. kind: its `error_type`."""

    def __init__(self, message: str, kind: str = "validation", status: int = 422) -> None:
        super().__init__(message)
        self.kind = kind
        self.status = status

    def as_json(self) -> Mapping[str, object]:
        """The error object."""
        return {"error": str(self), "error_type": self.kind}


@dataclass(frozen=True)
class Parameters:
    """What of `parameters` is looked at."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    best_of: Annotated[int, Field(ge=1)] | None = None
    decoder_input_details: bool | None = None
    details: bool | None = None
    max_new_tokens: Annotated[int, Field(ge=0)] | None = None
    return_full_text: bool | None = None
    seed: Annotated[int, Field(ge=0)] | None = None
    stop: Annotated[list[StopText], Field(max_length=16)] | None = None


@dataclass(frozen=True)
class GenerateRequest:
    """The body of the generating routes; `stream` counts at `/` only."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    inputs: str
    parameters: Parameters | None = None
    stream: bool | None = None


@dataclass(eq=False)
class TgiText:
    """A text while it is generated."""

    request: GenerateRequest
    parameters: Parameters
    source: Iterator[str]
    limit: int
    input_length: int
    tokens: list[Mapping[str, Any]] = field(default_factory=list[Mapping[str, Any]])
    text: str = ""
    finish_reason: str | None = None

    def steps(self) -> Iterator[Mapping[str, Any]]:
        """The tokens, until the text has ended."""
        while self.finish_reason is None:
            text = next(self.source, END_TOKEN)
            is_end = text == END_TOKEN
            self.text += "" if is_end else text
            self.tokens.append(_token(text, is_end))
            if is_end:
                self.finish_reason = "eos_token"
            elif any(stop in self.text[-2 * len(stop) - len(text) :] for stop in self.parameters.stop or ()):
                self.finish_reason = "stop_sequence"
            elif len(self.tokens) == self.limit:
                self.finish_reason = "length"
            yield self.tokens[-1]

    @property
    def generated_text(self) -> str:
        """As it is sent: after the prompt if that is asked for."""
        return (self.request.inputs if self.parameters.return_full_text else "") + self.text

    def details(self) -> dict[str, Any]:
        """What whole responses and streams have in common."""
        return {
            "finish_reason": self.finish_reason,
            "generated_tokens": len(self.tokens),
            "seed": self.parameters.seed,
        }


def _token(text: str, is_special: bool) -> Mapping[str, Any]:
    digest = hashlib.blake2b(text.encode(), digest_size=2).digest()
    number = int.from_bytes(digest, "big")
    return {"id": number, "text": text, "logprob": -number / 65536, "special": is_special}
