"""What the OpenAI worker sends to the model server, byte for byte, and what it makes of odd answers."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from pyworker.config import Settings
from pyworker.data_types import LogAction
from pyworker.errors import ConfigError
from pyworker.loadtest import execute
from pyworker.registry import load_worker
from tests.support.http import next_request_idx
from tests.support.process import ROOT, environment
from tests.support.scripted import Act, chunk, head, whole
from tests.workers.conftest import DOOR_KEY, OpenAIStack
from tests.workers.test_openai_uploads import WAV, b64
from workers.openai.data_types.text import Completion, StreamedCompletion

JSON = "Content-Type: application/json"
EVENTS = (JSON.replace("application/json", "text/event-stream"), "Transfer-Encoding: chunked")
PROCESS_SECONDS = 60
MODEL = "model-of-the-worker"


def sent(raw: OpenAIStack, route: str, payload: dict[str, Any]) -> bytes:
    """What the model server gets for it."""
    raw.model.forget()
    assert raw.call(route, payload).status == 200
    return raw.model.request(f"/v1/{route}").body


def event(text: str, **more: object) -> bytes:
    data = {"choices": [{"index": 0, "delta": {"content": text}}], **more}
    return b"data: " + json.dumps(data).encode() + b"\n\n"


@pytest.mark.parametrize("wrapped", [False, True])
def test_unknown_fields_nulls_and_order_travel_on(raw: OpenAIStack, wrapped: bool) -> None:
    payload = {
        "zeta": None,
        "messages": [{"role": "user", "content": None, "extra": {"a": [1.25, True]}}],
        "model": "theirs",
        "seed": None,
        "max_tokens": 5,
        "alpha": "é\u2028",
        "stream": False,
    }
    body = sent(raw, "chat/completions", {"input": payload} if wrapped else payload)
    assert list(json.loads(body)) == list(payload)
    assert json.loads(body) == payload


@pytest.mark.parametrize("model", [None, "", ...])
def test_a_request_without_a_model_gets_the_worker_s(raw: OpenAIStack, model: Any) -> None:
    named = {} if model is ... else {"model": model}
    body = json.loads(sent(raw, "completions", {"prompt": "x", **named}))
    assert body == {"prompt": "x", "model": MODEL}
    assert b'name="model"\r\n\r\n' + MODEL.encode() in sent(
        raw, "audio/transcriptions", {"file": b64(WAV), **named}
    )


def test_a_request_with_a_model_keeps_it(raw: OpenAIStack) -> None:
    form = sent(raw, "audio/transcriptions", {"file": b64(WAV), "model": "theirs"})
    assert form.count(b'name="model"') == 1
    assert b"theirs" in form


def test_a_stream_is_asked_for_its_usage(raw: OpenAIStack) -> None:
    body = json.loads(sent(raw, "completions", {"prompt": "x", "stream": True, "stream_options": None}))
    assert body["stream_options"] == {"include_usage": True}


def test_a_client_that_hangs_up_has_cost_what_came(raw: OpenAIStack) -> None:
    before = raw.settled_work()
    first = event("", role="assistant")
    raw.model.once("/v1/chat/completions", head(*EVENTS), *map(chunk, [first, *[event("w")] * 4]), Act.HANG)
    request_idx = next_request_idx()
    with raw.open_route("chat/completions", {"messages": [], "stream": True}, request_idx) as client:
        for _ in range(5):
            client.until(b"\n\n")
    assert raw.outcome(request_idx) == "Cancelled"
    assert raw.settled_work() - before == 4


def test_a_whole_request_that_is_left_keeps_its_estimate_until_it_ends(raw: OpenAIStack) -> None:
    gate = threading.Event()
    raw.model.once("/v1/completions", gate, whole(b"{}", JSON))
    with raw.open_route("completions", {"prompt": "x"}, next_request_idx()):
        raw.wait_for_next_report(lambda report: report["cur_load"] == 500, "the estimate")
        gate.set()
        raw.wait_in_hand(0)


def test_an_error_object_with_status_200_is_an_error(raw: OpenAIStack) -> None:
    raw.model.once("/v1/embeddings", whole(b'{"error": {"message": "no such input"}}', JSON))
    request_idx = next_request_idx()
    assert raw.call("embeddings", {"input": "x"}, request_idx).status == 200
    assert raw.outcome(request_idx) == "Error"


# -- the workers of single engines -----------------------------------------------------------------------

THIN = {
    "vllm": ("VLLM_MODEL", "Application startup complete."),
    "sglang": ("SGLANG_MODEL", "The server is fired up and ready to roll!"),
    "llama": ("LLAMA_MODEL", "model loaded"),
}


@pytest.mark.parametrize("name", THIN)
def test_the_worker_of_an_engine(name: str) -> None:
    variable, loaded = THIN[name]
    worker = load_worker(name)
    backend = worker.create_backend(Settings.from_env({variable: "the-model", "CONTAINER_ID": "1"}))
    try:
        assert backend.model_log_file == Path(f"/var/log/portal/{name}.log")
        assert (LogAction.ModelLoaded, loaded) in backend.log_actions
        assert (LogAction.ModelError, f"exited: {name}") in backend.log_actions
        assert backend.benchmark_handler.generate_payload_json(Completion.for_test())["model"] == "the-model"
        assert backend.health_url == "http://127.0.0.1:18000/health"
        assert (backend.max_queue_time, backend.health_timeout, backend.benchmark_concurrency) == (
            600,
            30,
            10,
        )
    finally:
        backend.client.close()


@pytest.mark.parametrize(
    ("variables", "model", "loaded"),
    [
        ({}, None, THIN["vllm"][1]),
        ({"VLLM_MODEL": "a", "SGLANG_MODEL": "b"}, "a", THIN["vllm"][1]),
        ({"SGLANG_MODEL": "b"}, "b", THIN["sglang"][1]),
        ({"LLAMA_MODEL": "c", "MODEL_NAME": "d"}, "d", THIN["llama"][1]),
    ],
)
def test_the_openai_worker_goes_by_the_variable(
    variables: dict[str, str], model: str | None, loaded: str
) -> None:
    backend = load_worker("openai").create_backend(Settings.from_env(variables))
    try:
        assert backend.model_log_file is None
        assert (LogAction.ModelLoaded, loaded) in backend.log_actions
        assert backend.benchmark_handler.generate_payload_json(Completion.for_test()).get("model") == model
    finally:
        backend.client.close()


@pytest.mark.parametrize("variable", ["OPENAI_ROUTES", "BENCHMARK_ROUTE"])
def test_a_wrong_route_stops_the_start(variable: str) -> None:
    with pytest.raises(
        ConfigError, match=f"{variable}: there is no route 'chat'; expected completions, chat/"
    ):
        load_worker("vllm").create_backend(Settings.from_env({variable: "chat"}))


def test_names_of_routes_may_begin_as_their_paths_do() -> None:
    worker = load_worker("vllm")
    backend = worker.create_backend(Settings.from_env({"OPENAI_ROUTES": "/v1/rerank, score,,rerank"}))
    try:
        worker.create_blueprint(backend)
        assert [handler.endpoint for handler in backend.handlers] == [
            *("/v1/rerank", "/v1/rerank", "/v1/score", "/v1/models")
        ]
    finally:
        backend.client.close()


# -- clients ---------------------------------------------------------------------------------------------


def run_client(raw: OpenAIStack, *arguments: str, worker: str = "openai") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", f"workers.{worker}.client", "--prompt", "hello", *arguments],
        cwd=ROOT,
        env=environment(raw.folder, raw.worker.port, {}),
        capture_output=True,
        text=True,
        timeout=PROCESS_SECONDS,
        check=False,
    )


def door(raw: OpenAIStack) -> list[str]:
    return ["--openai", f"{raw.url}/v1", "-k", DOOR_KEY]


@pytest.mark.parametrize("worker", ["openai", "vllm", "sglang", "llama"])
def test_the_client_prints_a_whole_response(raw: OpenAIStack, worker: str) -> None:
    raw.model.script("/v1/chat/completions", whole(b'{"choices": [{"message": {"content": "Hi."}}]}', JSON))
    through_autoscaler = ["--autoscaler", raw.autoscaler.url, "-k", "any", "-e", "any"]
    for way in (door(raw), through_autoscaler):
        done = run_client(raw, *way, "--max-tokens", "7", worker=worker)
        assert (done.stdout, done.stderr, done.returncode) == ("Hi.\n", "", 0)
        request = raw.model.requests("/v1/chat/completions")[-1].json()
        assert request["messages"] == [{"role": "user", "content": "hello"}]
        assert request["max_tokens"] == 7


def test_the_client_prints_a_stream(raw: OpenAIStack) -> None:
    pieces = [event("H"), event("i."), b"data: [DONE]\n\n"]
    raw.model.script("/v1/chat/completions", head(*EVENTS), *map(chunk, pieces), chunk(b""))
    done = run_client(raw, *door(raw), "--stream")
    assert (done.stdout, done.stderr, done.returncode) == ("Hi.\n", "", 0)


def test_the_client_continues_a_prompt(raw: OpenAIStack) -> None:
    raw.model.script("/v1/completions", whole(b'{"choices": [{"text": " world"}]}', JSON))
    done = run_client(raw, *door(raw), "--completions", "--model", "theirs")
    assert (done.stdout, done.returncode) == (" world\n", 0)
    assert raw.model.request("/v1/completions").json()["model"] == "theirs"


def test_the_client_says_what_was_refused(raw: OpenAIStack) -> None:
    done = run_client(raw, "--openai", raw.url, "-k", "sk-a-wrong-key")
    assert done.returncode == 1
    assert "401" in done.stderr
    assert "sk-a-wrong-key" not in done.stderr
    assert "--openai needs the key" in run_client(raw, "--openai", raw.url).stderr


@pytest.mark.parametrize("stream", [False, True])
def test_the_load_test_goes_through_the_door(raw: OpenAIStack, tmp_path: Path, stream: bool) -> None:
    pieces = [event("a"), event("b"), b"data: [DONE]\n\n"]
    answer = [head(*EVENTS), *map(chunk, pieces), chunk(b"")] if stream else [whole(b'{"choices": []}', JSON)]
    raw.model.script("/v1/completions", *answer)
    file = tmp_path / "result.json"
    argv = [*door(raw), "-n", "5", "-rps", "100", "--json", str(file), *(["--stream"] if stream else [])]
    assert execute(Completion, "/v1/completions", argv, stream_payload=StreamedCompletion) == 0
    result = json.loads(file.read_text())
    assert (result["succeeded"], result["tokens"]) == (5, 10 if stream else 0)
    [*_, request] = raw.model.requests("/v1/completions")
    assert request.json().get("stream", False) is stream
    assert request.json()["temperature"] == 0.7


def test_the_load_test_calls_one_worker_in_one_way(
    raw: OpenAIStack, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        execute(Completion, "/x", [*door(raw), "-n", "1", "--worker-url", raw.url])
    with pytest.raises(SystemExit):
        execute(Completion, "/x", [*door(raw), "-n", "1", "-l"])
    err = capsys.readouterr().err
    assert "leave out one" in err
    assert "leave out -l and --autoscaler" in err
