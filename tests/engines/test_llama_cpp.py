"""llama.cpp's server: what only its own books, log and routes can tell."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from pyworker.local.signing import Signer
from tests.support import engines
from tests.support.engine_stack import EngineStack, Events, engine_stack
from tests.support.engines import Engine
from tests.support.http import next_request_idx
from tests.support.process import ROOT
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.engines, pytest.mark.timeout(300)]

PROMPT = "What is a tide?"
#: Of the engine of this file.
CONTEXT = 16_384
#: Until the probes have noticed that the server is gone, or back.
HEALTH_SECONDS = 90.0


@pytest.fixture(scope="module")
def stack(
    llama_cpp: Engine, tmp_path_factory: pytest.TempPathFactory, signing_key: Signer
) -> Iterator[EngineStack]:
    """A ready worker in front of it."""
    with engine_stack(tmp_path_factory.mktemp("llama"), signing_key, llama_cpp, "llama") as stack:
        yield stack


@pytest.fixture
def served_before(stack: EngineStack) -> float:
    """The work of everything before this test."""
    return stack.settled()


def generated(engine: Engine) -> int:
    """The tokens that the server has generated in all, by its own books."""
    found = re.search(
        r"^llamacpp:tokens_predicted_total (\d+)", engine.get("/metrics").body.decode(), re.MULTILINE
    )
    assert found
    return int(found[1])


@pytest.mark.parametrize(
    ("path", "payload"),
    [
        ("/v1/completions", {"prompt": PROMPT, "max_tokens": 40}),
        ("/v1/completions", {"prompt": PROMPT, "max_tokens": 40, "stream": True}),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": PROMPT}], "max_tokens": 40}),
        (
            "/v1/chat/completions",
            {"messages": [{"role": "user", "content": PROMPT}], "max_tokens": 40, "stream": True},
        ),
    ],
    ids=["completions", "completions-stream", "chat", "chat-stream"],
)
def test_what_is_reported_is_what_the_server_counted(
    stack: EngineStack, served_before: float, path: str, payload: dict[str, Any]
) -> None:
    """Streams do not tell the client, who did not ask."""
    before = generated(stack.model)

    answers = [stack.call(path, payload) for _ in range(5)]

    assert {answer.status for answer in answers} == {200}
    counted = generated(stack.model) - before
    assert 0 < counted <= 5 * 40
    assert stack.settled() == served_before + counted


def test_a_request_without_max_tokens_is_settled_by_what_it_took(
    stack: EngineStack, served_before: float
) -> None:
    """The model ends by itself, after some sentences."""
    body = stack.call("/v1/completions", {"prompt": PROMPT}).object()

    assert body["usage"]["completion_tokens"] > 0
    assert stack.settled() == served_before + body["usage"]["completion_tokens"]


def test_fields_that_the_worker_does_not_know_reach_the_server(stack: EngineStack) -> None:
    """Without `ignore_eos` the model would end its sentence; `n_probs` makes its answer show more."""
    payload = {"prompt": PROMPT, "max_tokens": 200, "ignore_eos": True, "logprobs": 3}

    body = stack.call("/v1/completions", payload).object()

    assert body["usage"]["completion_tokens"] == 200
    assert len(body["choices"][0]["logprobs"]["content"]) == 200


@pytest.mark.parametrize("stream", [False, True])
def test_a_prompt_above_the_context(stack: EngineStack, served_before: float, stream: bool) -> None:
    payload = {"prompt": "tide " * CONTEXT, "max_tokens": 5, "stream": stream}
    direct = stack.model.post("/v1/completions", json.dumps(payload).encode())
    request_idx = next_request_idx()

    answer = stack.call("/v1/completions", payload, request_idx)

    assert answer.status == 400
    error = answer.object()["error"]
    assert error == direct.object()["error"]
    assert (error["type"], error["n_ctx"]) == ("exceed_context_size_error", CONTEXT)
    assert stack.outcome(request_idx) == "Success"
    assert stack.settled() == served_before


def test_a_client_that_leaves_ends_the_generation(stack: EngineStack, served_before: float) -> None:
    """What was generated until then is the work done, by the server's own books."""
    engine = stack.model
    seen, counted = len(engine.log), generated(engine)
    request_idx = next_request_idx()
    payload = {"prompt": PROMPT, "max_tokens": 15_000, "ignore_eos": True, "stream": True}
    client = stack.begin("/v1/completions", payload, request_idx)
    assert client.head() == 200
    for _ in range(20):
        client.until(b"\n\n")

    client.close()

    engine.wait_for_log("cancel task", since=seen)
    assert stack.outcome(request_idx) == "Cancelled"
    wait_until(lambda: generated(engine) > counted, "the server's count of a task that was ended")
    made = generated(engine) - counted
    assert made < 15_000
    assert 20 <= stack.settled() - served_before <= made


def test_engines_of_more_than_one_api(stack: EngineStack, served_before: float) -> None:
    """`/v1/messages` and `/v1/responses` are passed on, and settled by their usage."""
    message = {"model": "any", "max_tokens": 12, "messages": [{"role": "user", "content": PROMPT}]}
    body = stack.call("/v1/messages", message).object()
    assert (body["type"], body["role"]) == ("message", "assistant")
    tokens = body["usage"]["output_tokens"]

    body = stack.call("/v1/responses", {"model": "any", "max_output_tokens": 12, "input": PROMPT}).object()
    assert body["object"] == "response"
    tokens += body["usage"]["output_tokens"]

    assert 0 < tokens <= 24
    assert stack.settled() == served_before + tokens


def test_four_at_once_and_the_rest_in_line(stack: EngineStack, served_before: float) -> None:
    payload = {"prompt": PROMPT, "max_tokens": 100, "ignore_eos": True, "stream": True}
    clients = [stack.begin("/v1/completions", payload, next_request_idx()) for _ in range(12)]

    answers = [client.answer() for client in clients]

    for client in clients:
        client.close()
    assert all(Events.of(answer).done for answer in answers)
    assert stack.settled() == served_before + 1200


def test_embeddings(llama_cpp_embeddings: Engine, tmp_path: Path, signing_key: Signer) -> None:
    variables = {"OPENAI_ROUTES": "embeddings", "BENCHMARK_ROUTE": "embeddings"}
    payload = {"input": ["a patient clerk", "a busy counter"], "model": "any"}
    with engine_stack(tmp_path, signing_key, llama_cpp_embeddings, "llama", variables) as stack:
        served = stack.settled()
        answer = stack.call("/v1/embeddings", payload)

        assert answer.status == 200
        body = answer.object()
        assert [entry["index"] for entry in body["data"]] == [0, 1]
        assert {len(entry["embedding"]) for entry in body["data"]} == {1024}
        assert stack.settled() == served + 500 * 0.1  # 29 characters are less than the least there is


def test_the_benchmark_measures_it(llama_cpp: Engine, tmp_path: Path, signing_key: Signer) -> None:
    with engine_stack(tmp_path, signing_key, llama_cpp, "llama", benchmark=None) as stack:
        [loaded] = [report for report in stack.reports if report["loadtime"] > 0]
        assert loaded["max_perf"] > 10
        # Of its own, as in a restart: what was measured is kept.
        assert float((tmp_path / ".has_benchmark").read_text("utf-8").split()[0]) == loaded["max_perf"]


def test_a_worker_follows_a_good_start(tmp_path: Path, signing_key: Signer) -> None:
    engine = engines.llama_cpp(tmp_path)
    with engine_stack(tmp_path, signing_key, engine, "llama", ready=False) as stack:
        stack.wait_for_report(lambda report: report["max_perf"] == 0, "a report of a loading worker")
        try:
            engine.start()
            stack.wait_ready()
            assert stack.call("/v1/completions", {"prompt": PROMPT, "max_tokens": 2}).status == 200
        finally:
            engine.stop()


def test_a_worker_reports_a_bad_start(tmp_path: Path, signing_key: Signer) -> None:
    damaged = tmp_path / "damaged.gguf"
    damaged.write_bytes(b"GGUF" + b"\xff" * 64)
    engine = engines.llama_cpp(tmp_path, "--model", str(damaged))
    with engine_stack(tmp_path, signing_key, engine, "llama", ready=False) as stack:
        engine.launch()
        assert engine.wait() == 1
        stack.wait_for_report(
            lambda report: "failed to load model" in report["error_msg"], "the server's last words"
        )


def test_a_server_that_dies_in_mid_stream_and_comes_back(tmp_path: Path, signing_key: Signer) -> None:
    engine = engines.llama_cpp(tmp_path, "--context", str(CONTEXT)).start()
    with engine_stack(tmp_path, signing_key, engine, "llama", {"HEALTH_FAILURES": "1"}) as stack:
        request_idx = next_request_idx()
        payload = {"prompt": PROMPT, "max_tokens": 15_000, "ignore_eos": True, "stream": True}
        with stack.begin("/v1/completions", payload, request_idx) as client:
            assert client.head() == 200
            client.until(b"\n\n")
            engine.kill()
            with pytest.raises((EOFError, ConnectionResetError)):
                client.until(b"[DONE]")
        assert stack.outcome(request_idx) == "Error"
        stack.wait_for_report(lambda report: report["error_msg"], "its death", HEALTH_SECONDS)

        engine.start()
        try:
            stack.wait_for_next_report(_is_ready, "its return", HEALTH_SECONDS)
            assert stack.call("/v1/completions", {"prompt": PROMPT, "max_tokens": 2}).status == 200
        finally:
            engine.stop()


def test_the_model_says_what_it_learned(tmp_path: Path) -> None:
    """Its most likely words are those of the text."""
    model = tmp_path / "learned.gguf"
    program = "import sys, pathlib\nfrom pyworker.local.tiny_llama import write_model\n"
    program += f"write_model(pathlib.Path({str(model)!r}), text='a patient clerk counts, and rests. ' * 9)"
    subprocess.run([str(engines.engines_python()), "-c", program], cwd=ROOT, check=True)
    engine = engines.llama_cpp(tmp_path, "--model", str(model)).start()
    try:
        ask = {"prompt": "What?", "temperature": 0, "max_tokens": 7, "ignore_eos": True}
        answer = engine.post("/v1/completions", json.dumps(ask).encode()).object()
        assert answer["choices"][0]["text"] == " a patient clerk counts, and rests"
    finally:
        engine.stop()


@pytest.mark.parametrize("moment", ["as it starts", "as soon as it serves"])
def test_it_ends_when_it_is_told(tmp_path: Path, moment: str) -> None:
    engine = engines.llama_cpp(tmp_path).launch()
    if moment == "as it starts":
        engine.wait_for_log("loading model")
    else:
        wait_until(engine.is_healthy, "a server")

    assert engine.stop() == 0


def _is_ready(report: Mapping[str, Any]) -> bool:
    return report["max_perf"] > 0 and not report["error_msg"]
