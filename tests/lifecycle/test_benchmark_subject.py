"""What tells one benchmark from another."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import pytest
from typing_extensions import Self

from pyworker.data_types import Form, OpenPayload, Upload
from pyworker.lifecycle.benchmark_subject import COMPARED, describe, fingerprint
from pyworker.routes import Post
from pyworker.words import random_words


@dataclass
class Text(OpenPayload):
    form: Form | None = None

    @classmethod
    def for_test(cls) -> Self:
        return cls()

    def count_workload(self) -> float:
        return 1.0

    def generate_payload_multipart(self) -> Form | None:
        return self.form


@dataclass
class CountedInHundreds(Text):
    def count_workload(self) -> float:
        return 100.0


@dataclass
class CountedOtherwise(Text):
    def count_workload(self) -> float:
        return 1.0 if self.form is None else 2.0


def of(
    fields: Mapping[str, Any], *, concurrency: int = 3, words: int = 100, payload_cls: type[Text] = Text
) -> str:
    """Of a benchmark whose requests have these fields; a function makes one anew for each."""
    handler = replace(Post("/generate", payload_cls).handler(), benchmark_words=words)
    payloads = [
        payload_cls.from_json_msg(
            {name: value() if callable(value) else value for name, value in fields.items()}
        )
        for _ in range(COMPARED)
    ]
    return fingerprint(handler, payloads, concurrency)


def prompt() -> str:
    return random_words(50)


def seed() -> int:
    return random.getrandbits(63)


def workflow() -> dict[str, Any]:
    return {"1": {"seed": seed(), "steps": 20}, "2": [seed(), "fixed"]}


USUAL = {"model": "small", "prompt": prompt, "seed": seed, "max_tokens": 64, "nodes": workflow}


def test_what_changes_with_each_request_does_not_count() -> None:
    assert of(USUAL) == of(USUAL)


@pytest.mark.parametrize(
    "changed",
    [
        {"model": "large"},
        {"max_tokens": 65},
        {"stream": True},
        {"prompt": "always the same"},
        {"nodes": lambda: workflow() | {"3": "one more"}},
        {"nodes": lambda: workflow() | {"2": [seed(), "other"]}},
    ],
)
def test_another_request_is_another_benchmark(changed: Mapping[str, Any]) -> None:
    assert of({**USUAL, **changed}) != of(USUAL)


def test_how_many_at_once_and_how_many_words_count() -> None:
    assert len({of(USUAL), of(USUAL, concurrency=4), of(USUAL, words=200)}) == 3


@pytest.mark.parametrize("payload_cls", [CountedInHundreds, CountedOtherwise])
def test_how_workload_is_counted_counts(payload_cls: type[Text]) -> None:
    """The throughput is in its unit."""
    assert of(USUAL, payload_cls=payload_cls) == of(USUAL, payload_cls=payload_cls)
    assert of(USUAL, payload_cls=payload_cls) != of(USUAL)


def test_files_count() -> None:
    def form_of(data: bytes) -> str:
        form = Form([("voice", "a")], [("audio", Upload(data, "a.wav", "audio/wav"))])
        return fingerprint(Post("/generate", Text).handler(), [Text(form)] * COMPARED, 1)

    assert form_of(b"1") == form_of(b"1") != form_of(b"2")


def test_the_worker_is_named_by_its_package() -> None:
    handler = Post("/generate", Text).handler()
    assert describe(handler, "workers.my_llm")["worker"] == "workers.my_llm"
