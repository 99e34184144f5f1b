"""`transformers serve`: errors within a response of status 200, and what it refuses."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from pyworker.local.signing import Signer
from tests.support.engine_stack import EngineStack, Events, engine_stack
from tests.support.engines import Engine
from tests.support.http import next_request_idx

pytestmark = [pytest.mark.engines, pytest.mark.timeout(300)]

#: Of its model; each word takes some of them.
POSITIONS = 2048
LONG = "tide " * POSITIONS


@pytest.fixture(scope="module")
def stack(
    transformers_serve: Engine, tmp_path_factory: pytest.TempPathFactory, signing_key: Signer
) -> Iterator[EngineStack]:
    """A ready worker in front of it."""
    folder = tmp_path_factory.mktemp("transformers")
    with engine_stack(folder, signing_key, transformers_serve, "openai") as stack:
        yield stack


@pytest.fixture
def served_before(stack: EngineStack) -> float:
    """The work of everything before this test."""
    return stack.settled()


def test_a_prompt_above_the_context_is_an_error(stack: EngineStack, served_before: float) -> None:
    request_idx = next_request_idx()

    answer = stack.call("/v1/completions", {"prompt": LONG, "max_tokens": 4}, request_idx)

    assert answer.status == 500
    assert stack.outcome(request_idx) == "Error"
    assert stack.settled() == served_before


def test_an_error_within_a_stream_of_status_200_is_an_error(stack: EngineStack, served_before: float) -> None:
    request_idx = next_request_idx()

    answer = stack.call("/v1/completions", {"prompt": LONG, "max_tokens": 4, "stream": True}, request_idx)

    assert (answer.status, answer.complete) == (200, True)
    assert "index out of range" in json.loads(answer.body.decode().removeprefix("data: "))["error"]
    assert stack.outcome(request_idx) == "Error"
    assert stack.settled() == served_before


def test_a_response_that_is_a_stream_unasked(stack: EngineStack, served_before: float) -> None:
    answer = stack.call("/v1/responses", {"input": "tide", "max_output_tokens": 6})

    assert (answer.header("Content-Type") or "").startswith("text/event-stream")
    last = json.loads(answer.body.decode().strip().rpartition("data: ")[2])
    assert last["type"] == "response.completed"
    assert stack.settled() == served_before + last["response"]["usage"]["output_tokens"]


def test_a_client_that_leaves_makes_way_for_the_next(stack: EngineStack) -> None:
    """One response is generated at a time, so the next begins only once this one was given up."""
    request_idx = next_request_idx()
    client = stack.begin(
        "/v1/completions", {"prompt": "tide", "max_tokens": POSITIONS - 100, "stream": True}, request_idx
    )
    assert client.head() == 200
    for _ in range(5):
        client.until(b"\n\n")

    client.close()

    assert stack.outcome(request_idx) == "Cancelled"
    assert Events.of(stack.call("/v1/completions", {"prompt": "go", "max_tokens": 3, "stream": True})).text


def test_a_model_by_another_name(stack: EngineStack) -> None:
    answer = stack.call("/v1/completions", {"prompt": "go", "max_tokens": 3, "model": "another"})

    assert answer.status == 400
    assert "pinned" in answer.object()["detail"]
