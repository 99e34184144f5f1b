"""The public SDK, unmodified, through the envelope: its route, an engine's whole response and its stream."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyworker.local.signing import Signer
from tests.support.engine_stack import EngineStack, engine_stack
from tests.support.engines import Engine
from tests.support.process import ROOT
from tests.support.sdk import API_KEY, SdkClient, installed_sdk

# The first test may have to install the SDK.
pytestmark = [pytest.mark.engines, pytest.mark.timeout(700)]

PROMPT = "What is a tide?"
MESSAGES = [{"role": "user", "content": PROMPT}]


@pytest.fixture(scope="module")
def stack(
    llama_cpp: Engine, tmp_path_factory: pytest.TempPathFactory, signing_key: Signer
) -> Iterator[EngineStack]:
    """A ready worker in front of it."""
    with engine_stack(tmp_path_factory.mktemp("vastai"), signing_key, llama_cpp, "llama") as stack:
        yield stack


@pytest.fixture(scope="module")
def sdk(stack: EngineStack) -> Iterator[SdkClient]:
    """The SDK's client of that worker's endpoint."""
    named = os.environ.get("PYWORKER_TEST_SDK_PYTHON")
    python = Path(named) if named else installed_sdk(ROOT / ".pyworker")
    with SdkClient(python, stack.autoscaler.url) as client:
        assert client.began() == {"ready": True}
        yield client


@pytest.fixture
def served_before(stack: EngineStack) -> float:
    """The work of everything before this test."""
    return stack.settled()


def test_a_whole_completion(sdk: SdkClient, stack: EngineStack, served_before: float) -> None:
    payload = {"prompt": PROMPT, "max_tokens": 30, "temperature": 0.5}

    result = sdk.do("request", route="/v1/completions", payload=payload, cost=30)

    assert (result["ok"], result["status"]) == (True, 200)
    assert result["response"]["choices"][0]["text"]
    assert stack.settled() == served_before + result["response"]["usage"]["completion_tokens"]
    assert stack.outcome(result["request_idx"]) == "Success"


def test_a_payload_that_is_wrapped(sdk: SdkClient) -> None:
    payload = {"input": {"messages": MESSAGES, "max_tokens": 30}}

    result = sdk.do("request", route="/v1/chat/completions", payload=payload, cost=30)

    assert result["ok"]
    assert result["response"]["choices"][0]["message"]["content"]


def test_a_stream_item_by_item(sdk: SdkClient, stack: EngineStack, served_before: float) -> None:
    payload = {"messages": MESSAGES, "max_tokens": 30, "stream": True, "ignore_eos": True}
    number = sdk.order("request", route="/v1/chat/completions", payload=payload, cost=30, stream=True)

    items: list[str] = []
    while "item" in (said := sdk.next(number)):
        items.append("".join(choice["delta"].get("content") or "" for choice in said["item"]["choices"]))

    assert said["ok"]
    assert "".join(items).strip()
    assert len(items) > 10
    assert stack.settled() == served_before + 30


def test_an_error_of_the_engine(sdk: SdkClient) -> None:
    payload = {"prompt": "tide " * 4_000, "max_tokens": 5}

    result = sdk.do("request", route="/v1/completions", payload=payload, cost=5)

    assert (result["ok"], result["status"]) == (False, 400)
    assert result["response"]["error"]["type"] == "exceed_context_size_error"


def test_the_user_s_key_stays_here(sdk: SdkClient, stack: EngineStack) -> None:
    """The SDK sends it along with the envelope."""
    assert sdk.do("request", route="/v1/completions", payload={"prompt": "go", "max_tokens": 2}, cost=2)["ok"]

    assert API_KEY not in stack.model.log
    assert API_KEY not in stack.worker.log
