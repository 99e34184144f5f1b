"""What is fuzzed: any bytes must lead to a good answer or to an error that was foreseen."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from dataclasses import dataclass
from typing import Any

import requests
from gunicorn.config import Config
from gunicorn.http.errors import NoMoreData, ParseException
from typing_extensions import Self

from pyworker import responses
from pyworker.data_types import ApiPayload, AuthData
from pyworker.downstream.acceptor import Listener
from pyworker.downstream.connection import ClientSocket
from pyworker.downstream.framing import Framing, Verdict
from pyworker.downstream.request import ParsedRequest
from pyworker.errors import ModelBroken, ModelUnreachable, Unprocessable
from pyworker.proxy.body import leading_auth_data
from pyworker.proxy.envelope import parse_envelope
from pyworker.upstream.call import ModelCall
from pyworker.upstream.client import ModelClient
from tests.fuzz.timely import timely

_TIMEOUT = 5.0


@dataclass
class Chat(ApiPayload):
    """A payload with every shape of field."""

    prompt: str
    messages: list[dict[str, str]]
    temperature: float = 1.0
    seed: int | None = None
    stream: bool = False

    @classmethod
    def for_test(cls) -> Self:
        return cls("hello", [])

    def count_workload(self) -> float:
        return float(len(self.prompt))


AUTH = {"signature": "c2ln", "url": "http://a:1", "endpoint": "e", "cost": 1, "reqnum": 2, "request_idx": 3}
PAYLOAD = {"prompt": "hi", "messages": [{"role": "user"}], "temperature": 0.5, "seed": None, "stream": True}

#: Where the fuzzer begins.
ENVELOPES = [
    json.dumps({"auth_data": AUTH, "payload": PAYLOAD, "session_id": None}).encode(),
    json.dumps({"auth_data": {**AUTH, "cost": 1e300, "reqnum": -1}, "payload": PAYLOAD}).encode(),
    b'{"auth_data": {}, "payload": {}, "session_id": 7}',
    b'{"auth_data": NaN, "payload": "\\ud800"}',
    b"[" * 200,
]
REQUESTS = [
    b"GET /ping HTTP/1.1\r\nHost: w\r\n\r\n",
    b"POST /pass HTTP/1.1\r\nHost: w\r\nContent-Length: 5\r\n\r\nhelloGET / HT",
    b"POST / HTTP/1.1\r\nHost: w\r\nTransfer-Encoding: chunked\r\n\r\n5;a=b\r\nhello\r\n0\r\nX: y\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: w\r\nExpect: 100-continue\r\nContent-Length: 1\r\nConnection: TE\r\n\r\n",
    b"\r\nGET / HTTP/1.0\r\nX: " + b" " * 200 + b"\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: w\r\nExpect:" + b" " * 400 + b"\rx\r\n\r\n",
]
ANSWERS = [
    b'HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 12\r\n\r\n{"ok": true}',
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\none\r\n4;x=y\r\ntwo \r\n0\r\nA: b\r\n\r\n",
    b"HTTP/1.0 200 OK\r\nConnection: close\r\n\r\nuntil the end",
    b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early\r\nLink: x\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n",
    b"HTTP/1.1 500 Oops\r\nContent-Encoding: gzip\r\nContent-Length: 4\r\n\r\n\x1f\x8b\x08\x00",
    b"HTTP/1.1 302 Found\r\nLocation: http://elsewhere/\r\nContent-Length: 0\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nabcdef",
    b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\nX: \x00\r\n folded\r\n\r\n",
]


class Requests:
    """A client's bytes, through where its request ends and what gunicorn's parser makes of that."""

    def __init__(self) -> None:
        self._ours, self._theirs = socket.socketpair()
        self._listener = Listener(self._ours, None)
        self._config: Any = Config()
        self._config.set("forwarded_allow_ips", "")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self._ours.close()
        self._theirs.close()

    def __call__(self, data: bytes) -> None:
        with timely(data):
            self._check(data)

    def _check(self, data: bytes) -> None:
        whole, framing = Framing(2**20), Framing(2**20)
        verdict = _feed(whole, data)
        for at in range(len(data)):
            if _feed(framing, data[at : at + 1]) is not Verdict.MORE:
                break
        assert framing.received == data[: framing.size]
        client = ClientSocket(self._ours, ("127.0.0.1", 1), self._listener, whole)
        client.verdict = verdict
        try:
            request = ParsedRequest(self._config, client)
            request.finish()
        except (ParseException, NoMoreData, StopIteration):
            return
        # It takes a body that ends early for one; the app compares its length.
        assert verdict is not Verdict.MORE or whole.in_body, "it has a head that the framing did not find"


def _feed(framing: Framing, data: bytes) -> Verdict:
    verdict = framing.feed(data)
    while framing.is_behind:
        verdict = framing.feed(b"")
    return verdict


def envelope(data: bytes) -> None:
    """The client's body."""
    with timely(data):
        _envelope(data)


def _envelope(data: bytes) -> None:
    leading_auth_data(data)
    try:
        found = parse_envelope(data, Chat)
    except Unprocessable as error:
        json.dumps(error.body())
        return
    assert isinstance(found.payload, Chat)
    # What was let in can be sent on, counted and reported.
    json.dumps(found.payload.generate_payload_json(), allow_nan=False).encode()
    assert found.payload.count_workload() >= 0
    assert isinstance(found.auth_data, AuthData)
    assert -(2**63) <= found.auth_data.reqnum < 2**63


class Answers:
    """The answer of a model server that says just these bytes and hangs up."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        port = self._listener.getsockname()[1]
        self._client = ModelClient(f"http://127.0.0.1:{port}", api_key="", timeout=_TIMEOUT, pool_size=1)
        self._data = b""
        self._thread = threading.Thread(target=self._serve, name="fuzz-answers", daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._listener.close()
        self._client.close()

    def __call__(self, data: bytes) -> None:
        self._data = data
        with timely(data):
            try:
                answer = self._client.post("/generate", {}, ModelCall())
            except ModelUnreachable:
                return
            with answer:
                self._check(answer)

    def _check(self, answer: requests.Response) -> None:
        try:
            response = responses.pass_through(answer)
            body = b"".join(response.iter_encoded())
        except (ModelUnreachable, ModelBroken):
            return
        assert 200 <= answer.status_code <= 999
        length = answer.headers.get("Content-Length")
        if length is not None and "Transfer-Encoding" not in answer.headers and body:
            assert len(body) == int(length.split(",")[0]), "a cut answer looks whole"
        for name, value in response.headers.items():
            assert not set(f"{name}{value}") & {"\r", "\n", "\0"}, "a header splits the answer"

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with connection, contextlib.suppress(OSError):
                connection.recv(65536)
                connection.sendall(self._data)
                connection.shutdown(socket.SHUT_WR)
                connection.settimeout(_TIMEOUT)
                while connection.recv(65536):
                    pass
