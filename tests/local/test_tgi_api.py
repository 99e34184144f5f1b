"""The stand-in for TGI: its shapes by the reference client, its errors, its counts."""

from __future__ import annotations

import http.client
import json
from collections.abc import Generator
from contextlib import closing
from pathlib import Path

import pytest
import requests

from pyworker.local.model_server import ModelServer
from pyworker.local.tgi_api import TgiApi
from tests.support.local_engine import Events, good, post, stream
from tests.support.waiting import DEADLINE, wait_until

PARAMETERS = {"max_new_tokens": 8, "details": True, "seed": 4}


@pytest.fixture
def server() -> Generator[ModelServer]:
    with ModelServer(api=TgiApi(max_input=50, max_total=100), seed=1) as running:
        yield running


def test_a_whole_text_has_details_only_if_asked(server: ModelServer) -> None:
    plain = good(server, "/generate", inputs="the sea is", parameters={"max_new_tokens": 8, "seed": 4})
    asked = good(server, "/generate", inputs="the sea is", parameters=PARAMETERS)

    assert list(plain) == ["generated_text"]
    assert plain["generated_text"] == asked["generated_text"]
    details = asked["details"]
    assert (details["finish_reason"], details["generated_tokens"], details["seed"]) == ("length", 8, 4)
    assert "".join(token["text"] for token in details["tokens"]) == asked["generated_text"]
    assert (server.stats.prompt_tokens, server.stats.completion_tokens) == (8, 16)


def test_the_headers_of_a_whole_text_count(server: ModelServer) -> None:
    response = post(server, "/generate", inputs="the sea", parameters={"max_new_tokens": 3})
    assert (response.headers["x-prompt-tokens"], response.headers["x-generated-tokens"]) == ("3", "3")
    assert response.headers["x-compute-characters"] == "7"


def test_a_stream_is_the_whole_text(server: ModelServer) -> None:
    whole = good(server, "/generate", inputs="the sea is", parameters=PARAMETERS)
    plain = stream(
        server, "/generate_stream", inputs="the sea is", parameters={"max_new_tokens": 8, "seed": 4}
    )
    asked = stream(server, "/generate_stream", inputs="the sea is", parameters=PARAMETERS)

    assert [event["index"] for event in plain.data] == list(range(1, 9))
    assert [event["token"] for event in plain.data] == whole["details"]["tokens"]
    assert all(event["generated_text"] is None for event in plain.data[:-1])
    assert plain.data[-1]["generated_text"] == whole["generated_text"]
    assert all(event["details"] is None for event in [*plain.data, *asked.data[:-1]])
    assert asked.data[-1]["details"] == {
        "finish_reason": "length",
        "generated_tokens": 8,
        "seed": 4,
        "input_length": 4,
    }


def test_a_text_ends_by_itself_with_a_token_that_is_counted_and_not_seen() -> None:
    with ModelServer(api=TgiApi(), seed=1) as server:
        parameters = {"max_new_tokens": 4000, "details": True}
        whole = good(server, "/generate", inputs="rain", parameters=parameters)
    details = whole["details"]
    assert (details["finish_reason"], len(details["tokens"])) == ("eos_token", details["generated_tokens"])
    assert details["tokens"][-1]["special"]
    assert "</s>" not in whole["generated_text"]


def test_a_text_ends_with_a_stop_sequence(server: ModelServer) -> None:
    text = good(server, "/generate", inputs="rain", parameters={"max_new_tokens": 30})["generated_text"]
    stop = text[10:14]
    parameters = {"max_new_tokens": 30, "stop": [stop], "details": True}
    stopped = good(server, "/generate", inputs="rain", parameters=parameters)
    assert stopped["details"]["finish_reason"] == "stop_sequence"
    assert stopped["generated_text"].rstrip().startswith(text[: text.index(stop)])
    assert stop in stopped["generated_text"]
    assert len(stopped["generated_text"]) < len(text)


def test_the_prompt_may_come_first(server: ModelServer) -> None:
    body = good(
        server, "/generate", inputs="rain", parameters={"max_new_tokens": 2, "return_full_text": True}
    )
    assert body["generated_text"].startswith("rain")


def test_the_root_answers_in_a_list_or_streams(server: ModelServer) -> None:
    [whole] = good(server, "/", inputs="rain", parameters={"max_new_tokens": 2})
    events = stream(server, "/", inputs="rain", parameters={"max_new_tokens": 2}, stream=True)
    assert events.data[-1]["generated_text"] == whole["generated_text"]


@pytest.mark.parametrize(
    ("inputs", "parameters", "said"),
    [
        ("", {}, "`inputs` cannot be empty"),
        ("x", {"max_new_tokens": 0}, "`max_new_tokens` must be strictly positive"),
        ("word " * 60, {"max_new_tokens": 5}, "`inputs` must have less than 50 tokens. Given: 61"),
        ("x", {"max_new_tokens": 99}, "`inputs` tokens + `max_new_tokens` must be <= 100"),
    ],
    ids=["empty", "zero", "long", "many"],
)
def test_what_is_invalid_is_422_and_an_event_of_a_stream(
    server: ModelServer, inputs: str, parameters: dict[str, object], said: str
) -> None:
    whole = post(server, "/generate", inputs=inputs, parameters=parameters)
    assert (whole.status_code, whole.json()["error_type"]) == (422, "validation")
    assert whole.json()["error"].startswith(f"Input validation error: {said}")
    events = stream(server, "/generate_stream", inputs=inputs, parameters=parameters)
    assert events.data == [whole.json()]


@pytest.mark.parametrize("parameters", [{"best_of": 2}, {"decoder_input_details": True}], ids=str)
def test_what_no_stream_can_have(server: ModelServer, parameters: dict[str, object]) -> None:
    [event] = stream(server, "/generate_stream", inputs="x", parameters=parameters).data
    assert event["error_type"] == "validation"


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"{}", b'{"inputs": 5}', b"[" * 100_000])
@pytest.mark.parametrize("path", ["/generate", "/generate_stream", "/"])
def test_a_body_that_cannot_be_read_is_422(server: ModelServer, path: str, data: bytes) -> None:
    response = requests.post(server.url + path, data=data, timeout=DEADLINE)
    assert response.status_code == 422
    assert response.text


def test_a_generation_that_fails(server: ModelServer) -> None:
    server.break_next(after=2)
    parameters = {"max_new_tokens": 9}
    whole = post(server, "/generate", inputs="x", parameters=parameters)
    assert (whole.status_code, whole.json()["error_type"]) == (424, "generation")
    server.break_next(after=2)
    events = stream(server, "/generate_stream", inputs="x", parameters=parameters)
    assert [event.get("index") for event in events.data] == [1, 2, None]
    assert events.data[-1] == whole.json()
    assert server.stats.completion_tokens == 4


def test_info_models_and_health(server: ModelServer) -> None:
    info = requests.get(server.url + "/info", timeout=DEADLINE).json()
    assert (info["model_id"], info["max_input_tokens"], info["max_total_tokens"]) == ("local-model", 50, 100)
    models = requests.get(server.url + "/v1/models", timeout=DEADLINE).json()
    assert models["data"][0]["id"] == "local-model"
    health = requests.get(server.url + "/health", timeout=DEADLINE)
    assert (health.status_code, health.content) == (200, b"")


def test_while_loading_it_is_unhealthy() -> None:
    server = ModelServer(api=TgiApi(), load_seconds=3600)
    server.start()
    try:
        response = requests.get(server.url + "/health", timeout=DEADLINE)
        assert (response.status_code, response.json()["error_type"]) == (503, "healthcheck")
    finally:
        server.stop()


def test_a_client_that_hangs_up_is_counted_so_far(tmp_path: Path) -> None:
    with ModelServer(api=TgiApi(), tokens_per_second=20) as server:
        address = server.url.removeprefix("http://")
        with closing(http.client.HTTPConnection(address, timeout=DEADLINE)) as connection:
            connection.request("POST", "/generate_stream", json.dumps({"inputs": "rain"}))
            with connection.getresponse() as response:
                first = response.readline() + response.readline()
                assert Events.of(first).data[0]["index"] == 1
        [request] = server.stats.requests()
        wait_until(lambda: request.ending == "cut", "the end of the generation")
        assert 1 <= request.completion_tokens < 60
