"""The worker's own client and load test, as commands, through the envelope and through the door."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Sequence

import pytest

from pyworker.local.signing import Signer
from tests.support.engine_stack import DOOR_KEY, EngineStack, engine_stack
from tests.support.engines import Engine
from tests.support.process import ROOT
from tests.support.sdk import API_KEY, ENDPOINT

pytestmark = [pytest.mark.engines, pytest.mark.timeout(300)]

PROCESS_SECONDS = 120


@pytest.fixture(scope="module")
def stack(
    llama_cpp: Engine, tmp_path_factory: pytest.TempPathFactory, signing_key: Signer
) -> Iterator[EngineStack]:
    """A ready worker in front of llama.cpp's server."""
    with engine_stack(tmp_path_factory.mktemp("programs"), signing_key, llama_cpp, "llama") as stack:
        yield stack


def run(module: str, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", module, *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=PROCESS_SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stderr or done.stdout
    return done.stdout


def way(stack: EngineStack, name: str) -> Sequence[str]:
    if name == "door":
        return ("--openai", stack.url, "-k", DOOR_KEY)
    return ("--autoscaler", stack.autoscaler.url, "-k", API_KEY, "-e", ENDPOINT)


WAYS = pytest.mark.parametrize("by", ["envelope", "door"])


@WAYS
@pytest.mark.parametrize("options", [(), ("--stream",), ("--completions",)], ids=["chat", "stream", "text"])
def test_the_client_prints_what_the_model_says(stack: EngineStack, by: str, options: Sequence[str]) -> None:
    before = stack.settled()

    said = run("workers.llama.client", *way(stack, by), "--prompt", "What?", "--max-tokens", "30", *options)

    assert said.split()
    assert 0 < stack.settled() - before <= 30


@WAYS
def test_a_load_test_without_a_failure(stack: EngineStack, by: str) -> None:
    before = stack.settled()

    said = run("workers.llama.test_load", "-n", "12", "-rps", "4", *way(stack, by))

    assert "12" in said
    assert stack.settled() > before
