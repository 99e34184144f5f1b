"""The local engine's texts: completions, chats, responses and messages, whole and streamed, and counted."""

from __future__ import annotations

import http.client
import json
from collections.abc import Generator
from contextlib import closing
from typing import Any

import pytest

from pyworker.local.model_server import ModelServer
from pyworker.local.openai_api.api import OpenAIApi
from tests.support.local_engine import good, post, stream
from tests.support.waiting import DEADLINE, wait_until

USER = {"role": "user", "content": "What is a tide?"}
SLOW = 20.0  # tokens per second of a text that must still run when the test looks


@pytest.fixture(params=["vllm", "sglang"])
def server(request: pytest.FixtureRequest) -> Generator[ModelServer]:
    with ModelServer(api=OpenAIApi(request.param), seed=1) as running:
        yield running


@pytest.fixture
def vllm() -> Generator[ModelServer]:
    with ModelServer(api=OpenAIApi("vllm"), seed=1) as running:
        yield running


def counted(server: ModelServer) -> tuple[int, int]:
    """What the server itself has counted."""
    return server.stats.prompt_tokens, server.stats.completion_tokens


# --- completions -----------------------------------------------------------------------------------------


def test_a_whole_completion(server: ModelServer) -> None:
    body = good(server, "/v1/completions", prompt="the sea is", max_tokens=7)

    [choice] = body["choices"]
    assert (body["object"], body["model"]) == ("text_completion", "local-model")
    assert body["id"].startswith("cmpl-")
    assert len(choice["text"].split()) > 2
    assert (choice["index"], choice["finish_reason"], choice["stop_reason"]) == (0, "length", None)
    assert body["usage"] == {
        "prompt_tokens": 4,
        "total_tokens": 11,
        "completion_tokens": 7,
        "prompt_tokens_details": None,
    }
    assert counted(server) == (4, 7)


def test_a_completion_that_names_no_length_has_sixteen_tokens(server: ModelServer) -> None:
    body = good(server, "/v1/completions", prompt="the sea is", ignore_eos=True)
    assert body["usage"]["completion_tokens"] == 16


def test_a_text_ends_by_itself_unless_it_must_not(server: ModelServer) -> None:
    ended = good(server, "/v1/completions", prompt="the sea is", max_tokens=4000)
    assert ended["choices"][0]["finish_reason"] == "stop"
    assert ended["usage"]["completion_tokens"] < 300
    going = good(server, "/v1/completions", prompt="the sea is", max_tokens=500, ignore_eos=True)
    assert (going["choices"][0]["finish_reason"], going["usage"]["completion_tokens"]) == ("length", 500)
    longer = good(server, "/v1/completions", prompt="the sea is", max_tokens=4000, min_tokens=600)
    assert (longer["choices"][0]["finish_reason"], longer["usage"]["completion_tokens"]) == ("stop", 601)


def test_a_streamed_completion_tells_its_usage_only_if_asked(
    server: ModelServer,
) -> None:
    fields = {"prompt": "the sea is", "max_tokens": 9, "ignore_eos": True}
    whole = good(server, "/v1/completions", **fields)
    plain = stream(server, "/v1/completions", **fields, stream=True)
    asked = stream(server, "/v1/completions", **fields, stream=True, stream_options={"include_usage": True})

    assert plain.data.pop() == "[DONE]"
    assert len(plain.data) == 9
    assert all(len(chunk["choices"]) == 1 and "usage" not in chunk for chunk in plain.data)
    assert text_of(plain.data) == whole["choices"][0]["text"]
    assert [chunk["choices"][0]["finish_reason"] for chunk in plain.data] == [None] * 8 + ["length"]
    assert asked.data.pop() == "[DONE]"
    usage = asked.data.pop()
    assert (usage["choices"], usage["usage"]) == ([], whole["usage"])
    assert len(asked.data) == 9
    assert all("usage" not in chunk for chunk in asked.data)


def test_usage_may_be_told_with_each_chunk(vllm: ModelServer) -> None:
    options = {"include_usage": True, "continuous_usage_stats": True}
    events = stream(vllm, "/v1/completions", prompt="x", max_tokens=3, stream=True, stream_options=options)
    assert [chunk["usage"]["completion_tokens"] for chunk in events.data[:-1]] == [1, 2, 3, 3]


def test_several_prompts_and_several_texts_for_each(server: ModelServer) -> None:
    fields = {"prompt": ["the sea", "rain"], "n": 2, "max_tokens": 5, "ignore_eos": True}
    whole = good(server, "/v1/completions", **fields)
    events = stream(server, "/v1/completions", **fields, stream=True)

    assert [choice["index"] for choice in whole["choices"]] == [0, 1, 2, 3]
    assert whole["usage"]["completion_tokens"] == 20
    assert len({choice["text"] for choice in whole["choices"]}) > 2, "texts for one prompt differ"
    for choice in whole["choices"]:
        chunks = [chunk for chunk in events.data[:-1] if chunk["choices"][0]["index"] == choice["index"]]
        assert text_of(chunks) == choice["text"]


@pytest.mark.parametrize(("prompt", "tokens"), [([1, 2, 3], 3), ([[1, 2], [3]], 3), ("", 1)], ids=str)
def test_prompts_may_be_ids_of_tokens(server: ModelServer, prompt: object, tokens: int) -> None:
    assert good(server, "/v1/completions", prompt=prompt, max_tokens=1)["usage"]["prompt_tokens"] == tokens


def text_of(chunks: list[Any]) -> str:
    return "".join(chunk["choices"][0]["text"] for chunk in chunks)


# --- stop strings ----------------------------------------------------------------------------------------


def test_a_text_ends_before_a_stop_string_and_names_it(server: ModelServer) -> None:
    fields = {"prompt": "the sea is", "max_tokens": 200, "ignore_eos": True}
    full = good(server, "/v1/completions", **fields)["choices"][0]["text"]
    stop = full[40:47]  # across the ends of tokens
    expected = full[: full.index(stop)]

    whole = good(server, "/v1/completions", **fields, stop=[stop, "never said"])
    [choice] = whole["choices"]
    assert (choice["text"], choice["finish_reason"], choice["stop_reason"]) == (expected, "stop", stop)
    assert whole["usage"]["completion_tokens"] < 200
    events = stream(server, "/v1/completions", **fields, stop=stop, stream=True)
    assert text_of(events.data[:-1]) == expected
    assert len(events.data) - 1 == whole["usage"]["completion_tokens"], "a chunk for each token"


# --- chats -----------------------------------------------------------------------------------------------


def test_a_whole_chat(server: ModelServer) -> None:
    body = good(server, "/v1/chat/completions", messages=[USER], max_completion_tokens=6, n=2, max_tokens=99)

    assert body["object"] == "chat.completion"
    for index, choice in enumerate(body["choices"]):
        assert (choice["index"], choice["message"]["role"]) == (index, "assistant")
        assert choice["message"]["content"].strip()
        assert choice["finish_reason"] == "length"
    assert body["usage"]["completion_tokens"] == 12
    assert body["usage"]["prompt_tokens"] == 9


def test_a_streamed_chat_begins_with_the_role(server: ModelServer) -> None:
    fields = {"messages": [{"role": "system", "content": "Be brief."}, USER], "max_tokens": 6}
    whole = good(server, "/v1/chat/completions", **fields)
    options = {"include_usage": True}
    events = stream(server, "/v1/chat/completions", **fields, stream=True, stream_options=options)

    assert events.data.pop() == "[DONE]"
    assert events.data.pop()["usage"] == whole["usage"]
    deltas = [chunk["choices"][0]["delta"] for chunk in events.data]
    assert deltas[0] == {"role": "assistant", "content": ""}
    assert len(deltas) == 7
    text = "".join(delta["content"] for delta in deltas)
    assert text == whole["choices"][0]["message"]["content"]
    assert events.data[-1]["choices"][0]["finish_reason"] == "length"


def test_the_parts_of_a_content_that_are_text_count(server: ModelServer) -> None:
    parts = [{"type": "text", "text": "two words"}, {"type": "image_url", "image_url": {"url": "data:,"}}]
    body = good(server, "/v1/chat/completions", messages=[{"role": "user", "content": parts}], max_tokens=1)
    assert body["usage"]["prompt_tokens"] == 7


def test_a_batch_of_chats_has_a_choice_for_each(server: ModelServer) -> None:
    fields = {"messages": [[USER], [{"role": "user", "content": "And rain?"}]], "max_tokens": 5}
    body = good(server, "/v1/chat/completions/batch", **fields)
    assert [choice["index"] for choice in body["choices"]] == [0, 1]
    assert body["usage"]["completion_tokens"] == 10
    assert post(server, "/v1/chat/completions/batch", **fields, stream=True).status_code == 400
    assert post(server, "/v1/chat/completions/batch", **fields, n=2).status_code == 400


# --- responses and messages ------------------------------------------------------------------------------


def test_responses(server: ModelServer) -> None:
    fields = {"input": [USER], "instructions": "Be brief.", "max_output_tokens": 5}
    whole = good(server, "/v1/responses", **fields)
    events = stream(server, "/v1/responses", **fields, stream=True)

    assert (whole["object"], whole["status"]) == ("response", "incomplete")
    assert whole["incomplete_details"] == {"reason": "max_output_tokens"}
    assert (whole["usage"]["input_tokens"], whole["usage"]["output_tokens"]) == (15, 5)
    assert events.names == [event["type"] for event in events.data]
    assert [event["sequence_number"] for event in events.data] == list(range(len(events.data)))
    assert events.names[:4] == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
    ]
    assert events.names[4:9] == ["response.output_text.delta"] * 5
    assert events.names[9:] == [
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.completed",
    ]
    text = "".join(event["delta"] for event in events.data[4:9])
    assert text == whole["output"][0]["content"][0]["text"] == events.data[9]["text"]
    assert events.data[-1]["response"]["usage"] == whole["usage"]


def test_messages(server: ModelServer) -> None:
    fields = {"messages": [USER], "system": "Be brief.", "max_tokens": 5}
    whole = good(server, "/v1/messages", **fields)
    events = stream(server, "/v1/messages", **fields, stream=True)

    assert (whole["type"], whole["role"], whole["stop_reason"]) == ("message", "assistant", "max_tokens")
    assert whole["usage"] == {"input_tokens": 15, "output_tokens": 5}
    if events.data[-1] == "[DONE]":  # of vLLM
        assert not events.names.pop()
        events.data.pop()
    assert events.names == [event["type"] for event in events.data]
    assert events.names == [
        "message_start",
        "content_block_start",
        *["content_block_delta"] * 5,
        "content_block_stop",
        "message_delta",
        "message_stop",
    ]
    text = "".join(event["delta"]["text"] for event in events.data[2:7])
    assert text == whole["content"][0]["text"]
    assert events.data[-2]["usage"] == whole["usage"]


def test_messages_end_at_a_stop_sequence(vllm: ModelServer) -> None:
    text = good(vllm, "/v1/messages", messages=[USER], max_tokens=50)["content"][0]["text"]
    word = text.split()[1]
    whole = good(vllm, "/v1/messages", messages=[USER], max_tokens=50, stop_sequences=[word])
    assert (whole["stop_reason"], whole["stop_sequence"]) == ("stop_sequence", word)


def test_an_error_of_messages_has_its_own_shape(server: ModelServer) -> None:
    response = post(server, "/v1/messages", messages=[USER])
    assert response.status_code == 400
    body = response.json()
    assert (body["type"], body["error"]["type"]) == ("error", "BadRequestError")
    assert "max_tokens" in body["error"]["message"]


# --- what goes wrong -------------------------------------------------------------------------------------

TEXT_ROUTES = [
    ("/v1/completions", {"prompt": "x", "max_tokens": 9}),
    ("/v1/chat/completions", {"messages": [USER], "max_tokens": 9}),
    ("/v1/responses", {"input": "x", "max_output_tokens": 9}),
    ("/v1/messages", {"messages": [USER], "max_tokens": 9}),
]


@pytest.mark.parametrize(("path", "fields"), TEXT_ROUTES, ids=[route for route, _ in TEXT_ROUTES])
def test_an_engine_that_fails_says_so_whole_and_within_a_stream(
    vllm: ModelServer, path: str, fields: dict[str, Any]
) -> None:
    vllm.break_next(after=2)
    assert post(vllm, path, **fields).status_code == 500
    vllm.break_next(after=2)
    events = stream(vllm, path, **fields, stream=True)
    errors = [event for event in events.data if event != "[DONE]" and "error" in json.dumps(event)]
    assert errors
    assert "the engine failed" in json.dumps(errors[-1])
    assert [request.completion_tokens for request in vllm.stats.requests()] == [2, 2]
    assert [request.ending for request in vllm.stats.requests()] == ["failed", "failed"]
    assert post(vllm, path, **fields).status_code == 200


def test_a_client_that_hangs_up_is_counted_so_far_and_logged(tmp_path: Any) -> None:
    log = tmp_path / "model.log"
    with ModelServer(api=OpenAIApi(), tokens_per_second=SLOW, log_file=log) as server:
        address = server.url.removeprefix("http://")
        with closing(http.client.HTTPConnection(address, timeout=DEADLINE)) as connection:
            fields = {"prompt": "x", "max_tokens": 5000, "ignore_eos": True, "stream": True}
            connection.request("POST", "/v1/completions", json.dumps(fields))
            with connection.getresponse() as response:
                for _ in range(3):
                    assert response.readline().startswith(b"data: {")
                    assert response.readline() == b"\n"
        [request] = server.stats.requests()
        wait_until(lambda: request.ending == "cut", "the end of the generation")
        assert 3 <= request.completion_tokens < 100
        assert server.stats.completion_tokens == request.completion_tokens
    assert " aborted." in log.read_text("utf-8")
