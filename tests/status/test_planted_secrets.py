"""Distinctive secrets, prompts and answers are planted everywhere; none of them is found anywhere."""

from __future__ import annotations

import hashlib
import json
import os
import signal
from collections.abc import Iterator
from typing import Any

import pytest

from pyworker.black_box.folder import NAME, BoxFolder
from pyworker.black_box.reader import read
from pyworker.black_box.story import story
from tests.support.http import Answer, RawClient, ask, next_request_idx, request_bytes
from tests.support.scripted import Act, chunk, head, whole
from tests.support.stack import PLAIN_WORKER, NewStack, Stack
from tests.support.waiting import wait_until

JSON = "Content-Type: application/json"
EVENTS = "Content-Type: text/event-stream"
PATHS = ("/status", "/status/requests", "/metrics")

PROMPT = "PLANTED prompt of a client"
ANSWER = "PLANTED answer of the model"
KEY = "PLANTED-door-key-0123456789"
MASTER = "PLANTED-master-token-0123456789"
MODEL_KEY = "PLANTED-model-key-0123456789"
QUERY = "api_key=PLANTED-query"
HEADERS = {
    "Authorization": f"Bearer {KEY}",
    "Cookie": "session=PLANTED-cookie",
    "X-Request-Id": "PLANTED id of nobody",
    "X-Api-Key": "PLANTED-x-api-key",
    "User-Agent": "PLANTED-agent",
    "Referer": "http://a/?PLANTED-referer",
}
FORM = (
    b'--b\r\nContent-Disposition: form-data; name="image"; filename="PLANTED-name.png"\r\n\r\n'
    b"PLANTED file\r\n--b\r\n"
    b'Content-Disposition: form-data; name="prompt"\r\n\r\nPLANTED field\r\n--b--\r\n'
)
#: What a model server writes that logs each request, with and without the engine's usual words.
MODEL_LOG = [
    f"INFO 11-27 10:00:00 [logger.py:39] Received request cmpl-1: prompt: '{PROMPT}', params: x",
    f"ERROR 11-27 10:00:00 [serving.py:12] Error in preprocessing: {PROMPT}",
    f"ValueError: cannot serve {PROMPT}",
    f"{PROMPT}\n continued after a line end: ERROR: {PROMPT}",
    f"INFO: 127.0.0.1:1 - POST /v1/completions?{QUERY} HTTP/1.1 500",
    "WARNING: key=PLANTED-in-the-log, Authorization: Bearer PLANTED-in-the-log",
]


def error(text: str, status: str = "400 Bad Request") -> bytes:
    return whole(json.dumps({"error": {"message": text, "code": 1}}).encode(), JSON, status=status)


def plain(stack: Stack, path: str, body: object, **headers: str) -> Answer:
    """A request with the door's key, and what clients send besides."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return ask(stack.url, "POST", f"{path}?{QUERY}", data, {**HEADERS, **headers})


def signed(stack: Stack, path: str, **auth: object) -> Answer:
    message = {"auth_data": stack.auth_data(**auth), "payload": {"prompt": PROMPT, "max_tokens": 5}}
    return ask(stack.url, "POST", f"{path}?{QUERY}", json.dumps(message).encode(), {"Cookie": "a=PLANTED"})


def ask_everything(stack: Stack) -> None:
    """Requests that succeed, fail and are refused in every way."""
    good = whole(json.dumps({"text": ANSWER, "usage": {"completion_tokens": 3}}).encode(), JSON)
    body = {"prompt": PROMPT, "messages": [{"PLANTED-key": PROMPT}], "max_tokens": 3}
    scripts: list[tuple[str, tuple[Any, ...], int]] = [
        ("/chat", (good,), 200),
        ("/chat", (error(f"cannot serve {PROMPT}"),), 400),
        ("/chat", (error(f"PLANTED failure with {PROMPT}", "500 Internal Server Error"),), 500),
        ("/chat", (error(f"PLANTED failure with {PROMPT}", "200 OK"),), 200),
        ("/chat", (whole(b'{"usage": {"completion_tokens": "PLANTED work"}}', JSON),), 200),
        ("/chat", (b"PLANTED garbage\r\n\r\n",), 502),
        ("/chat", (b"HTTP/1.1 200 OK\r\nPLANTED header\r\n\r\n",), 502),
        ("/chat", (Act.RESET,), 502),
        ("/chat", (Act.HANG,), 504),
        ("/chat", (head(EVENTS, "Transfer-Encoding: chunked"), chunk(ANSWER.encode()), Act.CLOSE), 200),
    ]
    for path, script, status in scripts:
        stack.model.once(path, *script)
        assert plain(stack, path, body).status == status, (path, script)
    form = {"Content-Type": "multipart/form-data; boundary=b"}
    assert plain(stack, "/picture", FORM, **form).status == 200
    assert plain(stack, "/picture", FORM[:40], **form).status in (400, 422)
    assert plain(stack, "/chat", json.dumps(body).encode()[:-1]).status == 422
    assert plain(stack, "/chat", {"max_tokens": PROMPT}).status == 422
    assert plain(stack, "/chat", body, Authorization="Bearer PLANTED-wrong").status == 401
    assert plain(stack, "/PLANTED-path", body).status == 404
    assert plain(stack, "/chat", b"x" * 3000).status == 413
    # With a signature.
    stack.model.once("/chat", good)
    assert signed(stack, "/chat").status == 200
    stack.model.once("/start", error(f"PLANTED {PROMPT}", "503 Service Unavailable"))
    assert signed(stack, "/job").status == 503
    assert signed(stack, "/chat", signature="PLANTED-signature").status == 401
    assert signed(stack, "/chat", url="http://PLANTED").status == 401
    assert signed(stack, "/chat", endpoint=["PLANTED"]).status == 422
    used = {"request_idx": next_request_idx(), "reqnum": "PLANTED"}
    assert signed(stack, "/chat", **used).status == 422
    assert plain(stack, "/chat", body, **{"Content-Encoding": "PLANTED-coding"}).status == 415
    for path in PATHS:
        assert ask(stack.url, "GET", f"{path}?{QUERY}", b"", HEADERS).status == 200


def everything_told(stack: Stack) -> Iterator[tuple[str, str]]:
    """Each place, and what it says."""
    yield "the log", stack.worker.log
    for path in PATHS:
        yield path, ask(stack.url, "GET", path).body.decode()
    with RawClient(stack.url) as client:
        client.send(request_bytes("GET", "/status/events", b""))
        if client.head() == 200:  # the first sections of the page
            yield "/status/events", b"".join(client.chunk() for _ in range(4)).decode()
    for path in (stack.folder / NAME).iterdir():
        yield path.name, path.read_text("utf-8")
    for path in BoxFolder(stack.folder).kept():
        yield f"{path.name}, told", "\n".join(story(read(path)))
    yield "reports", json.dumps([report["error_msg"] for report in stack.reports])


def assert_nothing(stack: Stack) -> None:
    for place, text in everything_told(stack):
        at = text.find("PLANTED")
        assert at < 0, f"{place}: {text[max(at - 200, 0) : at + 100]}"


@pytest.mark.parametrize("form", ["text", "json"])
def test_nothing_that_was_planted_is_found(new_stack: NewStack, form: str) -> None:
    variables = {
        "LOG_FORMAT": form,
        "LOG_REQUESTS": "all",
        "LOG_LEVEL": "DEBUG",
        "MASTER_TOKEN": MASTER,
        "MODEL_API_KEY": MODEL_KEY,
        "OPENAI_API_KEY_DIGESTS": hashlib.sha256(KEY.encode()).hexdigest(),
        "MODEL_TIMEOUT": "0.5",
        "MAX_BODY_BYTES": "2000",
        "SECRET_OF_THE_ENVIRONMENT": "PLANTED-environment",
        "REPORT_ADDR": "",
    }
    stack = new_stack()
    variables["REPORT_ADDR"] = stack.autoscaler.url.replace("://", "://PLANTED-user:PLANTED-password@")
    stack = new_stack({**variables, "MODEL_ERROR_LOG_MSGS": "the engine is dead"}, PLAIN_WORKER)
    stack.worker.say(f"args: api_key='{MODEL_KEY}' token=PLANTED-start --api-key PLANTED-option")
    stack.start_ready()
    ask_everything(stack)
    for line in MODEL_LOG:
        stack.worker.say(line)
    # Something that is certainly told, and after all of it.
    stack.worker.say(f"the engine is dead: key=PLANTED-key prompt='{PROMPT}'")
    wait_until(lambda: BoxFolder(stack.folder).kept(), "the black box of the error")
    assert_nothing(stack)

    lines = stack.worker.log.splitlines()
    assert any("200 Success /chat" in line for line in lines)
    if form == "json":
        objects = [json.loads(line) for line in lines]
        assert all({"time", "level", "logger", "message"} <= one.keys() for one in objects)
        [first, *_] = [one for one in objects if one.get("route") == "/chat"]
        assert (first["status"], first["outcome"], first["workload"]) == (200, "Success", 3.0)
        assert any(one["logger"] == "gunicorn.error" for one in objects)
        return
    # What a process leaves that is killed, and what the next one says of the model's old log.
    os.kill(stack.worker.worker_pid, signal.SIGKILL)
    wait_until(lambda: len(BoxFolder(stack.folder).kept()) == 2, "the black box of the end")
    wait_until(stack.worker.answers_ping, "the next process")
    told = "ERROR 11-27 10:00:00 [serving.py:12] …"
    wait_until(lambda: told in ask(stack.url, "GET", "/status").object()["last_model_lines"], "the old log")
    wait_until((stack.folder / NAME / "now.json").exists, "how things stand")
    assert_nothing(stack)
