"""The payloads of OpenAI's routes: what travels on, what is checked, and how much work it is."""

from __future__ import annotations

import json
from typing import Any

import pytest

from pyworker.data_types import Form, JsonDataException, Upload
from pyworker.errors import ConfigError
from tests.workers.test_openai_uploads import PNG, b64
from tests.workers.test_openai_wav import wav
from workers.openai.data_types.base import OpenAIPayload
from workers.openai.data_types.files import ImageEdit, Transcription, VideoSync
from workers.openai.data_types.text import ESTIMATED_TOKENS, Chat, Completion
from workers.openai.routes import DEFAULT, ROUTES, benchmarked, served
from workers.openai.settings import OpenAISettings

MESSAGES = [{"role": "user", "content": "hello"}]
#: What each JSON route needs at least.
LEAST: dict[str, dict[str, Any]] = {
    "completions": {"prompt": "x"},
    "chat/completions": {"messages": MESSAGES},
    "chat/completions/batch": {"messages": [MESSAGES]},
    "responses": {"input": "x"},
    "messages": {"messages": MESSAGES},
    "embeddings": {"input": "x"},
    "rerank": {"query": "x", "documents": ["y"]},
    "score": {"text_1": "x", "text_2": "y"},
    "audio/speech": {"input": "x"},
    "audio/speech/batch": {"items": [{"input": "x", "speed": None}]},
    "audio/generate": {"input": "x"},
    "images/generations": {"prompt": "x"},
}


def parsed(route: str, **fields: Any) -> OpenAIPayload:
    payload = ROUTES[route].payload.from_json_msg({**LEAST[route], **fields})
    assert isinstance(payload, OpenAIPayload)
    return payload


def work(route: str, **fields: Any) -> float:
    return parsed(route, **fields).count_workload()


def faults(route: str, msg: dict[str, Any]) -> dict[str, Any]:
    with pytest.raises(JsonDataException) as raised:
        ROUTES[route].payload.from_json_msg(msg)
    return dict(raised.value.json_msg)


def upload(data: bytes, name: str) -> Form:
    return Form([], [("file", Upload(data, name, ""))])


# -- what travels on -------------------------------------------------------------------------------------


@pytest.mark.parametrize("route", LEAST)
@pytest.mark.parametrize("wrapped", [False, True])
def test_unknown_fields_nulls_and_order_travel_on(route: str, wrapped: bool) -> None:
    sent = {
        "z": None,
        "a": {"b": [1.5, None, "é", True]},
        **LEAST[route],
        "model": "m",
        "0": 10**30,
        "seed": None,
    }
    payload = ROUTES[route].payload.from_json_msg({"input": sent} if wrapped else sent)
    assert json.dumps(payload.generate_payload_json()) == json.dumps(sent)


def test_fields_beside_a_wrapped_payload_count_as_well() -> None:
    payload = Chat.from_json_msg({"input": {"messages": MESSAGES, "n": 1}, "n": 2, "stream": None})
    assert payload.generate_payload_json() == {"n": 1, "stream": None, "messages": MESSAGES}


@pytest.mark.parametrize("input_", ["x", ["x", "y"], [1, 2], [[1], [2]], [{"text": "x"}]])
def test_input_that_is_no_object_is_the_route_s_own(input_: object) -> None:
    assert parsed("embeddings", input=input_).generate_payload_json() == {"input": input_}


@pytest.mark.parametrize("options", [None, {}, {"continuous_usage_stats": True}, {"include_usage": False}])
@pytest.mark.parametrize("route", ["completions", "chat/completions"])
def test_a_stream_is_asked_for_its_usage(route: str, options: dict[str, Any] | None) -> None:
    payload = parsed(route, stream=True, stream_options=options)
    sent = payload.generate_payload_json()
    assert sent["stream_options"] == {**(options or {}), "include_usage": True}
    assert getattr(payload, "asks_for_usage") is False  # noqa: B009


@pytest.mark.parametrize("fields", [{}, {"stream": False}, {"stream": None, "stream_options": None}])
def test_nobody_else_is(fields: dict[str, Any]) -> None:
    payload = parsed("completions", **fields)
    assert payload.generate_payload_json() == {**LEAST["completions"], **fields}
    asked = parsed("completions", stream=True, stream_options={"include_usage": True, "x": 1})
    assert asked.generate_payload_json()["stream_options"] == {"include_usage": True, "x": 1}


# -- what is checked -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("route", "msg", "field"),
    [
        ("completions", {}, "prompt"),
        ("completions", {"prompt": None}, "prompt"),
        ("completions", {"prompt": "x", "max_tokens": "7"}, "max_tokens"),
        ("completions", {"prompt": "x", "max_tokens": 1.5}, "max_tokens"),
        ("completions", {"prompt": "x", "max_tokens": -5}, "max_tokens"),
        ("completions", {"prompt": "x", "max_tokens": 10**400}, "max_tokens"),
        ("completions", {"prompt": "x", "stream": "yes"}, "stream"),
        ("completions", {"prompt": "x", "stream_options": 1}, "stream_options"),
        ("chat/completions", {}, "messages"),
        ("chat/completions", {"messages": "x"}, "messages"),
        ("chat/completions", {"messages": [], "max_completion_tokens": True}, "max_completion_tokens"),
        ("chat/completions/batch", {"messages": []}, "messages"),
        ("responses", {"input": "x", "max_output_tokens": "1"}, "max_output_tokens"),
        ("embeddings", {}, "input"),
        ("rerank", {"query": "x"}, "documents"),
        ("audio/speech", {}, "input"),
        ("audio/speech", {"input": ["x"]}, "input"),
        ("audio/speech", {"input": "x", "ref_audio": "file:///etc/passwd"}, "ref_audio"),
        ("audio/speech/batch", {"items": []}, "items"),
        ("audio/speech/batch", {"items": [{"input": "x"}, {}]}, "items.1.input"),
        ("audio/speech/batch", {"items": [{"input": "x", "ref_audio": "/x"}]}, "items.0.ref_audio"),
        ("audio/generate", {"prompt": "x"}, "input"),
        ("images/generations", {"prompt": "x", "n": 0}, "n"),
        ("images/generations", {"prompt": "x", "size": 5}, "size"),
    ],
)
def test_a_field_at_fault_is_named(route: str, msg: dict[str, Any], field: str) -> None:
    assert list(faults(route, msg)) == [field]


def test_embeds_stand_for_a_prompt() -> None:
    assert Completion.from_json_msg({"prompt_embeds": "x"}).count_workload() == ESTIMATED_TOKENS


def test_a_form_for_a_route_of_json_says_what_is_wrong() -> None:
    with pytest.raises(JsonDataException) as raised:
        Chat.from_form(Form([("messages", "[]")], []))
    assert list(raised.value.json_msg) == ["messages"]


# -- the workload ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("route", "limit"),
    [
        ("completions", "max_tokens"),
        ("chat/completions", "max_tokens"),
        ("chat/completions", "max_completion_tokens"),
        ("responses", "max_output_tokens"),
        ("messages", "max_tokens"),
    ],
)
def test_tokens(route: str, limit: str) -> None:
    assert work(route, **{limit: 7}) == 7
    assert work(route, **{limit: 0}) == 0
    assert work(route) == work(route, **{limit: None}) == work(route, **{limit: -1}) == ESTIMATED_TOKENS


def test_the_newer_limit_of_a_chat_wins() -> None:
    assert work("chat/completions", max_tokens=7, max_completion_tokens=9) == 9


@pytest.mark.parametrize(
    ("route", "fields", "expected"),
    [
        # 500 × clamp(messages × max_tokens / 500)
        ("chat/completions/batch", {"messages": [MESSAGES] * 3, "max_tokens": 100}, 300),
        ("chat/completions/batch", {"messages": [MESSAGES] * 3}, 1500),
        ("chat/completions/batch", {"messages": [MESSAGES], "max_tokens": 1}, 50),
        ("chat/completions/batch", {"messages": [MESSAGES] * 100, "max_tokens": 100}, 4000),
        # 500 × clamp(characters / 600), a token id is 4 characters
        ("embeddings", {"input": "x" * 600}, 500),
        ("embeddings", {"input": ["x" * 300] * 3}, 750),
        ("embeddings", {"input": [1] * 150}, 500),
        ("embeddings", {"input": [[1] * 75, [2] * 75]}, 500),
        ("embeddings", {"input": "x"}, 50),
        ("embeddings", {"input": "x" * 10**5}, 4000),
        (
            "embeddings",
            {"input": None, "messages": [{"content": [{"text": "x" * 600, "image_url": "y"}]}]},
            500,
        ),
        # 500 × clamp(characters / 4,960)
        ("rerank", {"query": "x" * 960, "documents": ["y" * 2000, {"text": "z" * 2000}]}, 500),
        ("rerank", {"query": {"content": [{"text": "x" * 4960}]}, "documents": []}, 500),
        ("score", {"text_1": "x" * 2480, "text_2": ["y" * 2480]}, 500),
        ("score", {"text_1": None, "text_2": None, "queries": "x" * 2480, "documents": "x" * 2480}, 500),
        ("score", {}, 50),
        # 500 × clamp(characters / 500), and 500 for each voice reference
        ("audio/speech", {"input": "x" * 1000}, 1000),
        ("audio/speech", {"input": ""}, 50),
        ("audio/speech", {"input": "x" * 500, "ref_audio": "https://example.com/a.wav"}, 1000),
        ("audio/speech", {"input": "x" * 500, "ref_audio": ["http://a", "data:audio/wav;base64,"]}, 1500),
        ("audio/speech/batch", {"items": [{"input": "x" * 250}] * 4}, 1000),
        (
            "audio/speech/batch",
            {"items": [{"input": "x" * 500, "ref_audio": "https://a"}], "ref_audio": "https://b"},
            1500,
        ),
        ("audio/generate", {"input": "x" * 5000, "audio_length": 47}, 500),
        # 500 × clamp(n × pixels / 1024²)
        ("images/generations", {}, 500),
        ("images/generations", {"n": 2, "size": "512x1024"}, 500),
        ("images/generations", {"n": 3, "size": "auto"}, 1500),
        ("images/generations", {"size": "64x64"}, 50),
        ("images/generations", {"n": 10, "size": "2048X2048"}, 4000),
        ("images/generations", {"size": "9999999x1"}, 500),
        ("images/generations", {"size": "x"}, 500),
    ],
)
def test_other_units(route: str, fields: dict[str, Any], expected: float) -> None:
    assert work(route, **fields) == expected


@pytest.mark.parametrize(
    ("data", "name", "expected"),
    [
        (wav(16_000 * 30), "a.wav", 500),
        (wav(8_000 * 60, rate=8_000), "a.wav", 1000),
        (wav(16_000 * 30), "a.mp3", 500),  # whatever it is called
        (bytes(16_000 * 30), "a.wav", 500),
        (bytes(16_000 * 30), "a.mp3", 500),
        (bytes(12_000 * 30), "a.flac", 500),
        (bytes(8_000 * 30), "a.ogg", 500),
        (bytes(8_000 * 30), "a.webm", 500),
        (wav(160), "a.wav", 50),
        (wav(16_000 * 300), "a.wav", 4000),
    ],
)
def test_recordings(data: bytes, name: str, expected: float) -> None:
    assert Transcription.from_form(upload(data, name)).count_workload() == expected


def test_a_recording_elsewhere_is_an_ordinary_one() -> None:
    assert Transcription.from_json_msg({"file": "https://example.com/a.wav"}).count_workload() == 500


def test_pictures_from_pictures() -> None:
    msg = {"image": b64(PNG), "n": 2, "size": "1024x512"}
    assert ImageEdit.from_json_msg(msg).count_workload() == 500
    assert ImageEdit.from_json_msg({"image": b64(PNG)}).count_workload() == 500


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, 500),
        ({"size": "832x480", "num_frames": 66}, 1000),
        ({"width": 832, "height": "480", "seconds": "2.75"}, 1000),
        ({"seconds": 1, "fps": 33}, 500),
        ({"n": 2}, 1000),
        ({"num_outputs_per_prompt": 3}, 1500),
        ({"num_frames": 1}, 50),
        ({"width": 10**11, "height": 10**11, "num_frames": 10**11, "n": 10**11}, 4000),
    ],
)
def test_videos(fields: dict[str, Any], expected: float) -> None:
    assert VideoSync.from_json_msg({"prompt": "x", **fields}).count_workload() == expected


# -- the benchmark ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("route", ROUTES)
def test_a_request_of_the_benchmark_is_an_ordinary_one(route: str) -> None:
    kind = ROUTES[route].payload
    first, second = kind.for_test(), kind.for_test()
    assert first.count_workload() == pytest.approx(500)
    assert first != second or first.generate_payload_json() != second.generate_payload_json()


def test_a_completion_of_the_benchmark() -> None:
    sent = Completion.for_test().generate_payload_json()
    assert (len(sent["prompt"].split()), sent["max_tokens"], sent["temperature"]) == (250, 500, 0.7)
    assert sent.keys() == {"prompt", "max_tokens", "temperature"}


def test_the_benchmark_has_its_variables() -> None:
    options = OpenAISettings(benchmark_embed_chars=1200, benchmark_speech_voice="vivian")
    embeddings = ROUTES["embeddings"].payload.for_benchmark(options).generate_payload_json()
    assert len(embeddings["input"]) == 1200
    speech = ROUTES["audio/speech"].payload.for_benchmark(options).generate_payload_json()
    assert (speech["voice"], len(speech["input"])) == ("vivian", 500)
    assert "voice" not in ROUTES["audio/speech"].payload.for_test().generate_payload_json()


# -- which routes there are ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "routes", "benchmark"),
    [
        ({}, DEFAULT, "completions"),
        ({"benchmark_route": "embeddings"}, (*DEFAULT, "embeddings"), "embeddings"),
        ({"benchmark_route": "chat/completions"}, DEFAULT, "chat/completions"),
        ({"openai_routes": ("rerank", "completions")}, ("rerank", "completions"), "completions"),
        ({"openai_routes": ("rerank", "score")}, ("rerank", "score"), "rerank"),
        ({"openai_routes": ("score",), "benchmark_route": "rerank"}, ("score",), "rerank"),
    ],
)
def test_which_routes_are_served(options: dict[str, Any], routes: tuple[str, ...], benchmark: str) -> None:
    assert (tuple(served(OpenAISettings(**options))), benchmarked(OpenAISettings(**options))) == (
        routes,
        benchmark,
    )


@pytest.mark.parametrize("variable", ["openai_routes", "benchmark_route"])
def test_a_wrong_name_lists_the_right_ones(variable: str) -> None:
    wrong: Any = ("chat",) if variable == "openai_routes" else "chat"
    with pytest.raises(
        ConfigError, match=f"{variable.upper()}: there is no route 'chat'; expected completions, "
    ):
        served(OpenAISettings(**{variable: wrong}))


def test_the_number_of_requests_in_the_benchmark() -> None:
    rounds = {name: (route.at_once, route.rounds) for name, route in ROUTES.items()}
    assert {name for name, shape in rounds.items() if shape == (10, 3)} == {
        *("completions", "chat/completions", "chat/completions/batch", "responses", "messages"),
        *("embeddings", "rerank", "score"),
    }
    assert {name for name, shape in rounds.items() if shape == (4, 2)} == {
        *("audio/speech", "audio/speech/batch", "audio/transcriptions", "audio/translations"),
    }
    two = {"audio/generate", "images/generations", "images/edits"}
    assert {name for name, shape in rounds.items() if shape == (2, 1)} == two
    assert rounds["videos/sync"] == (1, 1)
