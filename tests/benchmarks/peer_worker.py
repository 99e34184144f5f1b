"""The peer's worker, with the same two routes as `bench_worker`; runs in the peer's own environment."""

from __future__ import annotations

import importlib
import os
import ssl
from typing import Any


def workload(payload: dict[str, Any]) -> float:
    """As `BenchData.count_workload`."""
    return 1.0 + payload["tokens"]


def use_certificate() -> None:
    """The peer takes its certificate from two fixed paths of the instance; here it is given others."""
    certificate, key = os.environ["SSL_CERTFILE"], os.environ["SSL_KEYFILE"]
    load = ssl.SSLContext.load_cert_chain

    def load_ours(context: ssl.SSLContext, **_: object) -> None:
        load(context, certificate, key)

    ssl.SSLContext.load_cert_chain = load_ours  # type: ignore[method-assign,assignment]


def main() -> None:
    sdk: Any = importlib.import_module("vastai.serverless.server.worker")

    def handler(route: str, benchmark: object = None) -> object:
        return sdk.HandlerConfig(
            route=route,
            allow_parallel_requests=True,
            benchmark_config=benchmark,
            workload_calculator=workload,
        )

    model_url, _, model_port = os.environ["MODEL_SERVER_URL"].rpartition(":")
    benchmark = sdk.BenchmarkConfig(dataset=[{"tokens": 0}])
    sdk.Worker(
        sdk.WorkerConfig(
            model_server_url=model_url,
            model_server_port=int(model_port),
            model_log_file=os.environ["MODEL_LOG"],
            model_healthcheck_url="/health",
            handlers=[handler("/generate", benchmark), handler("/stream")],
            log_action_config=sdk.LogActionConfig(on_load=["model is loaded"]),
        )
    ).run()


if __name__ == "__main__":
    use_certificate()
    main()
