"""OpenAI's own client takes the local engine: each shape is parsed, each error known."""

from __future__ import annotations

from collections.abc import Iterator

import openai
import pytest
from openai.types.chat import ChatCompletionMessageParam

from pyworker.local.model_server import ModelServer
from pyworker.local.openai_api.api import OpenAIApi
from pyworker.local.openai_api.media_files import wav
from tests.support.waiting import DEADLINE

MODEL = "local-model"
CHAT: list[ChatCompletionMessageParam] = [{"role": "user", "content": "What is a tide?"}]
ONE_SECOND = ("talk.wav", wav(bytes(2 * 16_000)), "audio/wav")


@pytest.fixture(params=["vllm", "sglang"])
def server(request: pytest.FixtureRequest) -> Iterator[ModelServer]:
    with ModelServer(api=OpenAIApi(request.param), seed=1) as running:
        yield running


@pytest.fixture
def client(server: ModelServer) -> Iterator[openai.OpenAI]:
    base_url = f"{server.url}/v1"
    with openai.OpenAI(base_url=base_url, api_key="unused", timeout=DEADLINE, max_retries=0) as client:
        yield client


def test_chats(client: openai.OpenAI, server: ModelServer) -> None:
    whole = client.chat.completions.create(model=MODEL, messages=CHAT, max_tokens=5, n=2)
    chunks = list(
        client.chat.completions.create(
            model=MODEL, messages=CHAT, max_tokens=5, stream=True, stream_options={"include_usage": True}
        )
    )
    text = "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)
    assert text == whole.choices[0].message.content
    assert whole.usage is not None
    assert chunks[-1].usage is not None
    used = whole.usage.completion_tokens + chunks[-1].usage.completion_tokens
    assert used == server.stats.completion_tokens == 15


def test_completions(client: openai.OpenAI) -> None:
    whole = client.completions.create(model=MODEL, prompt="the sea is", max_tokens=5)
    chunks = list(client.completions.create(model=MODEL, prompt="the sea is", max_tokens=5, stream=True))
    assert "".join(chunk.choices[0].text for chunk in chunks) == whole.choices[0].text


def test_responses(client: openai.OpenAI) -> None:
    whole = client.responses.create(model=MODEL, input="the sea is", max_output_tokens=5)
    *events, last = client.responses.create(model=MODEL, input="the sea is", max_output_tokens=5, stream=True)
    text = "".join(event.delta for event in events if event.type == "response.output_text.delta")
    assert text == whole.output_text
    assert last.type == "response.completed"
    assert last.response.usage == whole.usage


def test_embeddings_as_it_asks_for_them_and_as_numbers(client: openai.OpenAI) -> None:
    packed = client.embeddings.create(model=MODEL, input="the sea").data[0].embedding
    plain = client.embeddings.create(model=MODEL, input="the sea", encoding_format="float").data[0].embedding
    assert packed == pytest.approx(plain, rel=1e-6)


def test_audio(client: openai.OpenAI) -> None:
    plain = client.audio.transcriptions.create(model=MODEL, file=ONE_SECOND)
    verbose = client.audio.transcriptions.create(model=MODEL, file=ONE_SECOND, response_format="verbose_json")
    speech = client.audio.speech.create(model=MODEL, voice="ann", input="Hello", response_format="wav")
    assert plain.text == verbose.text
    assert float(verbose.duration) == 1
    assert speech.content.startswith(b"RIFF")


def test_images(client: openai.OpenAI) -> None:
    made = client.images.generate(model=MODEL, prompt="a tide", size="256x256", n=2)
    picture = ("a.png", b"\x89PNG", "image/png")
    edited = client.images.edit(model=MODEL, prompt="a tide", image=picture, size="256x256")
    assert [len(images.data or ()) for images in (made, edited)] == [2, 1]


def test_models_and_errors(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == [MODEL]
    with pytest.raises(openai.NotFoundError) as unknown:
        client.chat.completions.create(model="other", messages=CHAT)
    assert (unknown.value.type, unknown.value.param) == ("NotFoundError", "model")
    with pytest.raises(openai.BadRequestError, match="context length"):
        client.completions.create(model=MODEL, prompt="word " * 9000)


def test_an_engine_that_fails(client: openai.OpenAI, server: ModelServer) -> None:
    server.break_next(after=2)
    with pytest.raises(openai.InternalServerError):
        client.chat.completions.create(model=MODEL, messages=CHAT)
    server.break_next(after=2)
    seen: list[object] = []
    with pytest.raises(openai.APIError, match="the engine failed"):
        seen.extend(client.chat.completions.create(model=MODEL, messages=CHAT, stream=True))
    assert len(seen) == 3
