"""Pictures from text: the workload is in the pixels made."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field
from typing_extensions import Self

from pyworker.words import random_words
from workers.openai.data_types.base import OpenAIPayload, scaled
from workers.openai.settings import OpenAISettings

#: Pixels of an ordinary picture.
ORDINARY = 1024 * 1024
_MAX_DIGITS = 6


def pixels(size: str | None, otherwise: int) -> int:
    """Of a size such as "1024x768"; `otherwise` if it names none, as "auto" does."""
    width, _, height = (size or "").lower().partition("x")
    sides = (width.strip(), height.strip())
    if not all(side.isascii() and side.isdigit() and len(side) <= _MAX_DIGITS for side in sides):
        return otherwise
    return int(sides[0]) * int(sides[1])


def picture_workload(count: int, size: str | None) -> float:
    """Of so many pictures."""
    return scaled(count * pixels(size, ORDINARY) / ORDINARY)


@dataclass(kw_only=True)
class ImageGeneration(OpenAIPayload):
    """`images/generations`."""

    prompt: str
    n: Annotated[int, Field(ge=1, le=10**6)] | None = None
    size: str | None = None

    def count_workload(self) -> float:
        return picture_workload(self.n or 1, self.size)

    @classmethod
    def for_benchmark(cls, options: OpenAISettings) -> Self:
        return cls.from_json_msg({"prompt": random_words(20), "n": 1, "size": "1024x1024"})
