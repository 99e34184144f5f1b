"""Where a request ends: at any split of its bytes the same, and in doubt for the parser to judge."""

from __future__ import annotations

import pytest

from pyworker.downstream.framing import Framing, Verdict
from pyworker.runtime.limits import MAX_HEADER_BLOCK, SMALL_BODY

LIMIT = 10**6
HEAD = b"POST / HTTP/1.1\r\nHost: w\r\n"

WHOLE = {
    "no body": b"GET / HTTP/1.1\r\nHost: w\r\n\r\n",
    "no fields": b"GET / HTTP/1.0\r\n\r\n",
    "an empty line before it": b"\r\nGET / HTTP/1.1\r\nHost: w\r\n\r\n",
    "a length": HEAD + b"Content-Length: 5\r\n\r\nhello",
    "a length of zero": HEAD + b"content-length:0\r\n\r\n",
    "a length with spaces": HEAD + b"CONTENT-LENGTH: \t 5 \t\r\n\r\nhello",
    "a name that begins alike": HEAD + b"Content-Length-Hint: 7\r\nX-Content-Length: 9\r\n\r\n",
    "chunks": HEAD + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n1;a=b\r\n!\r\n0\r\n\r\n",
    "trailers": HEAD + b"Transfer-Encoding: Chunked\r\n\r\n00\r\nX: y\r\nZ: 0\r\n\r\n",
    "chunks that look like an end": HEAD
    + b"Transfer-Encoding: chunked\r\n\r\n7\r\n0\r\n\r\n\r\n\r\n0\r\n\r\n",
}

DOUBTFUL = {
    "a bare line feed in the head": b"GET / HTTP/1.1\nHost: w\n\n",
    "no text": b"\x16\x03\x01\x02\x00",
    "two lengths": HEAD + b"Content-Length: 5\r\nContent-Length: 5\r\n\r\n",
    "length and chunks": HEAD + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
    "chunks and length": HEAD + b"Transfer-Encoding: chunked\r\nContent-Length : 5\r\n\r\n",
    "a signed length": HEAD + b"Content-Length: +5\r\n\r\n",
    "a length with an underscore": HEAD + b"Content-Length: 1_0\r\n\r\n",
    "a list of lengths": HEAD + b"Content-Length: 5, 5\r\n\r\n",
    "an empty length": HEAD + b"Content-Length:\r\n\r\n",
    "a length beyond the limit": HEAD + b"Content-Length: 1000001\r\n\r\n",
    "an unknown coding": HEAD + b"Transfer-Encoding: xchunked\r\n\r\n",
    "two codings": HEAD + b"Transfer-Encoding: gzip, chunked\r\n\r\n",
    "an unknown expectation": HEAD + b"Expect: the best\r\n\r\n",
    "a chunk size that is none": HEAD + b"Transfer-Encoding: chunked\r\n\r\n5_0\r\n",
    "a bare line feed in a chunk's line": HEAD + b"Transfer-Encoding: chunked\r\n\r\n5\nhello",
}


@pytest.mark.parametrize("request_bytes", WHOLE.values(), ids=WHOLE)
def test_it_is_whole_at_its_last_byte_however_it_is_cut(request_bytes: bytes) -> None:
    for cut in range(1, len(request_bytes)):
        framing = Framing(LIMIT)
        assert framing.feed(request_bytes[:cut]) is Verdict.MORE, request_bytes[:cut]
        assert framing.feed(request_bytes[cut:]) is Verdict.WHOLE
    framing = Framing(LIMIT)
    verdicts = [framing.feed(request_bytes[at : at + 1]) for at in range(len(request_bytes))]
    assert verdicts[:-1] == [Verdict.MORE] * (len(verdicts) - 1)
    assert verdicts[-1] is Verdict.WHOLE
    assert framing.received == request_bytes


@pytest.mark.parametrize("request_bytes", WHOLE.values(), ids=WHOLE)
def test_what_comes_behind_it_changes_nothing(request_bytes: bytes) -> None:
    assert Framing(LIMIT).feed(request_bytes + b"GET /next HT") is Verdict.WHOLE


@pytest.mark.parametrize("request_bytes", DOUBTFUL.values(), ids=DOUBTFUL)
def test_a_doubtful_request_goes_to_the_parser(request_bytes: bytes) -> None:
    assert Framing(LIMIT).feed(request_bytes) is Verdict.DOUBT


def test_of_a_large_body_the_beginning_is_enough() -> None:
    counted, chunked = Framing(LIMIT), Framing(LIMIT)
    assert counted.feed(HEAD + b"Content-Length: %d\r\n\r\n" % (2 * SMALL_BODY)) is Verdict.MORE
    assert counted.missing == 2 * SMALL_BODY
    assert chunked.feed(HEAD + b"Transfer-Encoding: chunked\r\n\r\nfffff\r\n") is Verdict.MORE
    for framing in (counted, chunked):
        assert framing.in_body
        assert framing.feed(b"x" * (SMALL_BODY - 10)) is Verdict.MORE
        assert framing.feed(b"x" * 10) is Verdict.BEGUN


def test_a_head_without_an_end_is_given_up() -> None:
    framing = Framing(LIMIT)
    assert framing.feed(HEAD + b"X: " + b"y" * (MAX_HEADER_BLOCK - 100)) is Verdict.MORE
    assert not framing.too_large
    assert framing.feed(b"y" * 100) is Verdict.DOUBT
    assert framing.too_large


@pytest.mark.parametrize(("version", "expects"), [(b"1.1", True), (b"1.0", False)])
def test_an_expectation_is_reported_once(version: bytes, expects: bool) -> None:
    framing = Framing(LIMIT)
    head = b"POST / HTTP/" + version + b"\r\nExpect: 100-Continue\r\nContent-Length: 5\r\n\r\n"
    assert framing.feed(head) is Verdict.MORE
    assert framing.take_expectation() is expects
    assert not framing.take_expectation()
    assert repr(framing) == f"<Framing [{len(head)} bytes] in body>"
