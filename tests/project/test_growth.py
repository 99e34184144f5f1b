"""Every parser of what comes from outside takes time in proportion to it: twice the input, twice the time."""

from __future__ import annotations

import http.client
import socket
import threading
from collections.abc import Callable, Iterator

import pytest

from pyworker.responses import end_to_end_headers, error_in
from pyworker.runtime.limits import MAX_HEADER_BLOCK
from pyworker.runtime.sample import ResponseSample, Sampler
from pyworker.upstream.call import ModelCall
from pyworker.upstream.incoming import Incoming
from pyworker.upstream.origin import Origin
from pyworker.upstream.response_body import Chunked, Counted, Framing, UntilEnd
from pyworker.upstream.response_head import parse_head
from pyworker.upstream.response_reader import ResponseReader
from tests.support.growth import assert_linear

STATUS = b"HTTP/1.1 200 OK\r\n"

#: Name -> a header block (or what is none) of about so many bytes.
HEADER_BLOCKS: dict[str, Callable[[int], bytes]] = {
    "blanks in a value": lambda n: STATUS + b"X: a" + b" " * n + b"\rb",
    "blanks before a value": lambda n: STATUS + b"X:" + b" " * n,
    "tabs and returns": lambda n: STATUS + b"X:" + b"\t\r" * (n // 2) + b"x",
    "a name without end": lambda n: STATUS + b"x" * n,
    "a folded value": lambda n: STATUS + b"X: a\r\n" + (b" " + b"b" * (n // 90) + b"\r\n") * 90,
    "blank folds": lambda n: STATUS + b"X: a\r\n" + (b" " * (n // 90) + b"\r\n") * 90,
    "a reason": lambda n: b"HTTP/1.1 200 " + b" " * n,
    "lengths": lambda n: STATUS + b"Content-Length: " + b"2, " * (n // 3) + b"2",
    "codings": lambda n: STATUS + b"Transfer-Encoding: " + b"chunked, " * (n // 9),
    "connection": lambda n: STATUS + b"Connection: " + b"a," * (n // 2),
    "line ends": lambda n: STATUS + b"\n" * n,
    "returns": lambda n: STATUS + b"\r" * n,
    "zero bytes": lambda n: bytes(n),
}


@pytest.mark.parametrize("case", HEADER_BLOCKS)
def test_header_blocks_of_the_model(case: str) -> None:
    def parse(raw: bytes) -> object:
        head = parse_head(raw)
        return end_to_end_headers(head.fields)

    assert_linear(parse, HEADER_BLOCKS[case], MAX_HEADER_BLOCK // 3)


VALUES: dict[str, Callable[[int], str]] = {
    "blanks": lambda n: " " * n,
    "a return among blanks": lambda n: " " * n + "\r" + " " * n,
    "line ends": lambda n: "\r\n" * n,
    "blank lines": lambda n: "\r \n " * n,
    "folds": lambda n: "a \r" * n,
    "commas": lambda n: "," * n,
}


@pytest.mark.parametrize("case", VALUES)
@pytest.mark.parametrize("name", ["X-Folded", "Connection"])
def test_header_values_of_the_model(name: str, case: str) -> None:
    def parse(text: str) -> None:
        end_to_end_headers([(name, text)])

    assert_linear(parse, VALUES[case], 10_000)


# -- as it comes, a byte at a time -----------------------------------------------------------------------


def each_byte(data: bytes) -> Iterator[bytes]:
    for position in range(len(data)):
        yield data[position : position + 1]


@pytest.mark.parametrize("case", HEADER_BLOCKS)
def test_header_blocks_a_byte_at_a_time(case: str) -> None:
    def parse(data: bytes) -> None:
        incoming = Incoming()
        for byte in each_byte(data):
            incoming.append(byte)
            incoming.take_header_block(MAX_HEADER_BLOCK)

    assert_linear(parse, HEADER_BLOCKS[case], MAX_HEADER_BLOCK // 3)


CHUNKS: dict[str, Callable[[int], bytes]] = {
    "small chunks": lambda n: b"1\r\nx\r\n" * (n // 6) + b"0\r\n\r\n",
    "one chunk": lambda n: b"%x\r\n%b\r\n0\r\n\r\n" % (n, bytes(n)),
    "an endless size": lambda n: b"0" * min(n, MAX_HEADER_BLOCK),
    "an endless extension": lambda n: b"1;" + b"x" * min(n, MAX_HEADER_BLOCK),
    "extensions": lambda n: b"1;a=b;c=d\r\nx\r\n" * (n // 14),
    "blanks behind a size": lambda n: b"1" + b" " * min(n, MAX_HEADER_BLOCK) + b"\r\n",
    "trailers": lambda n: b"0\r\n" + (b"X: " + b"y" * (n // 90) + b"\r\n") * 90 + b"\r\n",
    "returns": lambda n: b"\r" * min(n, MAX_HEADER_BLOCK),
}


def read_in(framing: Framing, incoming: Incoming, pieces: Iterator[bytes]) -> None:
    for piece in pieces:
        incoming.append(piece)
        while framing.piece(65536):
            pass


@pytest.mark.parametrize("case", CHUNKS)
@pytest.mark.parametrize("at_once", [True, False], ids=["at once", "a byte at a time"])
def test_chunked_bodies(case: str, at_once: bool) -> None:
    def parse(data: bytes) -> None:
        incoming = Incoming()
        read_in(Chunked(incoming), incoming, iter([data]) if at_once else each_byte(data))

    assert_linear(parse, CHUNKS[case], 10_000)


@pytest.mark.parametrize("size", [1, 100])
def test_chunked_bodies_that_are_read_in_small_pieces(size: int) -> None:
    def parse(data: bytes) -> None:
        incoming = Incoming()
        framing = Chunked(incoming)
        incoming.append(data)
        while framing.piece(size):
            pass

    assert_linear(parse, CHUNKS["one chunk"], 20_000)
    assert_linear(parse, CHUNKS["small chunks"], 20_000)


def counted(incoming: Incoming) -> Framing:
    return Counted(incoming, 10**9)


@pytest.mark.parametrize("framing", [counted, UntilEnd])
def test_other_bodies_a_byte_at_a_time(framing: Callable[[Incoming], Framing]) -> None:
    def parse(data: bytes) -> None:
        incoming = Incoming()
        read_in(framing(incoming), incoming, each_byte(data))

    assert_linear(parse, bytes, 10_000)


def test_interim_responses_over_a_connection() -> None:
    """Any number of them, in constant memory; and what comes at once is taken at once."""

    def parse(data: bytes) -> None:
        near, far = socket.socketpair()
        with near, far:
            sending = threading.Thread(target=far.sendall, args=(data,))
            sending.start()
            response = ResponseReader(near, "POST", ModelCall())
            response.begin()
            sending.join()
            assert response.read() == b"ok"

    def make(count: int) -> bytes:
        return b"HTTP/1.1 102 Processing\r\n\r\n" * count + b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"

    assert_linear(parse, make, 2000)


def test_a_header_block_without_end_is_refused() -> None:
    incoming = Incoming()
    incoming.append(bytes(MAX_HEADER_BLOCK))
    assert incoming.take_header_block(MAX_HEADER_BLOCK) is None
    incoming.append(b"x")
    with pytest.raises(http.client.HTTPException, match="too long"):
        incoming.take_header_block(MAX_HEADER_BLOCK)


# -- what is judged --------------------------------------------------------------------------------------

BODIES: dict[str, Callable[[int], bytes]] = {
    "brackets": lambda n: b'{"error": ' + b"[" * n,
    "blanks": lambda n: b" " * n + b"{",
    "digits": lambda n: b'{"error": ' + b"9" * n + b"}",
    "line ends": lambda n: b"\n" * n,
    "returns": lambda n: b"\r" * n,
    "data lines": lambda n: b"data: x\n" * (n // 8),
    "events": lambda n: b"data: {}\n\n" * (n // 10),
}


@pytest.mark.parametrize("case", BODIES)
@pytest.mark.parametrize("content_type", ["application/json", "text/event-stream"])
def test_error_objects(case: str, content_type: str) -> None:
    def make(size: int) -> ResponseSample:
        body = BODIES[case](size)
        return ResponseSample(200, content_type, body, body, len(body))

    assert_linear(error_in, make, 8000)


def test_samples_a_byte_at_a_time() -> None:
    def parse(data: bytes) -> None:
        sampler = Sampler(200, "")
        for byte in each_byte(data):
            sampler.feed(byte)

    assert_linear(parse, bytes, 20_000)


LOCATIONS: dict[str, Callable[[int], str]] = {
    "brackets": lambda n: "http://" + "[" * n,
    "signs": lambda n: "//" + "@" * n,
    "dots": lambda n: "//" + "." * n,
}


@pytest.mark.parametrize("case", LOCATIONS)
def test_locations(case: str) -> None:
    origin = Origin("http://127.0.0.1:5001")

    def parse(text: str) -> None:
        origin.inner_target([text])

    assert_linear(parse, LOCATIONS[case], 10_000)
