"""`BACKEND=auto` in front of real engines: which worker it takes, and that this one serves."""

from __future__ import annotations

from pathlib import Path

import pytest

from pyworker.local.signing import Signer
from tests.support import engines
from tests.support.engine_stack import engine_stack
from tests.support.engines import Engine
from tests.support.waiting import DEADLINE

pytestmark = [pytest.mark.engines, pytest.mark.timeout(300)]

PAYLOAD = {"prompt": "What is a tide?", "max_tokens": 3}
#: A worker that found its engine is a new process.
FOUND_SECONDS = 3 * DEADLINE


@pytest.mark.parametrize(("engine", "worker"), [("llama_cpp", "llama"), ("transformers_serve", "openai")])
def test_it_takes_the_worker_of_the_engine(
    request: pytest.FixtureRequest, tmp_path: Path, signing_key: Signer, engine: str, worker: str
) -> None:
    running: Engine = request.getfixturevalue(engine)

    with engine_stack(tmp_path, signing_key, running, "auto") as stack:
        assert stack.call("/v1/completions", PAYLOAD).status == 200
        [line] = [line for line in stack.worker.log.splitlines() if "BACKEND=auto" in line]
        assert f" {worker}" in line
        assert running.url in line


def test_it_waits_for_an_engine_that_starts_later(tmp_path: Path, signing_key: Signer) -> None:
    engine = engines.llama_cpp(tmp_path)
    with engine_stack(tmp_path, signing_key, engine, "auto", ready=False) as stack:
        stack.wait_for_report(lambda report: report["max_perf"] == 0, "a report of a worker that waits")
        assert stack.call("/v1/completions", PAYLOAD).status == 503
        engine.start()
        try:
            stack.wait_for_report(lambda report: report["max_perf"] > 0, "one that serves", FOUND_SECONDS)
            stack.wait_ready()
            assert stack.call("/v1/completions", PAYLOAD).status == 200
        finally:
            engine.stop()
