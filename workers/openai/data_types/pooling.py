"""Routes that read text and answer with numbers: the workload is in the characters read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

from typing_extensions import Self

from pyworker.data_types import JsonDataException
from pyworker.validation import MISSING_PARAMETER
from pyworker.words import random_words
from workers.openai.data_types.base import OpenAIPayload, scaled
from workers.openai.settings import OpenAISettings

#: Characters of an ordinary request.
EMBEDDED = 600
RANKED = 4960
_PER_TOKEN_ID = 4
_DOCUMENTS = 8
# What may hold text in a structured input, such as a message or a document; pictures are beside it.
_TEXTS = ("text", "content")


def characters(value: object) -> int:
    """Characters of all texts in `value`, at any depth; a token id counts as four."""
    total = 0
    left = [value]
    while left:
        item = left.pop()
        if isinstance(item, str):
            total += len(item)
        elif isinstance(item, int) and not isinstance(item, bool):
            total += _PER_TOKEN_ID
        elif isinstance(item, list):
            left += cast("list[object]", item)
        elif isinstance(item, dict):
            fields = cast("dict[str, object]", item)
            left += [fields[name] for name in _TEXTS if name in fields]
    return total


def text_of(count: int) -> str:
    """Random words of exactly `count` characters in all."""
    return random_words(count // 2 + 1)[:count]


@dataclass(kw_only=True)
class Embeddings(OpenAIPayload):
    """`embeddings` of `input`: texts or token ids, or of `messages` as some servers take them."""

    input: Any = None
    messages: list[Any] | None = None

    @classmethod
    def from_json_msg(cls, json_msg: Mapping[str, Any]) -> Self:
        payload = super().from_json_msg(json_msg)
        if payload.input is None and payload.messages is None:
            raise JsonDataException({"input": MISSING_PARAMETER})
        return payload

    def count_workload(self) -> float:
        return scaled(characters([self.input, self.messages]) / EMBEDDED)

    @classmethod
    def for_benchmark(cls, options: OpenAISettings) -> Self:
        return cls.from_json_msg({"input": text_of(options.benchmark_embed_chars)})


@dataclass(kw_only=True)
class Rerank(OpenAIPayload):
    """`rerank` of `documents` by a `query`."""

    query: Any
    documents: Any

    def count_workload(self) -> float:
        return scaled(characters([self.query, self.documents]) / RANKED)

    @classmethod
    def for_benchmark(cls, options: OpenAISettings) -> Self:
        length = RANKED // (_DOCUMENTS + 1)
        documents = [text_of(length) for _ in range(_DOCUMENTS)]
        query = text_of(RANKED - length * _DOCUMENTS)
        return cls.from_json_msg({"query": query, "documents": documents})


@dataclass(kw_only=True)
class Score(OpenAIPayload):
    """`score` of pairs of texts, by whichever names the server has for the two sides."""

    text_1: Any = None
    text_2: Any = None
    queries: Any = None
    documents: Any = None
    query: Any = None
    items: Any = None
    data_1: Any = None
    data_2: Any = None

    def count_workload(self) -> float:
        one_side = [self.text_1, self.queries, self.query, self.data_1]
        other_side = [self.text_2, self.documents, self.items, self.data_2]
        return scaled(characters([one_side, other_side]) / RANKED)

    @classmethod
    def for_benchmark(cls, options: OpenAISettings) -> Self:
        length = RANKED // (_DOCUMENTS + 1)
        texts = [text_of(length) for _ in range(_DOCUMENTS)]
        return cls.from_json_msg({"text_1": text_of(RANKED - length * _DOCUMENTS), "text_2": texts})
