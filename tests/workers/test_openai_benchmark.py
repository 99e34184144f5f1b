"""The benchmark of every route of the OpenAI worker, against a stand-in of vLLM."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyworker.config import Settings
from pyworker.lifecycle.benchmark import Benchmark
from pyworker.local.model_server import ModelServer
from pyworker.local.openai_api.api import OpenAIApi
from pyworker.local.signing import Signer
from pyworker.registry import load_worker
from tests.support.waiting import DEADLINE
from tests.workers.conftest import openai_stack
from workers.openai.routes import ROUTES
from workers.openai.samples import SPEECH
from workers.openai.wav import wav_seconds


@pytest.fixture(scope="module")
def standin(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModelServer]:
    """One that takes all requests of a round at once."""
    log = tmp_path_factory.mktemp("vllm") / "model.log"
    with ModelServer(api=OpenAIApi("vllm"), log_file=log, parallel=10) as running:
        yield running


@pytest.mark.parametrize("route", ROUTES)
def test_the_benchmark_of_every_route(standin: ModelServer, route: str) -> None:
    settings = Settings.from_env({"BENCHMARK_ROUTE": route, "MODEL_SERVER_URL": standin.url})
    backend = load_worker("vllm").create_backend(settings)
    handler = dataclasses.replace(backend.benchmark_handler, benchmark_runs=1)
    before = len(standin.stats.requests(f"/v1/{route}"))
    try:
        benchmark = Benchmark(
            handler,
            backend.client,
            concurrency=backend.benchmark_concurrency,
            timeout=60,
            ready_timeout=DEADLINE,
        )
        assert benchmark.run() > 0
    finally:
        backend.client.close()
    requests = standin.stats.requests(f"/v1/{route}")[before:]
    assert len(requests) == ROUTES[route].at_once + 1  # the first one warms up
    # No cache can have seen any of them.
    sent = {repr((request.fields, request.files)) for request in requests}
    assert len(sent) == len(requests)


def test_a_worker_measures_the_route_it_is_told(
    standin: ModelServer, tmp_path: Path, signing_key: Signer
) -> None:
    variables = {"BENCHMARK_ROUTE": "audio/transcriptions", "MODEL_SERVER_URL": standin.url}
    with openai_stack(tmp_path, signing_key, variables, benchmark=None) as stack:
        assert stack.reports[-1]["max_perf"] > 0
        measured = (tmp_path / ".has_benchmark").read_text()
    assert '"/v1/audio/transcriptions"' in measured
    assert '"workers.openai"' in measured


def test_the_speech_is_small_and_lasts_some_seconds() -> None:
    data = SPEECH.read_bytes()
    assert len(data) < 100_000
    assert 4 < (wav_seconds(data) or 0) < 10
