"""What comes from clients is parsed in linear time, whatever it is."""

from __future__ import annotations

import base64
import contextlib
import json
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import pytest
from Crypto.PublicKey import RSA
from gunicorn.config import Config
from gunicorn.http.errors import NoMoreData, ParseException
from typing_extensions import Self

from pyworker.data_types import ApiPayload, AuthData
from pyworker.downstream.acceptor import Listener
from pyworker.downstream.connection import ClientSocket
from pyworker.downstream.framing import Framing, Verdict
from pyworker.downstream.ranking import Ranking
from pyworker.downstream.request import ParsedRequest
from pyworker.errors import RequestError
from pyworker.proxy.auth import SignatureVerifier
from pyworker.proxy.body import leading_auth_data
from pyworker.proxy.envelope import parse_envelope
from tests.support.growth import LIMIT, assert_at_most, assert_linear, cpu_seconds

Make = Callable[[int], bytes]
MAX_BODY = 2**27
POST = b"POST / HTTP/1.1\r\nHost: w\r\n"
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"


def in_field(name: bytes) -> Make:
    """Blanks behind a name, then a bare CR: what an expression with neighbouring repeats takes cubic time
    for.
    """
    return lambda size: POST + name + b":" + b" " * size + b"\rx\r\n\r\n"


HEADS: dict[str, Make] = {
    "blanks in Expect": in_field(b"Expect"),
    "blanks in Content-Length": in_field(b"Content-Length"),
    "blanks in Transfer-Encoding": in_field(b"Transfer-Encoding"),
    "blanks between words": lambda size: POST + b"Expect: a" + b" " * size + b"b\r\n\r\n",
    "blanks before a colon": lambda size: POST + b"Expect" + b" " * size + b"x\r\n\r\n",
    "tabs and blanks": lambda size: POST + b"Content-Length:" + b" \t" * (size // 2) + b"5\r\n\r\nhello",
    "names without a colon": lambda size: POST + b"expect\r\n" * (size // 8) + b"\r\n",
    "many fields": lambda size: POST + b"a:b\r\n" * (size // 5) + b"\r\n",
    "many lengths": lambda size: POST + b"Content-Length: 5\r\n" * (size // 19) + b"\r\n",
    "bare carriage returns": lambda size: POST + b"X: " + b"\r" * size + b"\r\n\r\n",
    "no end": lambda size: POST + b"X: " + b"y" * size,
    "a long target": lambda size: b"GET /" + b"%41" * (size // 3) + b" HTTP/1.1\r\nHost: w\r\n\r\n",
    "a folded value": lambda size: POST + b"X: y\r\n" + b" z\r\n" * (size // 4) + b"\r\n",
    "commas": lambda size: POST + b"Connection: " + b"," * size + b"\r\n\r\n",
}
BODIES: dict[str, Make] = {
    "chunks of a byte": lambda size: CHUNKED + b"1\r\nx\r\n" * (size // 6) + b"0\r\n\r\n",
    "chunks with extensions": lambda size: CHUNKED + b"1;a=b\r\nx\r\n" * (size // 10) + b"0\r\n\r\n",
    "trailers": lambda size: CHUNKED + b"0\r\n" + b"x: y\r\n" * (size // 6) + b"\r\n",
    "a long trailer": lambda size: CHUNKED + b"0\r\nx: " + b" " * size + b"\r\n\r\n",
    "no end of the trailers": lambda size: CHUNKED + b"0\r\nx: " + b" " * size,
    "a line that is no size": lambda size: CHUNKED + b"1" + b" " * size,
    "a length": lambda size: POST + b"Content-Length: %d\r\n\r\n" % size + b"x" * size,
}
REQUESTS = {**HEADS, **BODIES}


def feed(data: bytes, step: int) -> Framing:
    framing = Framing(MAX_BODY)
    verdict = Verdict.MORE
    for at in range(0, len(data), step):
        if verdict is Verdict.MORE:
            verdict = framing.feed(data[at : at + step])
    while framing.is_behind:
        framing.feed(b"")
    return framing


@pytest.mark.parametrize("step", [1, 1000, MAX_BODY])
@pytest.mark.parametrize("make", REQUESTS.values(), ids=REQUESTS)
def test_where_a_request_ends(make: Make, step: int) -> None:
    assert_linear(lambda data: feed(data, step), make, 15_000)


def test_one_call_looks_at_few_chunks() -> None:
    data = CHUNKED + b"1\r\nx\r\n" * 10_000
    framing = Framing(MAX_BODY)
    assert framing.feed(data) is Verdict.MORE
    calls = 1
    while framing.is_behind:
        framing.feed(b"")
        calls += 1
    assert calls == 79


@pytest.fixture
def parse() -> Iterator[Callable[[bytes], None]]:
    """gunicorn's parser of a request and its body, as the pool runs it."""
    ours, theirs = socket.socketpair()
    config: Any = Config()
    config.set("forwarded_allow_ips", "")

    def act(data: bytes) -> None:
        client = ClientSocket(ours, ("127.0.0.1", 1), Listener(ours, None), Framing(MAX_BODY))
        client.framing.feed(data)
        client.verdict = Verdict.WHOLE
        with contextlib.suppress(ParseException, NoMoreData, StopIteration):
            ParsedRequest(config, client).finish()

    with ours, theirs:
        yield act


@pytest.mark.parametrize("make", REQUESTS.values(), ids=REQUESTS)
def test_what_a_request_says(parse: Callable[[bytes], None], make: Make) -> None:
    assert_linear(parse, make, 15_000)


@dataclass
class Payload(ApiPayload):
    """Fields of every sort."""

    prompt: str
    tags: list[str]
    named: dict[str, float]

    @classmethod
    def for_test(cls) -> Self:
        return cls("", [], {})

    def count_workload(self) -> float:
        return 1.0


AUTH = {"signature": "s", "url": "http://a:1", "endpoint": "e", "cost": 1, "reqnum": 1}


def envelope(payload: str) -> bytes:
    return b'{"auth_data": ' + json.dumps(AUTH).encode() + b', "payload": ' + payload.encode() + b"}"


ENVELOPES: dict[str, Make] = {
    "a long text": lambda size: envelope('{"prompt": "' + "x" * size + '"}'),
    "escapes": lambda size: envelope('{"prompt": "' + "\\u00e9" * (size // 6) + '"}'),
    "blanks": lambda size: b"{" + b" " * size,
    "deep": lambda size: b"[" * size,
    "deep objects": lambda size: b'{"a":' * (size // 5),
    "digits": lambda size: envelope('{"unknown": ' + "9" * size + "}"),
    "digits of a cost": lambda size: b'{"auth_data": {"cost": "' + b"9" * size + b'"}}',
    "digits of an exponent": lambda size: b'{"auth_data": {"cost": 1e' + b"9" * size + b"}}",
    "faults": lambda size: envelope('{"tags": [' + "1," * (size // 2) + "1]}"),
    "faults by name": lambda size: envelope(
        '{"named": {' + ",".join(f'"{number}":""' for number in range(size // 8)) + "}}"
    ),
    "one key again and again": lambda size: envelope("{" + '"prompt":"",' * (size // 12) + '"prompt":""}'),
    "many keys": lambda size: b"{" + b",".join(b'"%d":1' % number for number in range(size // 8)) + b"}",
    "no text": lambda size: b"\xff" * size,
}


def parsed(body: bytes) -> None:
    with contextlib.suppress(RequestError):
        parse_envelope(body, Payload)


@pytest.mark.parametrize("make", ENVELOPES.values(), ids=ENVELOPES)
def test_what_a_body_holds(make: Make) -> None:
    assert_linear(parsed, make, 30_000)


def test_to_refuse_a_body_takes_no_longer_than_to_take_one() -> None:
    """Whoever sent it: its signature is checked after that."""
    good, bad = (
        envelope('{"prompt": "", "tags": [' + '"",' * 20_000 + '""], "named": {}}'),
        ENVELOPES["faults"](60_000),
    )
    assert_at_most(10, lambda: cpu_seconds(lambda: parsed(bad)), lambda: cpu_seconds(lambda: parsed(good)))


@pytest.mark.parametrize("make", ENVELOPES.values(), ids=ENVELOPES)
def test_who_sent_a_body_that_has_only_begun(make: Make) -> None:
    assert_linear(leading_auth_data, make, 30_000)


SIGNATURES: dict[str, Callable[[int], str]] = {
    "base64": lambda size: "A" * size,
    "what a lenient decoder skips": lambda size: "!" * size,
    "padding": lambda size: "=" * size,
    "no ASCII": lambda size: "ü" * size,
}


@pytest.mark.parametrize("make", SIGNATURES.values(), ids=SIGNATURES)
@pytest.mark.parametrize("field", ["signature", "url", "endpoint"])
def test_what_a_signature_is_checked_with(field: str, make: Callable[[int], str]) -> None:
    verifier = SignatureVerifier(None, now=lambda: 0.0, on_stale_key=lambda: None)
    verifier.set_public_key(RSA.generate(1024).public_key().export_key().decode())
    good = AuthData(base64.b64encode(b"s" * 128).decode(), "http://a:1", "e", 1, 1)

    def check(text: str) -> None:
        changes: Any = {field: text}
        with contextlib.suppress(RequestError):
            verifier.check(replace(good, **changes))

    assert_linear(check, make, 200_000)


def test_a_full_table_costs_no_more_for_each_newcomer() -> None:
    """Each takes the place of the connection that has sent the least for the longest."""
    ours, theirs = socket.socketpair()

    def client() -> ClientSocket:
        return ClientSocket(ours, "", Listener(ours, None), Framing(MAX_BODY))

    def of_size(size: int) -> Ranking:
        ranking = Ranking()
        for _ in range(size):
            ranking.add(client())
        return ranking

    def replace_some(ranking: Ranking) -> None:
        for _ in range(500):
            lowest = ranking.lowest()
            assert lowest is not None
            ranking.remove(lowest)
            ranking.add(client())

    with ours, theirs:
        few, many = of_size(250), of_size(4000)
        assert_at_most(
            LIMIT,
            lambda: cpu_seconds(lambda: replace_some(many)),
            lambda: cpu_seconds(lambda: replace_some(few)),
        )
