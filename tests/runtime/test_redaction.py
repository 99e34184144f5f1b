"""Passwords that URLs hold stay out of logs, errors and reports."""

from __future__ import annotations

import time

import pytest

from pyworker.client import Client, ClientError
from pyworker.config import Settings
from pyworker.errors import ConfigError
from pyworker.runtime.redaction import redacted
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
