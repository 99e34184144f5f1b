"""The local engine as a server: what it says of itself, its errors, its log, its command line."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any

import pytest
import requests

from pyworker.data_types import LogAction
from pyworker.engines import ENGINES
from pyworker.lifecycle.log_lines import LogMatcher
from pyworker.local.language_model import CorruptedModelError
from pyworker.local.model_server import ModelServer
from pyworker.local.model_stats import MOST_REQUESTS
from pyworker.local.openai_api.api import OpenAIApi
from pyworker.local.tgi_api import TgiApi
from tests.support.local_engine import good, post
from tests.support.process import ROOT
from tests.support.waiting import DEADLINE

ENGINE_NAMES = ["vllm", "sglang"]


@pytest.fixture(params=ENGINE_NAMES)
def server(request: pytest.FixtureRequest) -> Generator[ModelServer]:
    with ModelServer(api=OpenAIApi(request.param, context=100), seed=1) as running:
        yield running


def get(server: ModelServer, path: str, **headers: str) -> requests.Response:
    return requests.get(server.url + path, headers=headers, timeout=DEADLINE)


def name_of(server: ModelServer) -> str:
    return str(get(server, "/v1/models").json()["data"][0]["owned_by"])


# --- what it says of itself ------------------------------------------------------------------------------


def test_models_and_health(server: ModelServer) -> None:
    assert (get(server, "/health").status_code, get(server, "/health").content) == (200, b"")
    [model] = get(server, "/v1/models").json()["data"]
    assert (model["id"], model["object"], model["max_model_len"]) == ("local-model", "model", 100)


def test_each_engine_has_its_own_way_to_tell_what_it_is() -> None:
    with ModelServer(api=OpenAIApi("vllm")) as vllm, ModelServer(api=OpenAIApi("sglang", "tiny")) as sglang:
        assert re.fullmatch(r"\d+\.\d+\.\d+", get(vllm, "/version").json()["version"])
        assert get(vllm, "/get_model_info").status_code == 404
        assert get(sglang, "/get_model_info").json()["model_path"] == "tiny"
        assert get(sglang, "/version").status_code == 404


# --- errors ----------------------------------------------------------------------------------------------


def error_of(server: ModelServer, response: requests.Response) -> dict[str, Any]:
    """The error object, which has the shape of the engine."""
    body = response.json()
    if name_of(server) == "sglang":
        assert body.pop("object") == "error"
    else:
        assert list(body) == ["error"]
        body = body["error"]
    assert set(body) == {"message", "type", "param", "code"}
    assert body["code"] == response.status_code
    return body


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/chat/completions", "/v1/embeddings"])
def test_an_unknown_model_is_404(server: ModelServer, path: str) -> None:
    response = post(server, path, model="other", prompt="x", input="x", messages=[{"role": "user"}])
    error = error_of(server, response)
    assert (response.status_code, error["type"], error["param"]) == (404, "NotFoundError", "model")
    assert "`other`" in error["message"]


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        ("/v1/completions", {"prompt": "word " * 101}),
        ("/v1/completions", {"prompt": "word " * 50, "max_tokens": 60}),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "word " * 101}]}),
        ("/v1/embeddings", {"input": ["x", "word " * 101]}),
        ("/v1/responses", {"input": "word " * 101}),
    ],
    ids=str,
)
def test_a_prompt_above_the_context_is_400(server: ModelServer, path: str, fields: dict[str, object]) -> None:
    response = post(server, path, **fields)
    error = error_of(server, response)
    assert (response.status_code, error["type"]) == (400, "BadRequestError")
    assert "context length" in error["message"]
    assert "100 tokens" in error["message"]
    assert server.stats.prompt_tokens == 0


def test_a_text_may_fill_the_context(server: ModelServer) -> None:
    chat = good(server, "/v1/chat/completions", messages=[{"role": "user", "content": "x"}], ignore_eos=True)
    assert chat["usage"]["total_tokens"] == 100


@pytest.mark.parametrize(
    ("path", "fields", "named"),
    [
        ("/v1/completions", {}, "prompt"),
        ("/v1/completions", {"prompt": []}, "prompt"),
        ("/v1/completions", {"prompt": "x", "max_tokens": 0}, "max_tokens"),
        ("/v1/completions", {"prompt": "x", "max_tokens": "7"}, "max_tokens"),
        ("/v1/completions", {"prompt": "x", "n": 0}, "n"),
        ("/v1/completions", {"prompt": "x", "stop": ["", "y"]}, "stop"),
        ("/v1/completions", {"prompt": "x", "stream_options": {}}, "stream_options"),
        ("/v1/chat/completions", {"messages": []}, "messages"),
        ("/v1/chat/completions", {"messages": [{"content": "x"}]}, "messages.0.role"),
        ("/v1/chat/completions/batch", {"messages": []}, "messages"),
        ("/v1/responses", {"input": 5}, "input"),
        ("/v1/rerank", {"query": "x"}, "documents"),
    ],
    ids=str,
)
def test_a_wrong_field_is_named(
    server: ModelServer, path: str, fields: dict[str, object], named: str
) -> None:
    response = post(server, path, **fields)
    assert response.status_code == 400
    assert str(error_of(server, response)["param"]).startswith(named)


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b'"text"', b"\xff\xfe", b"[" * 100_000])
def test_a_body_that_is_no_json_object_is_refused(server: ModelServer, data: bytes) -> None:
    response = requests.post(server.url + "/v1/completions", data=data, timeout=DEADLINE)
    assert response.status_code == 400
    assert error_of(server, response)["message"]


def test_parts_of_a_content_may_be_anything(server: ModelServer) -> None:
    body = good(
        server, "/v1/responses", input=[{"content": [5, None, {"text": 5}, {"text": "two words"}]}, {}]
    )
    assert body["usage"]["input_tokens"] == 3 + 2 * 4


def test_half_a_character_is_refused(server: ModelServer) -> None:
    response = post(server, "/v1/completions", prompt="half \ud800 a pair")
    assert response.status_code == 400


def test_an_unknown_path_is_404(server: ModelServer) -> None:
    assert post(server, "/v1/nothing").json() == {"detail": "Not Found"}
    assert get(server, "/v1/completions").status_code == 405


def test_a_key_is_asked_for_below_v1() -> None:
    with ModelServer(api=OpenAIApi(api_key="sk-one")) as server:
        assert get(server, "/health").status_code == 200
        assert get(server, "/v1/models").status_code == 401
        assert get(server, "/v1/models", Authorization="Bearer sk-two").status_code == 401
        assert get(server, "/v1/models", Authorization="Bearer sk-one").status_code == 200


@pytest.mark.parametrize("engine", ENGINE_NAMES)
def test_while_loading_it_answers_503(engine: str) -> None:
    server = ModelServer(api=OpenAIApi(engine), load_seconds=3600)
    server.start()
    try:
        assert get(server, "/health").status_code == 503
        response = post(server, "/v1/completions", prompt="x")
        assert response.status_code == 503
        assert "loading" in response.text
    finally:
        server.stop()


# --- what was asked --------------------------------------------------------------------------------------


def test_requests_are_told_as_they_came(server: ModelServer) -> None:
    post(server, "/v1/completions", prompt="x y", max_tokens=2, unknown={"a": [1]})
    body = get(server, "/stats").json()

    [request] = body["requests"]
    assert (request["method"], request["path"]) == ("POST", "/v1/completions")
    assert request["fields"] == {"prompt": "x y", "max_tokens": 2, "unknown": {"a": [1]}}
    assert ["Content-Type", "application/json"] in request["headers"]
    assert (request["prompt_tokens"], request["completion_tokens"], request["ending"]) == (3, 2, "done")
    assert (body["prompt_tokens"], body["completion_tokens"]) == (3, 2)
    [seen] = server.stats.requests("/v1/completions")
    assert seen.header("content-type") == "application/json"


def test_only_so_many_requests_are_kept() -> None:
    with ModelServer(api=OpenAIApi()) as server, requests.Session() as session:
        for _ in range(MOST_REQUESTS + 3):
            session.get(server.url + "/health", timeout=DEADLINE)
        assert len(server.stats.requests()) == MOST_REQUESTS


# --- log -------------------------------------------------------------------------------------------------


def found_in(log: Path, engine: str) -> list[LogAction]:
    """What a worker finds in a log, but what is only information."""
    matcher = LogMatcher(ENGINES[engine])
    actions = [action for line in log.read_text("utf-8").splitlines() for action in matcher.match(line)]
    return [action for action in actions if action is not LogAction.Info]


APIS = {"vllm": OpenAIApi, "sglang": lambda: OpenAIApi("sglang"), "tgi": TgiApi}


@pytest.mark.parametrize("engine", APIS)
def test_a_good_start_is_logged_as_the_engine_does(engine: str, tmp_path: Path) -> None:
    log = tmp_path / "model.log"
    with ModelServer(api=APIS[engine](), log_file=log) as server:
        post(server, "/v1/my-secret", prompt="my-secret")
        post(server, "/v1/completions?my-secret", prompt="my-secret")
        post(server, "/generate", inputs="my-secret")
    assert found_in(log, engine) == [LogAction.ModelLoaded]
    assert "my-secret" not in log.read_text("utf-8")


@pytest.mark.parametrize("engine", APIS)
def test_a_bad_start_is_logged_as_the_engine_does(engine: str, tmp_path: Path) -> None:
    log = tmp_path / "model.log"
    with pytest.raises(CorruptedModelError), ModelServer(api=APIS[engine](), log_file=log, fail=True):
        pytest.fail("it is not ready")
    found = found_in(log, engine)
    assert set(found) == {LogAction.ModelError}


# --- the command line ------------------------------------------------------------------------------------


def run(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pyworker.local.model_server", *options],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--api", "openai"], "RuntimeError: Engine core initialization failed."),
        (["--api", "openai", "--engine", "sglang"], "Received sigquit from a child process"),
        (["--api", "tgi"], "Error: ShardCannotStart"),
        ([], "Exception: corrupted model file"),
    ],
    ids=str,
)
def test_a_process_may_be_told_to_fail(tmp_path: Path, options: Sequence[str], said: str) -> None:
    done = run(tmp_path, *options, "--fail", "--port", "0", "--load-seconds", "0")
    assert (done.returncode, done.stderr) == (1, "")
    assert said in done.stdout.splitlines()[-1]
    assert said in (tmp_path / "model.log").read_text("utf-8")


def test_a_process_serves_what_its_options_say(tmp_path: Path) -> None:
    options = "--api openai --engine sglang --served-model-name tiny --context 50 --api-key sk-1 --port 0"
    command = [sys.executable, "-m", "pyworker.local.model_server", *options.split(), "--load-seconds", "0"]
    with subprocess.Popen(
        command,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            line = next(line for line in process.stdout if "Uvicorn running on " in line)
            next(line for line in process.stdout if "ready to roll!" in line)
            url = line.split("Uvicorn running on ")[1].split()[0]
            headers = {"Authorization": "Bearer sk-1"}
            [model] = requests.get(f"{url}/v1/models", headers=headers, timeout=DEADLINE).json()["data"]
        finally:
            process.kill()
    assert (model["id"], model["owned_by"], model["max_model_len"]) == ("tiny", "sglang", 50)
