"""A speech server: the client gets sound, whole or piece by piece, made of what the server answers."""

import os
from typing import Any

from aiohttp import ClientResponse, web

from pyworker.sdk import BenchmarkConfig, HandlerConfig, LogActionConfig, Worker, WorkerConfig


async def whole(_request: web.Request, response: ClientResponse) -> web.StreamResponse:
    if response.status != 200:
        return web.json_response({"error": await response.text()}, status=response.status)
    body = await response.read()
    return web.Response(body=body, content_type="audio/wav", headers={"X-Sound-Bytes": str(len(body))})


async def streamed(request: web.Request, response: ClientResponse) -> web.StreamResponse:
    stream = web.StreamResponse(status=response.status)
    stream.content_type = "audio/wav"
    await stream.prepare(request)
    async for piece in response.content.iter_any():
        await stream.write(piece)
    await stream.write_eof()
    return stream


async def broken(_request: web.Request, response: ClientResponse) -> web.StreamResponse:
    raise ValueError(f"no sound in {response.status}")


def characters(payload: dict[str, Any]) -> float:
    return len(payload["text"])


def main() -> None:
    """Started by the guard below, as most programs are."""
    speak = HandlerConfig(
        route="/speak",
        response_generator=whole,
        workload_calculator=characters,
        benchmark_config=BenchmarkConfig(
            dataset=[{"text": "The sea is calm tonight."}, {"text": "The tide is full."}], runs=1
        ),
    )
    stream = HandlerConfig(route="/stream", response_generator=streamed, workload_calculator=characters)
    fail = HandlerConfig(route="/fail", response_generator=broken, workload_calculator=characters)
    config = WorkerConfig(
        model_server_url="http://127.0.0.1",
        model_server_port=int(os.environ["PROGRAM_MODEL_PORT"]),
        model_log_file=os.environ["MODEL_LOG"],
        model_healthcheck_url="/health",
        handlers=[speak, stream, fail],
        log_action_config=LogActionConfig(on_load=["speech server is up"], on_error=["cannot load voice"]),
    )
    Worker(config).run()


if __name__ == "__main__":
    main()
