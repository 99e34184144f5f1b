"""The client that Hugging Face publishes takes the stand-in for TGI: its shapes and its errors."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from huggingface_hub import InferenceClient, close_session
from huggingface_hub.errors import GenerationError, ValidationError

from pyworker.local.model_server import ModelServer
from pyworker.local.tgi_api import TgiApi
from tests.support.waiting import DEADLINE


@pytest.fixture
def server() -> Iterator[ModelServer]:
    with ModelServer(api=TgiApi(), seed=1) as running:
        yield running


@pytest.fixture(autouse=True)
def own_connections() -> Iterator[None]:
    """All clients share a pool."""
    yield
    close_session()


@pytest.fixture(params=["", "/generate"])
def client(request: pytest.FixtureRequest, server: ModelServer) -> Iterator[InferenceClient]:
    """One that is given the server, or its route."""
    with InferenceClient(server.url + request.param, timeout=DEADLINE, token="unused") as client:
        yield client


@pytest.fixture(params=["", "/generate_stream"])
def streaming(request: pytest.FixtureRequest, server: ModelServer) -> Iterator[InferenceClient]:
    """Likewise, for streams."""
    with InferenceClient(server.url + request.param, timeout=DEADLINE, token="unused") as client:
        yield client


def test_a_whole_text(client: InferenceClient) -> None:
    plain = client.text_generation("the sea is", max_new_tokens=9, seed=3)
    asked = client.text_generation("the sea is", max_new_tokens=9, seed=3, details=True)
    assert plain == asked.generated_text
    assert asked.details is not None
    assert (asked.details.finish_reason, asked.details.generated_tokens) == ("length", 9)
    assert "".join(token.text for token in asked.details.tokens) == plain


def test_a_stream(client: InferenceClient, streaming: InferenceClient) -> None:
    whole = client.text_generation("the sea is", max_new_tokens=9, seed=3)
    pieces = list(streaming.text_generation("the sea is", max_new_tokens=9, seed=3, stream=True))
    events = list(
        streaming.text_generation("the sea is", max_new_tokens=9, seed=3, stream=True, details=True)
    )
    assert "".join(pieces) == whole == events[-1].generated_text
    assert [event.index for event in events] == list(range(1, 10))
    assert events[-1].details is not None
    assert (events[-1].details.generated_tokens, events[-1].details.input_length) == (9, 4)


def test_a_stop_sequence(client: InferenceClient) -> None:
    text = client.text_generation("rain", max_new_tokens=30, seed=3)
    stopped = client.text_generation("rain", max_new_tokens=30, seed=3, stop=[text[9:12]], details=True)
    assert stopped.details is not None
    assert stopped.details.finish_reason == "stop_sequence"


def test_an_invalid_request(client: InferenceClient, streaming: InferenceClient) -> None:
    with pytest.raises(ValidationError, match="must be <= 4096"):
        client.text_generation("x", max_new_tokens=99_999)
    with pytest.raises(ValidationError, match="must be <= 4096"):
        list(streaming.text_generation("x", max_new_tokens=99_999, stream=True))


def test_a_generation_that_fails(
    server: ModelServer, client: InferenceClient, streaming: InferenceClient
) -> None:
    server.break_next(after=2)
    with pytest.raises(GenerationError):
        client.text_generation("x")
    server.break_next(after=2)
    seen: list[str] = []
    with pytest.raises(GenerationError):
        seen.extend(streaming.text_generation("x", stream=True))
    assert len(seen) == 2
