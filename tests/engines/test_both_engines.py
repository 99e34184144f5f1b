"""What a worker does in front of llama.cpp's server and of `transformers serve` alike.

The first ends a stream with `[DONE]` and tells its usage only if it is asked; the second does neither.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from pyworker.local.signing import Signer
from tests.support.engine_stack import DOOR_KEY, EngineStack, Events, engine_stack
from tests.support.engines import Engine
from tests.support.http import ask, next_request_idx

pytestmark = [pytest.mark.engines, pytest.mark.timeout(300)]

PROMPT = "What is a tide?"
CHAT = [{"role": "user", "content": PROMPT}]
LLAMA_CPP, TRANSFORMERS = "llama.cpp", "transformers serve"
#: The worker for each engine.
WORKERS = {LLAMA_CPP: "llama", TRANSFORMERS: "openai"}


@pytest.fixture(scope="module", params=list(WORKERS))
def engine(request: pytest.FixtureRequest) -> Engine:
    """Each of them."""
    return request.getfixturevalue("llama_cpp" if request.param == LLAMA_CPP else "transformers_serve")


@pytest.fixture(scope="module")
def stack(
    engine: Engine, tmp_path_factory: pytest.TempPathFactory, signing_key: Signer
) -> Iterator[EngineStack]:
    """A ready worker."""
    with engine_stack(tmp_path_factory.mktemp("worker"), signing_key, engine, WORKERS[engine.name]) as stack:
        yield stack


@pytest.fixture
def served_before(stack: EngineStack) -> float:
    """The work of everything before this test."""
    return stack.settled()


def completion(**fields: Any) -> tuple[str, dict[str, Any]]:
    return "/v1/completions", {"prompt": PROMPT, "max_tokens": 12, "temperature": 0.5, **fields}


def chat(**fields: Any) -> tuple[str, dict[str, Any]]:
    return "/v1/chat/completions", {"messages": CHAT, "max_tokens": 12, "temperature": 0.5, **fields}


ROUTES = pytest.mark.parametrize("route", [completion, chat], ids=["completions", "chat"])


@ROUTES
def test_a_whole_response_is_settled_by_its_usage(
    stack: EngineStack, served_before: float, route: Any
) -> None:
    path, payload = route()
    request_idx = next_request_idx()

    answer = stack.call(path, payload, request_idx)

    assert answer.status == 200
    body = answer.object()
    [choice] = body["choices"]
    assert (choice["text"] if path == "/v1/completions" else choice["message"]["content"]).strip()
    tokens = body["usage"]["completion_tokens"]
    assert 0 < tokens <= 12
    assert body["usage"]["total_tokens"] == body["usage"]["prompt_tokens"] + tokens
    assert stack.outcome(request_idx) == "Success"
    assert stack.settled() == served_before + tokens


@ROUTES
def test_a_stream_is_the_engine_s(stack: EngineStack, served_before: float, route: Any) -> None:
    """The worker asks for the usage, and takes what it got for that out again."""
    path, payload = route(stream=True)
    direct = Events.of(stack.model.post(path, json.dumps(payload).encode()))
    request_idx = next_request_idx()

    answer = stack.call(path, payload, request_idx)

    assert (answer.status, answer.complete) == (200, True)
    events = Events.of(answer)
    assert events.done == direct.done == (stack.model.name == LLAMA_CPP)
    assert events.text.strip()
    assert len(events.usages) == len(direct.usages)
    # llama.cpp tells its timings beside the usage, and without one in the last chunk.
    assert set(direct.objects[-1]) - set(events.objects[-1]) <= {"timings"}
    assert all(event["choices"] for event in events.objects)
    assert stack.outcome(request_idx) == "Success"
    for usage in events.usages:
        assert stack.settled() == served_before + usage["completion_tokens"]


@ROUTES
def test_a_client_that_asks_for_the_usage_gets_it(
    stack: EngineStack, served_before: float, route: Any
) -> None:
    path, payload = route(stream=True, stream_options={"include_usage": True})

    events = Events.of(stack.call(path, payload))

    [usage] = events.usages
    assert usage == events.objects[-1]["usage"]
    assert 0 < usage["completion_tokens"] <= 12
    assert stack.settled() == served_before + usage["completion_tokens"]


def test_an_error_of_the_engine_is_passed_on_as_it_is(stack: EngineStack, served_before: float) -> None:
    if stack.model.name == LLAMA_CPP:
        path, payload = chat(messages=[{"role": "user", "content": [{"type": "no such type"}]}])
    else:
        path, payload = chat(no_such_field=True)
    direct = stack.model.post(path, json.dumps(payload).encode())
    assert 400 <= direct.status < 500
    request_idx = next_request_idx()

    answer = stack.call(path, payload, request_idx)

    assert (answer.status, answer.body) == (direct.status, direct.body)
    assert stack.outcome(request_idx) == "Success"
    assert stack.settled() == served_before


def test_a_request_that_needs_no_envelope(stack: EngineStack, served_before: float) -> None:
    path, payload = chat()

    answer = ask(
        stack.url, "POST", path, json.dumps(payload).encode(), {"Authorization": f"Bearer {DOOR_KEY}"}
    )

    assert answer.status == 200
    assert stack.settled() == served_before + answer.object()["usage"]["completion_tokens"]


def test_the_models_are_the_engine_s(stack: EngineStack) -> None:
    direct = stack.model.get("/v1/models").object()

    answer = ask(stack.url, "GET", "/v1/models", headers={"Authorization": f"Bearer {DOOR_KEY}"})

    assert answer.status == 200
    assert [model["id"] for model in answer.object()["data"]] == [model["id"] for model in direct["data"]]


def test_the_engine_is_not_told_who_asks(stack: EngineStack) -> None:
    assert DOOR_KEY not in stack.model.log
    assert "auth_data" not in stack.model.log
    assert PROMPT not in stack.worker.log
