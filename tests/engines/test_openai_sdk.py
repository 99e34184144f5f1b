"""OpenAI's own Python client, unmodified, through the door of a worker in front of llama.cpp's server."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator

import openai
import pytest

from pyworker.local.signing import Signer
from tests.support.engine_stack import DOOR_KEY, EngineStack, engine_stack
from tests.support.engines import Engine
from tests.support.waiting import DEADLINE

pytestmark = [pytest.mark.engines, pytest.mark.timeout(300)]

MODEL = "tiny-llama"
PROMPT = "What is a tide?"


@pytest.fixture(scope="module")
def stack(
    llama_cpp: Engine, tmp_path_factory: pytest.TempPathFactory, signing_key: Signer
) -> Iterator[EngineStack]:
    """A ready worker in front of it."""
    with engine_stack(tmp_path_factory.mktemp("sdk"), signing_key, llama_cpp, "llama") as stack:
        yield stack


def client_of(stack: EngineStack, key: str = DOOR_KEY, timeout: float = DEADLINE) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{stack.url}/v1", api_key=key, timeout=timeout, max_retries=0)


@pytest.fixture
def client(stack: EngineStack) -> Iterator[openai.OpenAI]:
    """One that has a key."""
    with client_of(stack) as client:
        yield client


@pytest.fixture
def served_before(stack: EngineStack) -> float:
    """The work of everything before this test."""
    return stack.settled()


def test_a_whole_chat(client: openai.OpenAI, stack: EngineStack, served_before: float) -> None:
    response = client.chat.completions.create(
        model=MODEL, messages=[{"role": "user", "content": PROMPT}], max_tokens=20
    )

    assert response.choices[0].message.content
    assert response.usage
    assert stack.settled() == served_before + response.usage.completion_tokens


def test_a_whole_completion(client: openai.OpenAI, stack: EngineStack, served_before: float) -> None:
    response = client.completions.create(
        model=MODEL, prompt=PROMPT, max_tokens=20, extra_body={"ignore_eos": True}
    )

    assert response.choices[0].text
    assert response.usage
    assert response.usage.completion_tokens == 20
    assert stack.settled() == served_before + 20


def test_a_stream_without_usage(client: openai.OpenAI) -> None:
    chunks = list(
        client.chat.completions.create(
            model=MODEL, messages=[{"role": "user", "content": PROMPT}], max_tokens=20, stream=True
        )
    )

    assert all(chunk.choices and chunk.usage is None for chunk in chunks)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks).strip()
    assert chunks[-1].choices[0].finish_reason in ("stop", "length")


def test_a_stream_with_usage(client: openai.OpenAI, stack: EngineStack, served_before: float) -> None:
    *chunks, last = client.chat.completions.create(
        model=MODEL,
        messages=[{"role": "user", "content": PROMPT}],
        max_tokens=20,
        stream=True,
        stream_options={"include_usage": True},
    )

    assert not any(chunk.usage for chunk in chunks)
    assert last.usage
    assert stack.settled() == served_before + last.usage.completion_tokens


def test_a_stream_that_is_left(client: openai.OpenAI, stack: EngineStack) -> None:
    seen = len(stack.model.log)
    stream = client.completions.create(
        model=MODEL, prompt=PROMPT, max_tokens=15_000, stream=True, extra_body={"ignore_eos": True}
    )
    next(iter(stream))

    stream.close()

    stack.model.wait_for_log("cancel task", since=seen)


def test_forty_streams_of_an_asynchronous_client(stack: EngineStack, served_before: float) -> None:
    async def one(client: openai.AsyncOpenAI) -> int:
        stream = await client.completions.create(
            model=MODEL,
            prompt=PROMPT,
            max_tokens=25,
            stream=True,
            stream_options={"include_usage": True},
            extra_body={"ignore_eos": True},
        )
        usage = [chunk.usage async for chunk in stream if chunk.usage]
        return usage[-1].completion_tokens

    async def all_of_them() -> list[int]:
        async with openai.AsyncOpenAI(
            base_url=f"{stack.url}/v1", api_key=DOOR_KEY, timeout=60, max_retries=0
        ) as client:
            return await asyncio.gather(*(one(client) for _ in range(40)))

    assert asyncio.run(all_of_them()) == [25] * 40
    assert stack.settled() == served_before + 1000


def test_a_tool_is_described_and_not_called(client: openai.OpenAI) -> None:
    """Fields that only the engine knows reach it."""
    response = client.chat.completions.create(
        model=MODEL,
        messages=[{"role": "user", "content": PROMPT}],
        max_tokens=10,
        tools=[{"type": "function", "function": {"name": "tides", "parameters": {"type": "object"}}}],
        tool_choice="none",
    )

    assert response.choices[0].message.content


def test_the_other_apis(client: openai.OpenAI, stack: EngineStack, served_before: float) -> None:
    whole = client.responses.create(model=MODEL, input=PROMPT, max_output_tokens=10)
    events = list(client.responses.create(model=MODEL, input=PROMPT, max_output_tokens=10, stream=True))

    assert whole.output_text.strip()
    assert whole.usage
    last = events[-1]
    assert last.type == "response.completed"
    assert last.response.usage
    tokens = whole.usage.output_tokens + last.response.usage.output_tokens
    assert stack.settled() == served_before + tokens


def test_embeddings(
    llama_cpp_embeddings: Engine, tmp_path_factory: pytest.TempPathFactory, signing_key: Signer
) -> None:
    """As floats, which the client asks for as base64 unless it is told otherwise."""
    folder = tmp_path_factory.mktemp("embeddings")
    variables = {"OPENAI_ROUTES": "embeddings", "BENCHMARK_ROUTE": "embeddings"}
    with (
        engine_stack(folder, signing_key, llama_cpp_embeddings, "llama", variables) as stack,
        client_of(stack) as client,
    ):
        default = client.embeddings.create(model=MODEL, input=["a tide", "a clerk"])
        floats = client.embeddings.create(model=MODEL, input="a tide", encoding_format="float")

    assert [entry.index for entry in default.data] == [0, 1]
    assert default.data[0].embedding == pytest.approx(floats.data[0].embedding, abs=1e-6)
    assert default.data[0].embedding != default.data[1].embedding


def test_the_models(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == [MODEL]


@pytest.mark.parametrize("key", ["sk-wrong", f"{DOOR_KEY}x", DOOR_KEY[:-1]])
def test_a_wrong_key(stack: EngineStack, served_before: float, key: str) -> None:
    with client_of(stack, key) as client, pytest.raises(openai.AuthenticationError) as raised:
        client.completions.create(model=MODEL, prompt=PROMPT, max_tokens=5)

    assert raised.value.status_code == 401
    assert key not in raised.value.message
    assert key not in stack.worker.log
    assert stack.settled() == served_before


def test_an_error_of_the_engine_is_that_of_the_client(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as raised:
        client.completions.create(model=MODEL, prompt="tide " * 20_000, max_tokens=5)

    assert raised.value.type == "exceed_context_size_error"
    assert "context" in raised.value.message


def test_a_field_at_fault_is_named(client: openai.OpenAI) -> None:
    with pytest.raises(openai.UnprocessableEntityError) as raised:
        client.completions.create(model=MODEL, prompt=PROMPT, max_tokens=-5)

    assert "max_tokens" in raised.value.message


def test_a_route_that_is_not_served(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError):
        client.images.generate(model=MODEL, prompt=PROMPT)


def test_a_full_queue_is_a_rate_limit(
    llama_cpp: Engine, tmp_path_factory: pytest.TempPathFactory, signing_key: Signer
) -> None:
    """A measured speed of one token in 1,000 s makes any line too long."""
    folder = tmp_path_factory.mktemp("slow")
    with (
        engine_stack(folder, signing_key, llama_cpp, "llama", benchmark=0.001) as stack,
        client_of(stack) as client,
        client.completions.create(
            model=MODEL, prompt=PROMPT, max_tokens=15_000, stream=True, extra_body={"ignore_eos": True}
        ) as stream,
    ):
        next(iter(stream))
        with pytest.raises(openai.RateLimitError) as raised:
            client.completions.create(model=MODEL, prompt=PROMPT, max_tokens=5)

    assert int(raised.value.response.headers["Retry-After"]) > 0


def test_a_client_that_waits_no_longer(stack: EngineStack) -> None:
    seen = len(stack.model.log)
    with client_of(stack, timeout=0.5) as client, pytest.raises(openai.APITimeoutError):
        client.completions.create(
            model=MODEL, prompt=PROMPT, max_tokens=16_000, extra_body={"ignore_eos": True}
        )

    stack.model.wait_for_log("cancel task", since=seen)


def test_a_worker_that_is_gone(stack: EngineStack) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{nobody.getsockname()[1]}/v1"
        with (
            openai.OpenAI(base_url=url, api_key=DOOR_KEY, max_retries=0) as client,
            pytest.raises(openai.APIConnectionError),
        ):
            client.models.list()
    assert stack.worker.is_alive
