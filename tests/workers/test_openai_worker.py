"""The OpenAI worker in front of stand-ins of vLLM and SGLang: every route, whole and streamed."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import pytest

from pyworker.data_types import Form, Upload
from pyworker.local.model_server import ModelServer
from pyworker.upstream.encoding import encode_form
from tests.support.http import Answer, ask, next_request_idx
from tests.workers.conftest import DOOR_KEY, OpenAIStack
from tests.workers.test_openai_uploads import PNG, b64
from tests.workers.test_openai_wav import wav

SPEECH = wav(16_000 * 6)  # six seconds
PROMPT = "What is a tide?"
CHAT = [{"role": "user", "content": PROMPT}]
LIMIT: dict[str, Any] = {"max_tokens": 9, "ignore_eos": True}
#: Each route: what is sent, and the work it is reported as.
WHOLE: dict[str, tuple[dict[str, Any], float]] = {
    "completions": ({"prompt": PROMPT, **LIMIT}, 9),
    "chat/completions": ({"messages": CHAT, **LIMIT}, 9),
    "chat/completions/batch": ({"messages": [CHAT, CHAT], "max_tokens": 100}, 200),
    "embeddings": ({"input": "x" * 600}, 500),
    "rerank": ({"query": "x" * 4960, "documents": ["a"]}, 500 * 4961 / 4960),
    "audio/speech": ({"input": "x" * 100}, 100),
    "audio/speech/batch": ({"items": [{"input": "x" * 100}] * 2}, 200),
    "audio/generate": ({"input": "rain", "audio_length": 1}, 500),
    "audio/transcriptions": ({"file": b64(SPEECH), "filename": "a.wav"}, 100),
    "audio/translations": ({"file": b64(SPEECH)}, 100),
    "images/generations": ({"prompt": "a dog", "n": 2, "size": "512x512"}, 250),
    "images/edits": ({"prompt": "a dog", "image": [b64(PNG), b64(PNG)], "size": "512x512"}, 125),
    "videos/sync": ({"prompt": "a dog", "size": "416x240", "num_frames": 33}, 125),
}
#: Those that have an answer as a stream.
STREAMED: dict[str, dict[str, Any]] = {
    "completions": {"prompt": PROMPT, "stream": True, **LIMIT},
    "chat/completions": {"messages": CHAT, "stream": True, **LIMIT},
    "responses": {"input": PROMPT, "stream": True, "max_output_tokens": 9},
    "messages": {"messages": CHAT, "stream": True, "max_tokens": 9},
    "audio/speech": {"input": "x" * 100, "stream_format": "sse"},
    "audio/transcriptions": {"file": b64(SPEECH), "stream": True},
}


def is_events(answer: Answer) -> bool:
    return (answer.header("Content-Type") or "").startswith("text/event-stream")


# -- whole -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("route", WHOLE)
def test_a_whole_response_of_every_route(served: OpenAIStack, engine: ModelServer, route: str) -> None:
    payload, expected = WHOLE[route]
    answer, work = served.settled(route, payload)
    assert (answer.status, answer.complete, is_events(answer)) == (200, True, False)
    assert work == pytest.approx(expected)
    [*_, request] = engine.stats.requests(f"/v1/{route}")
    is_form = any(name in payload for name in ("file", "image")) or route == "videos/sync"
    expected_type = "multipart/form-data" if is_form else "application/json"
    assert (request.header("Content-Type") or "").startswith(expected_type)


@pytest.mark.parametrize("engine", ["vllm", "sglang"], indirect=True)
def test_a_score(served: OpenAIStack, engine: ModelServer) -> None:
    """The engines have two shapes of it."""
    is_vllm = bool(engine.api.loading_lines(0)[0].count("vLLM"))
    sides: dict[str, Any] = {"text_1": "x" * 2480, "text_2": ["y" * 2480]}
    if not is_vllm:
        sides = {"query": "x" * 2480, "items": ["y" * 2480], "label_token_ids": [1, 2]}
    answer, work = served.settled("score", sides)
    assert (answer.status, work) == (200, 500)


@pytest.mark.parametrize(
    ("route", "payload"),
    [
        ("responses", {"input": PROMPT, "max_output_tokens": 9}),
        ("messages", {"messages": CHAT, "max_tokens": 9}),
    ],
)
def test_newer_apis_are_settled_by_their_usage(
    served: OpenAIStack, engine: ModelServer, route: str, payload: dict[str, Any]
) -> None:
    before = engine.stats.completion_tokens
    answer, work = served.settled(route, payload)
    assert answer.status == 200
    assert 0 < work == answer.object()["usage"]["output_tokens"] == engine.stats.completion_tokens - before


@pytest.mark.parametrize("route", ["completions", "chat/completions"])
def test_a_request_without_a_limit_is_settled_by_what_it_took(
    served: OpenAIStack, engine: ModelServer, route: str
) -> None:
    payload = {key: value for key, value in WHOLE[route][0].items() if key not in LIMIT}
    before = engine.stats.completion_tokens
    answer, work = served.settled(route, payload)
    assert (
        0 < work == answer.object()["usage"]["completion_tokens"] == engine.stats.completion_tokens - before
    )


def test_a_large_whole_response_is_settled_too(served: OpenAIStack) -> None:
    answer, work = served.settled("completions", {"prompt": PROMPT, "max_tokens": 6000, "ignore_eos": True})
    assert len(answer.body) > 20_000
    assert work == answer.object()["usage"]["completion_tokens"] == 6000


def test_the_models_are_the_engine_s(served: OpenAIStack, engine: ModelServer) -> None:
    direct = ask(engine.url, "GET", "/v1/models").object()
    answer = ask(served.url, "GET", "/v1/models", headers={"Authorization": f"Bearer {DOOR_KEY}"})
    assert [model["id"] for model in answer.object()["data"]] == [model["id"] for model in direct["data"]]
    assert ask(served.url, "GET", "/v1/models").status == 401


# -- streamed --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("route", STREAMED)
def test_a_stream_of_every_route_that_has_one(served: OpenAIStack, engine: ModelServer, route: str) -> None:
    before = engine.stats.completion_tokens
    answer, work = served.settled(route, STREAMED[route])
    assert (answer.status, answer.complete, is_events(answer)) == (200, True, True)
    assert answer.body.count(b"data: ") > 4
    expected = 100 if route.startswith("audio/") else engine.stats.completion_tokens - before
    assert work == expected


@pytest.mark.parametrize("route", ["completions", "chat/completions"])
@pytest.mark.parametrize("asks", [False, True])
def test_usage_is_shown_to_whom_asked_for_it(served: OpenAIStack, route: str, asks: bool) -> None:
    payload = {**STREAMED[route], **({"stream_options": {"include_usage": True}} if asks else {})}
    answer, work = served.settled(route, payload)
    chunks = [json.loads(piece[6:]) for piece in answer.body.split(b"\n\n") if piece[6:7] == b"{"]
    assert sum(not chunk["choices"] for chunk in chunks) == asks
    assert sum(bool(chunk.get("usage")) for chunk in chunks) == asks
    assert answer.body.endswith(b"data: [DONE]\n\n")
    assert work == 9


def test_raw_sound_is_passed_on_as_it_comes(served: OpenAIStack) -> None:
    answer, work = served.settled("audio/speech", {"input": "x" * 100, "stream_format": "audio"})
    assert answer.body.startswith(b"RIFF")
    assert work == 100


def test_a_generation_that_breaks_is_an_error(served: OpenAIStack, engine: ModelServer) -> None:
    """The stream ends well, its last event is an error object."""
    engine.break_next(3)
    request_idx = next_request_idx()
    answer = served.call("completions", STREAMED["completions"], request_idx)
    assert (answer.status, answer.complete) == (200, True)
    assert served.outcome(request_idx) == "Error"


# -- files -----------------------------------------------------------------------------------------------


def test_files_arrive_as_they_were_sent(served: OpenAIStack, engine: ModelServer) -> None:
    payload = {
        "file": b64(SPEECH),
        "filename": "über uns.wav",
        "language": "de",
        "temperature": 0.5,
        "x": None,
    }
    assert served.call("audio/transcriptions", payload).status == 200
    [*_, request] = engine.stats.requests("/v1/audio/transcriptions")
    [file] = request.files
    assert (file.field, file.filename, file.content_type) == ("file", "über uns.wav", "audio/wav")
    assert file.sha256 == hashlib.sha256(SPEECH).hexdigest()
    assert [list(pair) for pair in request.fields] == [["language", "de"], ["temperature", "0.5"]]


def test_several_pictures_and_a_mask(served: OpenAIStack, engine: ModelServer) -> None:
    payload = {"prompt": "a dog", "image": [b64(PNG)] * 2, "mask": b64(PNG), "mask_filename": "m.png"}
    assert served.call("images/edits", {"input": {**payload, "size": "64x64"}}).status == 200
    [*_, request] = engine.stats.requests("/v1/images/edits")
    assert [(file.field, file.filename) for file in request.files] == [
        ("image[]", "image.png"),
        ("image[]", "image.png"),
        ("mask", "m.png"),
    ]


def test_a_form_of_a_plain_client(served: OpenAIStack, engine: ModelServer) -> None:
    form = Form([("response_format", "text"), ("language", "de")], [("file", Upload(SPEECH, "a.wav", "x/y"))])
    answer = served.call_plain("audio/transcriptions", *encode_form(form))
    assert (answer.status, answer.header("Content-Type")) == (200, "text/plain; charset=utf-8")
    [*_, request] = engine.stats.requests("/v1/audio/transcriptions")
    assert [list(pair) for pair in request.fields] == [["response_format", "text"], ["language", "de"]]
    assert request.files[0].sha256 == hashlib.sha256(SPEECH).hexdigest()


def test_a_file_at_fault_is_named(served: OpenAIStack) -> None:
    answer = served.call("audio/transcriptions", {"file": "file:///etc/passwd"})
    told = "only http, https and data URIs are taken as references"
    assert (answer.status, answer.object()["payload"]) == (422, {"file": told})
    form = Form([], [("file", Upload(b"x", "a.exe", ""))])
    plain = served.call_plain("audio/transcriptions", *encode_form(form))
    assert (plain.status, plain.object()["error"]["param"]) == (422, "file")


# -- errors ----------------------------------------------------------------------------------------------


def test_a_plain_client_gets_what_the_others_get(served: OpenAIStack) -> None:
    payload = {"prompt": PROMPT, "seed": 3, "temperature": 0, **LIMIT}
    enveloped, plain = (
        served.call("completions", payload),
        served.call_plain("completions", json.dumps(payload).encode()),
    )
    assert enveloped.object()["choices"] == plain.object()["choices"]


@pytest.mark.parametrize("payload", [{"prompt": PROMPT, "max_tokens": "9"}, {"max_tokens": 9}])
def test_a_field_at_fault_is_named(served: OpenAIStack, payload: dict[str, Any]) -> None:
    field = "max_tokens" if "prompt" in payload else "prompt"
    answer = served.call("completions", payload)
    assert (answer.status, list(answer.object()["payload"])) == (422, [field])
    plain = served.call_plain("completions", json.dumps(payload).encode())
    assert (plain.status, plain.object()["error"]["param"]) == (422, field)
    assert field in plain.object()["error"]["message"]


def test_an_error_of_the_engine_is_passed_on(served: OpenAIStack, engine: ModelServer) -> None:
    payload = {"prompt": PROMPT, "model": "another", **LIMIT}
    direct = ask(engine.url, "POST", "/v1/completions", json.dumps(payload).encode())
    answer, work = served.settled("completions", payload)
    assert (answer.status, answer.body, work) == (direct.status, direct.body, 0)


def test_a_route_that_the_engine_lacks_is_its_404(raw: OpenAIStack) -> None:
    raw.model.script(
        "/v1/messages", b'HTTP/1.1 404 Not Found\r\nContent-Length: 22\r\n\r\n{"detail":"Not Found"}'
    )
    answer = raw.call("messages", {"messages": CHAT, "max_tokens": 5})
    assert (answer.status, answer.body) == (404, b'{"detail":"Not Found"}')
