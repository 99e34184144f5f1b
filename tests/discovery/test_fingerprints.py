"""Which model server answers at a URL, also if it answers in bad faith."""

from __future__ import annotations

import json
import time

import pytest

from pyworker.discovery.fingerprints import ask, new_probe
from tests.discovery.engines import NOT_FOUND, ROUTES, answer_as
from tests.support.dripping import DRIPS, Dripping
from tests.support.scripted import Act, ScriptedServer, head, whole

PROBE = new_probe("", None)
DEEP = b"[" * 200_000


@pytest.mark.parametrize("worker", ROUTES)
def test_each_server_is_told_by_what_it_answers(scripted_model: ScriptedServer, worker: str) -> None:
    answer_as(scripted_model, worker)
    answer = ask(scripted_model.url, PROBE)
    assert list(answer.workers) == [worker]
    assert answer.trouble == ""
    assert answer.workers[worker].startswith("/")


def test_a_server_that_embeds_is_not_taken_for_one_that_generates(scripted_model: ScriptedServer) -> None:
    scripted_model.default = (NOT_FOUND,)
    info = {"model_id": "m", "model_type": {"embedding": {"pooling": "cls"}}, "max_input_length": 512}
    scripted_model.script("/info", whole(json.dumps(info).encode()))
    assert ask(scripted_model.url, PROBE).workers == {}


def test_the_key_is_sent_and_a_refusal_is_named(scripted_model: ScriptedServer) -> None:
    answer_as(scripted_model, "vllm")
    scripted_model.script("/v1/models", whole(b'{"error": "no"}', status="401 Unauthorized"))
    answer = ask(scripted_model.url, new_probe("the-key", None))
    assert answer.workers == {"vllm": "/version has vLLM's form"}
    assert answer.trouble == "/v1/models answers 401: does it need MODEL_API_KEY?"
    assert scripted_model.requests("/v1/models")[0].header("Authorization") == "Bearer the-key"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"[]",
        b"{}",
        b'{"data": 1}',
        b'{"data": {"owned_by": "vllm"}}',
        b"\xff\xfe",
        b'{"data": [',
        DEEP,
        b'{"paths": ["/generate/sync"], "system": [], "devices": {}, "router": ["text-generation-router"]}',
        b'{"version": "1"}',
    ],
    ids=lambda body: repr(body[:30]),
)
def test_what_has_no_servers_form_is_none(scripted_model: ScriptedServer, body: bytes) -> None:
    scripted_model.default = (whole(body, "Content-Type: application/json"),)
    assert ask(scripted_model.url, PROBE).workers == {}


def test_owners_that_are_no_text_make_a_server_of_unknown_kind(scripted_model: ScriptedServer) -> None:
    scripted_model.default = (NOT_FOUND,)
    content = {"data": [{"owned_by": ["vllm"]}, {"owned_by": None}, {}, "x", 1]}
    scripted_model.script("/v1/models", whole(json.dumps(content).encode()))
    assert list(ask(scripted_model.url, PROBE).workers) == ["openai"]


def test_one_that_says_everything_is_ambiguous(scripted_model: ScriptedServer) -> None:
    answer_as(scripted_model, "vllm")
    content = json.dumps(ROUTES["comfyui"]["/system_stats"]).encode()
    scripted_model.script("/system_stats", whole(content))
    assert sorted(ask(scripted_model.url, PROBE).workers) == ["comfyui", "vllm"]


def test_nobody_is_there() -> None:
    with ScriptedServer(listening=False) as silent:
        answer = ask(silent.url, PROBE)
    assert answer.workers == {}
    assert answer.trouble.endswith("cannot be reached")


@pytest.mark.parametrize("drips", DRIPS)
def test_a_server_that_drips_is_given_up_soon(drips: str) -> None:
    with Dripping(DRIPS[drips]) as server:
        began = time.monotonic()
        answer = ask(server.url, PROBE)
        assert time.monotonic() - began < 8
    assert answer.workers == {}
    assert answer.trouble


@pytest.mark.parametrize("endless", ["body", "header block", "silence"])
def test_a_response_without_end_is_bounded(scripted_model: ScriptedServer, endless: str) -> None:
    much = b"x" * 2**20
    scripts = {
        "body": (head("Content-Length: 999999999"), *[much] * 64, Act.HANG),
        "header block": (b"HTTP/1.1 200 OK\r\n", *[b"X-Y: " + b"x" * 1000 + b"\r\n"] * 4000, Act.HANG),
        "silence": (Act.HANG,),
    }
    scripted_model.default = scripts[endless]
    began = time.monotonic()
    answer = ask(scripted_model.url, PROBE)
    assert time.monotonic() - began < 8
    assert answer.workers == {}
    assert answer.trouble
