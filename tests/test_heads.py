"""A head that is known: compared to its last byte, and never taken for another."""

from __future__ import annotations

import pytest

from pyworker.framing import Framing, Verdict
from pyworker.heads import MAX_KNOWN_HEAD, MAX_KNOWN_HEADS, KnownHead, KnownHeads

LIMIT = 10**6
BEFORE = b"POST /generate HTTP/1.1\r\nHost: w\r\nContent-Length: "
AFTER = b"\r\nAccept: */*\r\n\r\n"


def known(before: bytes = BEFORE, after: bytes = AFTER) -> KnownHead:
    return KnownHead(before, after, "POST", (1, 1), closes=False, environ={})


@pytest.mark.parametrize("body", [b"", b"x", b"x" * 100, AFTER, b"\r\n\r\n", bytes(range(256)) * 100])
def test_the_body_behind_a_known_head(body: bytes) -> None:
    assert known().body_in(BEFORE + b"%d" % len(body) + AFTER + body) == body


OTHERS = {
    "nothing": b"",
    "half a head": BEFORE,
    "no digit": BEFORE + AFTER,
    "another path": BEFORE.replace(b"generate", b"generatf") + b"2" + AFTER + b"ab",
    "another field": BEFORE + b"2" + AFTER.replace(b"*/*", b"*/+") + b"ab",
    "one more field": BEFORE + b"2\r\nX: y" + AFTER + b"ab",
    "a second length": BEFORE + b"2\r\nContent-Length: 3" + AFTER + b"ab",
    "chunks as well": BEFORE + b"2\r\nTransfer-Encoding: chunked" + AFTER + b"ab",
    "a space": BEFORE + b" 2" + AFTER + b"ab",
    "a space behind": BEFORE + b"2 " + AFTER + b"ab",
    "a sign": BEFORE + b"+2" + AFTER + b"ab",
    "an underscore": BEFORE + b"0_2" + AFTER + b"ab",
    "a digit that is none in ASCII": BEFORE + "²".encode("latin-1") + AFTER + b"ab",
    "a line feed": BEFORE + b"2" + AFTER.replace(b"\r\n", b"\n") + b"ab",
    "endless digits": BEFORE + b"0" * 20 + b"2" + AFTER + b"ab",
    "a byte too few": BEFORE + b"2" + AFTER + b"a",
    "a byte too many": BEFORE + b"2" + AFTER + b"abc",
}


@pytest.mark.parametrize("received", OTHERS.values(), ids=OTHERS)
def test_anything_else_is_left_to_the_parser(received: bytes) -> None:
    assert known().body_in(received) is None


def test_only_a_request_that_comes_in_one_piece_is_compared() -> None:
    request = BEFORE + b"5" + AFTER + b"hello"
    framing = Framing(LIMIT, known())
    assert framing.feed(request) is Verdict.WHOLE
    assert (framing.known_body, framing.received) == (b"hello", request)
    for cut in range(1, len(request)):
        framing = Framing(LIMIT, known())
        assert framing.feed(request[:cut]) is Verdict.MORE
        assert framing.feed(request[cut:]) is Verdict.WHOLE
        assert framing.known_body is None


@pytest.mark.parametrize(
    ("request_bytes", "around"),
    [
        (BEFORE + b"5" + AFTER + b"hello", (BEFORE, AFTER)),
        (BEFORE + b"0" + AFTER, (BEFORE, AFTER)),
        (b"GET / HTTP/1.1\r\nHost: w\r\n\r\n", None),
        (b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", None),
        (BEFORE + b"2\r\nExpect: 100-continue" + AFTER + b"ab", None),
        (BEFORE + b"2\r\nContent-Length: 2" + AFTER + b"ab", None),
        (BEFORE + b"2\r\nExpect: more" + AFTER + b"ab", None),
    ],
)
def test_which_heads_can_be_known(request_bytes: bytes, around: tuple[bytes, bytes] | None) -> None:
    framing = Framing(LIMIT)
    framing.feed(request_bytes)
    assert framing.around_length == around


def test_few_heads_are_kept_and_no_long_ones() -> None:
    heads = KnownHeads()
    heads.learn(known())
    assert heads.find(BEFORE, AFTER) == known()
    heads.learn(known(after=b"x" * MAX_KNOWN_HEAD))
    assert heads.find(BEFORE, b"x" * MAX_KNOWN_HEAD) is None
    for number in range(MAX_KNOWN_HEADS):
        heads.learn(known(before=b"%d" % number))
    assert heads.find(BEFORE, AFTER) is None, "the list has begun anew"
    assert heads.find(b"%d" % (MAX_KNOWN_HEADS - 1), AFTER) is not None
    assert repr(heads) == "<KnownHeads [1]>"
