"""The stand-in model server: its routes, its line, hang-ups, and its command line as a process."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Generator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from functools import partial
from pathlib import Path

import pytest
import requests

from pyworker.errors import ConfigError
from pyworker.local.language_model import CorruptedModelError
from pyworker.local.model_server import ModelServer
from tests.support.process import ROOT

DEADLINE = 15.0  # seconds; far above what anything here takes, a busy machine included
SLOW = 20.0  # tokens per second of an answer that must still run when the test looks
NEVER = 0.001  # tokens per second of an answer that never comes by itself


def _until(condition: Callable[[], object], what: str) -> None:
    """Look again and again until it holds: the state belongs to another thread or process."""
    deadline = time.monotonic() + DEADLINE
    pause = threading.Event()
    while not condition():
        assert time.monotonic() < deadline, f"not within {DEADLINE:g} s: {what}"
        pause.wait(0.01)


@pytest.fixture
def server() -> Generator[ModelServer]:
    with ModelServer(seed=1) as running:
        yield running


def _depth(server: ModelServer) -> tuple[int, int]:
    """How many generate, and how many wait."""
    active, waiting = re.findall(r"\d+", repr(server.queue))
    return int(active), int(waiting)


def _depth_is(server: ModelServer, expected: tuple[int, int]) -> bool:
    return _depth(server) == expected


def _post(server: ModelServer, route: str, body: object, *, stream: bool = False) -> requests.Response:
    return requests.post(server.url + route, json=body, stream=stream, timeout=DEADLINE)


def _pieces(answer: requests.Response) -> list[str]:
    """The tokens of a stream that came to its end."""
    lines = [line for line in answer.text.split("\n\n") if line]
    assert lines.pop() == "data: [DONE]"
    return [json.loads(line.removeprefix("data: "))["token"] for line in lines]


@contextmanager
def _stream(server: ModelServer, tokens: int | None = None) -> Generator[http.client.HTTPResponse]:
    """A stream that runs, read up to its first token."""
    address = server.url.removeprefix("http://")
    with closing(http.client.HTTPConnection(address, timeout=DEADLINE)) as connection:
        body = json.dumps({"prompt": "rain", "max_response_tokens": tokens})
        connection.request("POST", "/generate_stream", body)
        response = connection.getresponse()
        assert response.readline().startswith(b'data: {"token": ')
        try:
            yield response
        finally:
            response.close()  # it holds the connection as well


# --- routes ----------------------------------------------------------------------------------------------


def test_health(server: ModelServer) -> None:
    answer = requests.get(server.url + "/healthcheck", timeout=DEADLINE)
    assert (answer.status_code, answer.json()) == (200, {"status": "ok"})


def test_both_routes_give_the_same_answer_for_a_seed(server: ModelServer) -> None:
    body = {"prompt": "what about the sea?", "max_response_tokens": 40}
    whole = _post(server, "/generate", body)
    assert whole.status_code == 200
    assert whole.json()["tokens"] == 40
    streamed = _post(server, "/generate_stream", body)
    assert streamed.headers["Content-Type"].startswith("text/event-stream")
    assert streamed.headers["Transfer-Encoding"] == "chunked"
    pieces = _pieces(streamed)
    assert len(pieces) == 40
    assert "".join(pieces) == whole.json()["response"]


@pytest.mark.parametrize("prompt", ["", "日本語 🙂", "half \ud800 a pair", "x " * 500_000], ids=len)
def test_any_prompt_is_answered(server: ModelServer, prompt: str) -> None:
    for body in ({"prompt": prompt}, {"prompt": prompt, "max_response_tokens": None}):
        answer = _post(server, "/generate", body)
        assert answer.status_code == 200
        assert answer.json()["tokens"] > 3


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "prompt"),
        ({"prompt": 5}, "prompt"),
        ({"prompt": None}, "prompt"),
        ({"prompt": "x", "max_response_tokens": "9"}, "max_response_tokens"),
        ({"prompt": "x", "max_response_tokens": 0}, "max_response_tokens"),
        ({"prompt": "x", "max_response_tokens": True}, "max_response_tokens"),
        ({"prompt": "x", "max_response_tokens": 1.5}, "max_response_tokens"),
        ({"prompt": "x", "max_response_tokens": 10**30}, "max_response_tokens"),
    ],
)
@pytest.mark.parametrize("route", ["/generate", "/generate_stream"])
def test_a_wrong_field_is_named(server: ModelServer, route: str, body: object, field: str) -> None:
    answer = _post(server, route, body)
    assert answer.status_code == 422
    assert field in answer.text
    assert isinstance(answer.json(), dict)


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b'"text"', b"\xff\xfe", b"[" * 100_000])
def test_a_body_that_is_no_json_object_is_refused(server: ModelServer, data: bytes) -> None:
    answer = requests.post(server.url + "/generate", data=data, timeout=DEADLINE)
    assert answer.status_code in (400, 422)
    assert answer.json()["error"]


def test_unknown_paths_and_methods_get_json(server: ModelServer) -> None:
    assert requests.get(server.url + "/nothing", timeout=DEADLINE).json()["error"]
    answer = requests.get(server.url + "/generate", timeout=DEADLINE)
    assert answer.status_code == 405
    assert answer.json()["error"]


def test_one_connection_serves_many_requests(server: ModelServer) -> None:
    address = server.url.removeprefix("http://")
    with closing(http.client.HTTPConnection(address, timeout=DEADLINE)) as connection:
        connection.connect()
        own_port = connection.sock.getsockname()[1]
        for route in ("/generate", "/generate_stream", "/unknown", "/generate", "/generate_stream"):
            connection.request("POST", route, b'{"prompt": "x", "max_response_tokens": 3}')
            response = connection.getresponse()
            response.read()
            assert response.status == (404 if route == "/unknown" else 200)
            assert connection.sock is not None, f"closed after {route}"
            assert connection.sock.getsockname()[1] == own_port


def test_tokens_arrive_as_they_are_made() -> None:
    with ModelServer(tokens_per_second=SLOW) as server, _stream(server, 100_000) as response:
        assert response.readline() == b"\n"
        assert response.readline().startswith(b'data: {"token": ')


def test_the_pace_is_kept() -> None:
    with ModelServer(tokens_per_second=100) as server:
        started = time.monotonic()
        _post(server, "/generate", {"prompt": "x", "max_response_tokens": 20})
        assert time.monotonic() - started >= 0.2


# --- the line --------------------------------------------------------------------------------------------


def test_only_so_many_generate_at_once_and_the_others_wait_in_order(tmp_path: Path) -> None:
    log = tmp_path / "model.log"
    with (
        ModelServer(parallel=2, tokens_per_second=SLOW, log_file=log) as server,
        ThreadPoolExecutor(8) as pool,
        ExitStack() as first,
        ExitStack() as second,
    ):
        for client in (first, second):
            client.enter_context(_stream(server, 100_000))
        answers: list[Future[requests.Response]] = []
        for tokens in (1, 2, 3):  # the line grows by one at a time, so the order is known
            body = {"prompt": "x", "max_response_tokens": tokens}
            answers.append(pool.submit(_post, server, "/generate", body))
            _until(partial(_depth_is, server, (2, tokens)), f"{tokens} wait")
        assert "2 active, 3 waiting" in repr(server)
        first.close()
        assert [answer.result(DEADLINE).json()["tokens"] for answer in answers] == [1, 2, 3]
        second.close()
        _until(lambda: _depth(server) == (0, 0), "both streams are noticed to be gone")
    served = [line for line in log.read_text(encoding="utf-8").splitlines() if "/generate 200" in line]
    assert [f", {tokens} tokens" in line for tokens, line in zip((1, 2, 3), served, strict=True)] == [
        True
    ] * 3


@pytest.mark.parametrize("pace", [10_000.0, SLOW, NEVER], ids=["fast", "slow", "silent"])
def test_a_client_that_hangs_up_frees_its_slot_at_once(pace: float) -> None:
    with ModelServer(parallel=1, tokens_per_second=pace) as server:
        host, _, port = server.url.removeprefix("http://").partition(":")
        body = b'{"prompt": "x", "max_response_tokens": 1000000}'
        with socket.create_connection((host, int(port)), timeout=DEADLINE) as client:
            client.sendall(
                b"POST /generate_stream HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body)
            )
            client.sendall(body)
            _until(lambda: _depth(server) == (1, 0), "it generates")
        _until(lambda: _depth(server) == (0, 0), "the slot is free")


@pytest.mark.parametrize("route", ["/generate", "/generate_stream"])
def test_a_client_that_hangs_up_in_the_line_leaves_it(route: str) -> None:
    with ModelServer(parallel=1, tokens_per_second=SLOW) as server, _stream(server, 100_000):
        host, _, port = server.url.removeprefix("http://").partition(":")
        with socket.create_connection((host, int(port)), timeout=DEADLINE) as client:
            body = b'{"prompt": "x"}'
            client.sendall(
                b"POST %s HTTP/1.1\r\nHost: x\r\nContent-Length: 15\r\n\r\n" % route.encode() + body
            )
            _until(lambda: _depth(server) == (1, 1), "it waits")
        _until(lambda: _depth(server) == (1, 0), "it left")


# --- start and stop --------------------------------------------------------------------------------------


def test_stop_cuts_streams_visibly_and_leaves_no_thread() -> None:
    before = set(threading.enumerate())  # other tests may share a model server of this process
    server = ModelServer(tokens_per_second=SLOW)
    with server, _stream(server, 100_000) as response:
        server.stop()
        with pytest.raises((http.client.IncompleteRead, ConnectionError)):
            response.read()
        server.stop()
        assert "stopped" in repr(server)
    assert set(threading.enumerate()) <= before


def test_while_loading_it_answers_503() -> None:
    server = ModelServer(load_seconds=3600)
    server.start()
    try:
        answers = [
            requests.get(server.url + "/healthcheck", timeout=DEADLINE),
            _post(server, "/generate", {"prompt": "x"}),
            _post(server, "/generate_stream", {"prompt": "x"}),
        ]
        assert [answer.status_code for answer in answers] == [503] * 3
        assert all("loading" in answer.json()["error"] for answer in answers)
        assert not server.ready
        with pytest.raises(TimeoutError):
            server.wait_ready(0.01)
    finally:
        server.stop()


def test_a_taken_port_is_an_error_that_names_it(server: ModelServer, tmp_path: Path) -> None:
    port = int(server.url.rpartition(":")[2])
    log = tmp_path / "model.log"
    log.write_text("the log of the server that has the port\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=str(port)):
        ModelServer(port=port, log_file=log).start()
    assert log.read_text(encoding="utf-8").startswith("the log of the server")


def test_a_corrupted_model_is_reported(tmp_path: Path) -> None:
    model, log, failed = tmp_path / "model.bin", tmp_path / "model.log", threading.Event()
    model.write_bytes(b"\x80\x81\x82")
    server = ModelServer(model_path=model, log_file=log, on_failure=failed.set)
    with pytest.raises(CorruptedModelError), server:
        pytest.fail("it is not ready")
    assert failed.wait(DEADLINE)
    assert "Exception: corrupted model file" in log.read_text(encoding="utf-8")


def test_the_log_tells_of_loading_and_of_each_request_but_no_prompt(tmp_path: Path) -> None:
    log = tmp_path / "model.log"
    log.write_text("server has started, some other time\n", encoding="utf-8")
    with ModelServer(log_file=log) as server:
        requests.get(server.url + "/healthcheck", timeout=DEADLINE)
        requests.get(server.url + "/my-secret", timeout=DEADLINE)
        _post(server, "/generate", {"prompt": "my-secret", "max_response_tokens": 7})
        _post(server, "/generate_stream", {"prompt": "my-secret", "max_response_tokens": 8})
        _post(server, "/generate", {"prompt": "my-secret", "max_response_tokens": "my-secret"})
    text = log.read_text(encoding="utf-8")
    assert "my-secret" not in text
    assert '"message":"Download file 2/3' in text
    messages = [json.loads(line)["message"] for line in text.splitlines()]
    assert [message.split(" in ")[0] for message in messages[4:]] == [
        "GET /healthcheck 200",
        "GET unknown path 404",
        "POST /generate 200, 7 tokens",
        "POST /generate_stream 200, 8 tokens",
        "POST /generate 422",
    ]
    assert "server has started" in messages[3]
    assert (tmp_path / "model.log.old").read_text(encoding="utf-8").startswith("server has started, some")


# --- the command line ------------------------------------------------------------------------------------


@contextmanager
def _process(folder: Path, *options: str) -> Generator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "pyworker.local.model_server", *options]
    root = str(ROOT)
    environment = {**os.environ, "PYTHONPATH": root}
    with subprocess.Popen(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def _read_until(process: subprocess.Popen[str], text: str) -> str:
    """The first line of stdout with `text` in it; the test's own timeout ends a wait for nothing."""
    assert process.stdout is not None
    for line in process.stdout:
        if text in line:
            return line
    pytest.fail(f"it ended without saying {text!r}")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_process_serves_and_ends_on_a_signal(tmp_path: Path, number: signal.Signals) -> None:
    with _process(tmp_path, "--port", "0", "--load-seconds", "0", "--tokens-per-second", "20") as process:
        line = json.loads(_read_until(process, "server has started"))
        url = line["message"].split()[-1]
        answer = requests.post(url + "/generate_stream", json={"prompt": "x"}, stream=True, timeout=DEADLINE)
        with answer:
            assert answer.raw.readline().startswith(b"data: ")
            process.send_signal(number)
            assert process.wait(DEADLINE) == 0
        assert process.stderr is not None
        assert process.stderr.read() == ""
    assert "server has started" in (tmp_path / "model.log").read_text(encoding="utf-8")


def test_a_process_with_a_corrupted_model_logs_it_and_exits_1(tmp_path: Path) -> None:
    (tmp_path / "broken.bin").write_bytes(b"\x00\xff")
    options = ("--port", "0", "--load-seconds", "0", "--model", "broken.bin", "--log-file", "-")
    with _process(tmp_path, *options) as process:
        assert "broken.bin" in _read_until(process, "Exception: corrupted model file")
        assert process.wait(DEADLINE) == 1
    assert not (tmp_path / "model.log").exists()


@pytest.mark.parametrize(
    ("options", "status", "said"),
    [
        (("--log-file", "no/such/folder/model.log", "--port", "0"), 1, "no/such/folder/model.log"),
        (("--parallel", "0"), 2, "at least 1"),
        (("--tokens-per-second", "nan"), 2, "at least 0"),
        (("--port", "99999", "--log-file", "-"), 1, "99999"),
    ],
)
def test_a_wrong_option_is_one_clear_line(
    tmp_path: Path, options: tuple[str, ...], status: int, said: str
) -> None:
    with _process(tmp_path, *options) as process:
        _, stderr = process.communicate(timeout=DEADLINE)
    assert process.returncode == status
    last = stderr.splitlines()[-1]
    assert said in last
    assert "Traceback" not in stderr


def test_a_process_on_a_taken_port_says_so_and_exits_1(tmp_path: Path, server: ModelServer) -> None:
    port = server.url.rpartition(":")[2]
    with _process(tmp_path, "--port", port) as process:
        stdout, stderr = process.communicate(timeout=DEADLINE)
    assert (process.returncode, stdout) == (1, "")
    assert len(stderr.splitlines()) == 1
    assert port in stderr
    assert "taken" in stderr


def test_help_states_every_default(tmp_path: Path) -> None:
    with _process(tmp_path, "--help") as process:
        stdout, _ = process.communicate(timeout=DEADLINE)
    text = " ".join(stdout.split())
    assert text.count("(default: ") == 13
    assert "(default: 127.0.0.1)" in text
    assert "(default: 5001)" in text
