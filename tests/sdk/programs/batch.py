"""Functions in place of a model server, with what they need loaded when the worker starts."""

import asyncio
import random
from typing import Any

from pyworker.sdk import BenchmarkConfig, HandlerConfig, Worker, WorkerConfig


class Vocabulary:
    """What the functions need, for as long as the worker runs."""

    def __init__(self) -> None:
        self.weights: dict[str, int] = {}

    async def __aenter__(self) -> "Vocabulary":
        await asyncio.sleep(0)
        self.weights = {"tide": 3, "moon": 5}
        return self

    async def __aexit__(self, *_error: object) -> None:
        self.weights = {}


vocabulary = Vocabulary()


async def score(texts: list[str], scale: int = 1) -> list[int]:
    await asyncio.sleep(0.001)
    return [scale * sum(vocabulary.weights.get(word, 0) for word in text.split()) for text in texts]


async def fail(reason: str) -> None:
    raise ValueError(reason)


def number_of_texts(payload: dict[str, Any]) -> float:
    return len(payload["texts"])


def example() -> dict[str, Any]:
    return {"texts": random.choices(["tide moon", "moon moon", "sea"], k=8), "scale": 2}


config = WorkerConfig(
    handlers=[
        HandlerConfig(
            route="/remote/score",
            allow_parallel_requests=True,
            remote_function=score,
            workload_calculator=number_of_texts,
            benchmark_config=BenchmarkConfig(generator=example, runs=2, concurrency=4),
        ),
        HandlerConfig(route="/remote/fail", remote_function=fail),
    ],
    lifecycle=vocabulary,
)

Worker(config).run()
