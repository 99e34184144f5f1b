"""Passwords that URLs hold stay out of logs, errors and reports."""

from __future__ import annotations

import time

import pytest

from pyworker.client import Client, ClientError
from pyworker.config import Settings
from pyworker.errors import ConfigError
from pyworker.runtime.redaction import hiding, located, redacted, sign_in, without_content
from tests.support.ports import free_port
from tests.support.stack import NewStack

SECRET = "hunter2"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("http://a:1/x", "http://a:1/x"),
        ("http://user:hunter2@a:1/x", "http://***@a:1/x"),
        ("http://hunter2@a", "http://***@a"),
        ("http://u:hunter2@hunter2@a/p@q", "http://***@a/p@q"),
        (
            "no http://u:hunter2@a, nor https://v:hunter2@[::1]:3/?x=@ here",
            "no http://***@a, nor https://***@[::1]:3/?x=@ here",
        ),
        ("somebody@example.org", "somebody@example.org"),
        ("http://a/x?mail=b@c", "http://a/x?mail=b@c"),
        ("", ""),
        ("://", "://"),
    ],
)
def test_user_and_password_are_left_out(text: str, shown: str) -> None:
    assert redacted(text) == shown


@pytest.mark.parametrize("text", ["://" * 200_000 + "@", "http://" + "@" * 500_000, "@" + "://x" * 100_000])
def test_it_takes_linear_time(text: str) -> None:
    began = time.perf_counter()
    redacted(text)
    assert time.perf_counter() - began < 2


@pytest.mark.parametrize(
    "name", ["REPORT_ADDR", "MODEL_SERVER_URL", "MODEL_HEALTH_ENDPOINT", "PYWORKER_PUBLIC_URL"]
)
@pytest.mark.parametrize(
    "value", ["ftp://u:hunter2@a", "http://u:hunter2@a:99999", "http://u:hunt er2@a", "u:hunter2@a/b"]
)
def test_a_value_that_is_refused_does_not_show_it(name: str, value: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Settings.from_env({name: value})
    assert name in str(caught.value)
    assert "hunt" not in str(caught.value)


def test_a_client_does_not_show_it() -> None:
    address = f"http://u:{SECRET}@127.0.0.1:{free_port()}"
    with Client(address, "key", "x", timeout=1, retries=0) as client:
        with pytest.raises(ClientError) as caught:
            client.call("/x", {}, 1)
        assert SECRET not in str(caught.value) + repr(client)
    with Client.of_worker(address, timeout=1, retries=0) as client:
        with pytest.raises(ClientError) as caught:
            client.call("/x", {}, 1)
        assert SECRET not in str(caught.value) + repr(client)


def test_neither_the_log_nor_a_report_of_a_worker_holds_it(new_stack: NewStack) -> None:
    nobody = f"127.0.0.1:{free_port()}"
    stack = new_stack()
    autoscaler = stack.autoscaler.url.replace("http://", f"http://u:{SECRET}@")
    stack.again(
        {
            "REPORT_ADDR": f"http://u:{SECRET}@{nobody},{autoscaler}",
            "MODEL_SERVER_URL": f"http://u:{SECRET}@{nobody}",
            "MODEL_HEALTH_ENDPOINT": f"http://u:{SECRET}@{nobody}/health",
            "MODEL_READY_TIMEOUT": "1",
            "HEALTH_FAILURES": "1",
            "LOG_LEVEL": "DEBUG",
            "DRAIN_TIMEOUT": "1",
        }
    )
    stack.worker.start()
    stack.worker.wait_for_log("fetched the autoscaler's public key")
    stack.worker.say("echo model is loaded")
    stack.wait_for_report(lambda report: report["error_msg"] != "", "an error is reported")
    stack.post("/pass")
    stack.worker.stop()
    assert SECRET not in stack.worker.log
    assert SECRET not in str(stack.reports)
    assert nobody in stack.worker.log, "where it is, is said"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("api_key='abc'", "api_key='***'"),
        ('{"API_KEY": "abc", "n": 1}', '{"API_KEY": "***", "n": 1}'),
        ("Authorization: Bearer abcdef", "Authorization: Bearer ***"),
        ("sent Bearer abcdef.x", "sent Bearer ***"),
        ("serve --api-key abc --port 1", "serve --api-key *** --port 1"),
        ("GET /v1/x?q=abc HTTP/1.1", "GET /v1/x?*** HTTP/1.1"),
        ("with hf_abcdefgh and sk-abcdefgh", "with *** and ***"),
        ("password=abc;user=x", "password=***;user=x"),
        ("http://u:p@h/x", "http://***@h/x"),
        ("max_tokens: 5, the key is here, tokenizer: x", "max_tokens: 5, the key is here, tokenizer: x"),
        ("of master-token-1", "of ***"),
    ],
)
def test_what_looks_like_a_secret_is_left_out(text: str, shown: str) -> None:
    assert hiding(["master-token-1", "x"])(text) == shown


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        ("Received request: prompt: 'abc'", "Received request: prompt: …"),
        ("{'messages': [1]}", "{'messages': …"),
        ("INPUTS=abc", "INPUTS= …"),
        ("the prompt is long", "the prompt is long"),
        ("context: 5", "context: 5"),
    ],
)
def test_a_line_ends_where_it_quotes_a_request(line: str, shown: str) -> None:
    assert without_content(line) == shown


@pytest.mark.parametrize("text", ["key=" * 200_000, "--key " * 100_000, "/a?" * 200_000, "Bearer " * 100_000])
def test_secrets_are_found_in_linear_time(text: str) -> None:
    began = time.perf_counter()
    hiding(["master-token-1"])(without_content(text))
    assert time.perf_counter() - began < 3


def test_only_words_of_a_known_trouble_are_taken_from_an_error_text() -> None:
    assert sign_in("abc: CUDA out of memory. abc") == "CUDA out of memory"
    assert sign_in("abc") == ""


def test_an_exception_is_located_without_its_message() -> None:
    with pytest.raises(ValueError, match="abc") as caught:
        int("abc")
    told = located(caught.value)
    assert told.startswith("ValueError in test_an_exception_is_located")
    assert "abc" not in told
