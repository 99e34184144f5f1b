"""What can go wrong: functions on threads, a generator that stops, and a program that goes on after `run`."""

import os
import threading
from pathlib import Path
from typing import Any

from aiohttp import ClientResponse, web

from pyworker.sdk import (
    BenchmarkConfig,
    HandlerConfig,
    JsonDataException,
    LogActionConfig,
    Worker,
    WorkerConfig,
)

FOLDER = Path()
running: list[str] = []


def named(payload: dict[str, Any]) -> dict[str, Any]:
    if "name" not in payload:
        raise JsonDataException({"name": "missing parameter"})
    return payload


def misjudged(payload: dict[str, Any]) -> float:
    return float(payload["nowhere"])


async def piecewise(request: web.Request, response: ClientResponse) -> web.StreamResponse:
    stream = web.StreamResponse(status=response.status)
    await stream.prepare(request)
    async for piece in response.content.iter_any():
        if piece == b"stop":
            raise ValueError("in the middle")
        await stream.write(b"<" + piece + b">")
    return stream


def serial(name: str) -> dict[str, object]:
    """Blocks until the test lets it go on."""
    running.append(name)
    together = list(running)
    (FOLDER / f"began-{name}").touch()
    while not (FOLDER / f"end-{name}").exists():
        pause.wait(0.01)
    running.remove(name)
    return {"together": together, "thread": threading.current_thread().name}


pause = threading.Event()
config = WorkerConfig(
    model_server_url="http://127.0.0.1",
    model_server_port=os.environ["PROGRAM_MODEL_PORT"],
    model_healthcheck_url="/health",
    handlers=[
        HandlerConfig(
            "/named", benchmark_config=BenchmarkConfig([{"name": "x"}], runs=1), request_parser=named
        ),
        HandlerConfig("/misjudged", workload_calculator=misjudged, healthcheck="/health"),
        HandlerConfig("/piecewise", response_generator=piecewise, allow_parallel_requests=True),
        HandlerConfig("/serial", remote_function=serial),
    ],
    log_action_config=LogActionConfig(on_load=["loaded"]),
)

try:
    Worker(config).run(host="127.0.0.1")
finally:
    with (FOLDER / "ended").open("a") as ended:
        ended.write("once\n")
