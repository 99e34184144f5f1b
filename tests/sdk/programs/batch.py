"""Functions in place of a model server, with what they need loaded when the worker starts."""

import asyncio
import random
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

from pyworker.sdk import BenchmarkConfig, HandlerConfig, Worker, WorkerConfig

weights: dict[str, int] = {}


@asynccontextmanager
async def vocabulary() -> AsyncGenerator[None]:
    """What the functions need, for as long as the worker runs."""
    await asyncio.sleep(0)
    weights.update({"tide": 3, "moon": 5})
    yield
    weights.clear()


async def score(texts: list[str], scale: int = 1) -> list[int]:
    await asyncio.sleep(0.001)
    return [scale * sum(weights.get(word, 0) for word in text.split()) for text in texts]


async def reserve(**options: object) -> dict[str, object]:
    """Until its client hangs up, or for as long as it says."""
    await asyncio.sleep(float(str(options.get("seconds", 3600))))
    return {"released": options}


async def fail(reason: str) -> None:
    raise ValueError(reason)


def number_of_texts(payload: dict[str, Any]) -> float:
    return len(payload["texts"])


def example() -> dict[str, Any]:
    return {"texts": random.choices(["tide moon", "moon moon", "sea"], k=8), "scale": 2}


config = WorkerConfig(
    # Nothing listens there.
    model_server_url="http://127.0.0.1",
    model_server_port=1,
    handlers=[
        HandlerConfig(
            route="/remote/score",
            allow_parallel_requests=True,
            remote_function=score,
            workload_calculator=number_of_texts,
            benchmark_config=BenchmarkConfig(generator=example, runs=2, concurrency=4),
        ),
        HandlerConfig(route="/remote/fail", remote_function=fail),
        HandlerConfig(route="/reserve", remote_function=reserve, workload_calculator=lambda _payload: 100.0),
    ],
    lifecycle=vocabulary(),
)

Worker(config).run()
