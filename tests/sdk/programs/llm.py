"""An LLM server with the routes of OpenAI: responses are passed on, whole or streamed."""

import os
import random
from typing import Any

from pyworker.sdk import BenchmarkConfig, HandlerConfig, LogActionConfig, Worker, WorkerConfig

MODEL_SERVER_URL = "http://127.0.0.1"
MODEL_SERVER_PORT = int(os.environ["PROGRAM_MODEL_PORT"])
MODEL_LOG_FILE = os.environ["MODEL_LOG"]

LOADED = ["Application startup complete."]
ERRORS = ["INFO exited: vllm", "RuntimeError: Engine"]
INFOS = ['"message":"Download']


def unwrapped(payload: dict[str, Any]) -> dict[str, Any]:
    return payload["input"] if isinstance(payload.get("input"), dict) else payload


def tokens(payload: dict[str, Any]) -> float:
    return float(payload.get("max_tokens", 0))


def example() -> dict[str, Any]:
    words = random.choices(["tide", "moon", "sea", "sand", "gull"], k=20)
    return {"model": "tiny", "prompt": " ".join(words), "max_tokens": 500, "temperature": 0.7}


completions = HandlerConfig(
    route="/v1/completions",
    allow_parallel_requests=True,
    max_queue_time=600.0,
    request_parser=unwrapped,
    workload_calculator=tokens,
    benchmark_config=BenchmarkConfig(generator=example, concurrency=4, runs=2),
)
chat = HandlerConfig(
    route="/v1/chat/completions",
    allow_parallel_requests=True,
    max_queue_time=600.0,
    request_parser=unwrapped,
    workload_calculator=tokens,
)
config = WorkerConfig(
    model_server_url=MODEL_SERVER_URL,
    model_server_port=MODEL_SERVER_PORT,
    model_log_file=MODEL_LOG_FILE,
    model_healthcheck_url="/health",
    handlers=[completions, chat],
    log_action_config=LogActionConfig(on_load=LOADED, on_error=ERRORS, on_info=INFOS),
)

Worker(config).run()
