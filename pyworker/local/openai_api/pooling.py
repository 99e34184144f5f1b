"""Embeddings, and how similar texts are.

An embedding is the sum of a fixed direction for each word, so texts that share words are near to each other.
"""

from __future__ import annotations

import base64
import hashlib
import math
import struct
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import cast

import flask

from pyworker.local.openai_api.api_error import ApiError
from pyworker.local.openai_api.events import route, whole
from pyworker.local.openai_api.fields import EmbeddingFields, RerankFields
from pyworker.local.openai_api.service import Service, new_id
from pyworker.local.openai_api.text import prompts_of, text_prompt

DIMENSIONS = 32


@dataclass(frozen=True)
class Ranked:
    """A document of a rerank request, where it stood, and its score from 0 to 1."""

    index: int
    document: str
    score: float


def add_routes(app: flask.Flask, service: Service) -> None:
    """Embeddings; the other routes are the engines' own."""
    route(app, "/v1/embeddings", lambda: _embeddings(service))


def embedding(text: str) -> list[float]:
    """A vector of length 1; of the same direction for the same words."""
    total = [0.0] * DIMENSIONS
    for word in text.lower().split():
        for place, byte in enumerate(hashlib.blake2b(word.encode(), digest_size=DIMENSIONS).digest()):
            total[place] += byte - 127.5
    return _unit(total)


def similarity(one: str, other: str) -> float:
    """From 0 to 1, which is for the same words."""
    product = sum(a * b for a, b in zip(embedding(one), embedding(other), strict=True))
    return (1 + product) / 2


def ranking(service: Service, fields: RerankFields) -> tuple[list[Ranked], int]:
    """The best documents first, and the tokens of all."""
    documents = [_document_text(document) for document in fields.documents]
    tokens = take_in_texts(service, [f"{fields.query} {document}" for document in documents])
    results = [
        Ranked(index, document, similarity(fields.query, document))
        for index, document in enumerate(documents)
    ]
    results.sort(key=lambda result: result.score, reverse=True)
    most = fields.top_n if fields.top_n and fields.top_n > 0 else len(results)
    return results[:most], tokens


def take_in_texts(service: Service, texts: Sequence[str]) -> int:
    """Look at each text in turn, in the queue and at the pace of the engine; their tokens."""
    return _take_in(service, [text_prompt(text).tokens for text in texts])


def _embeddings(service: Service) -> flask.Response:
    fields = service.fields(EmbeddingFields)
    if fields.encoding_format not in (None, "float", "base64"):
        raise ApiError("encoding_format must be float or base64", param="encoding_format")
    size = fields.dimensions or DIMENSIONS
    if size > DIMENSIONS:
        raise ApiError(f"dimensions must be at most {DIMENSIONS}", param="dimensions")
    prompts = prompts_of(fields.input, "input")
    tokens = _take_in(service, [prompt.tokens for prompt in prompts])
    vectors = [_unit(embedding(prompt.text)[:size]) for prompt in prompts]
    is_packed = fields.encoding_format == "base64"
    return whole(
        {
            "id": new_id("embd"),
            "object": "list",
            "created": int(time.time()),
            "model": service.model,
            "data": [
                {"index": index, "object": "embedding", "embedding": _packed(vector) if is_packed else vector}
                for index, vector in enumerate(vectors)
            ],
            "usage": {
                "prompt_tokens": tokens,
                "total_tokens": tokens,
                "completion_tokens": 0,
                "prompt_tokens_details": None,
            },
        }
    )


def _take_in(service: Service, tokens: Sequence[int]) -> int:
    for count in tokens:
        service.face.check_length(count, None, service.context)

    def look() -> Iterator[int]:
        yield from tokens

    # A text takes as long as a token of a response.
    total = sum(service.work(look()))
    service.take_in(total)
    return total


def _unit(vector: Sequence[float]) -> list[float]:
    length = math.sqrt(sum(number * number for number in vector)) or 1.0
    return [number / length for number in vector]


def _packed(vector: Sequence[float]) -> str:
    """32-bit floats, the least significant byte first, in base64."""
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()


def _document_text(document: object) -> str:
    """A document is a text, or an object with one."""
    if isinstance(document, dict):
        document = cast("dict[str, object]", document).get("text")
    if not isinstance(document, str):
        raise ApiError("a document must be a text, or an object with a text", param="documents")
    return document
