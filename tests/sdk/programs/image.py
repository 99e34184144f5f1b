"""An image server, one request at a time: payloads are checked and filled in, responses are put together."""

import os
from typing import Any

from aiohttp import ClientResponse, web

from pyworker.sdk import BenchmarkConfig, HandlerConfig, LogActionConfig, Worker, WorkerConfig


def with_defaults(payload: dict[str, Any]) -> dict[str, Any]:
    payload.setdefault("steps", 20)
    payload["size"] = [min(int(side), 1024) for side in payload.pop("size", [512, 512])]
    return payload


def tiles(payload: dict[str, Any]) -> float:
    width, height = payload["size"]
    return payload["steps"] * width * height / 512**2


async def with_seed(request: web.Request, response: ClientResponse) -> web.StreamResponse:
    asked = (await request.json())["payload"]
    made: dict[str, Any] = await response.json()
    return web.json_response({"images": made["images"], "asked": asked, "seed": made.get("seed", 7)})


config = WorkerConfig(
    model_server_url="http://127.0.0.1",
    model_server_port=int(os.environ["PROGRAM_MODEL_PORT"]),
    model_log_file=os.environ["MODEL_LOG"],
    model_healthcheck_url="/health",
    handlers=[
        HandlerConfig(
            route="/generate/sync",
            max_queue_time=10.0,
            request_parser=with_defaults,
            response_generator=with_seed,
            workload_calculator=tiles,
            benchmark_config=BenchmarkConfig(
                dataset=[{"prompt": "a lighthouse", "steps": 4, "size": [512, 512]}], runs=1, concurrency=10
            ),
        ),
        # Neither parser nor workload: each request counts 100.
        HandlerConfig(route="/upscale", max_queue_time=None),
    ],
    log_action_config=LogActionConfig(
        on_load=["BACKENDS_READY"], on_error=["BACKEND_UNRECOVERABLE"], on_info=["Total VRAM"]
    ),
    max_sessions=None,
)

Worker(config).run()
