"""What of the model server's response reaches the client: headers, lengths and bytes, without any socket."""

from __future__ import annotations

import gzip
import io
import json
from collections.abc import Callable, Sequence

import flask
import pytest
import requests
import urllib3
from hypothesis import given
from hypothesis import strategies as st

from pyworker.errors import ModelBroken, ModelTimeout, ModelUnreachable
from pyworker.responses import (
    WHOLE_BELOW,
    copy,
    end_to_end_headers,
    json_response,
    pass_through,
    read_whole,
    stream,
)
from pyworker.upstream.header_fields import HOP_BY_HOP

Headers = Sequence[tuple[str, str]]

app = flask.Flask("test")


def model_says(
    body: bytes | io.RawIOBase, headers: Headers = (), status: int = 200, method: str = "POST"
) -> requests.Response:
    """The model server's response as the session hands it over: its head read, its body not."""
    response = requests.Response()
    response.status_code = status
    response.raw = urllib3.HTTPResponse(
        io.BytesIO(body) if isinstance(body, bytes) else body,
        headers=urllib3.HTTPHeaderDict(headers),
        status=status,
        preload_content=False,
        decode_content=False,
        request_method=method,
    )
    response.headers.update(dict(headers))
    return response


def body_of(response: flask.Response) -> bytes:
    return b"".join(response.iter_encoded())


# -- which headers ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", [*sorted(HOP_BY_HOP), "Server", "DATE", "Content-Length", "Keep-Alive", "TE"]
)
def test_headers_of_one_connection_stay(name: str) -> None:
    assert end_to_end_headers([(name, "x"), ("X-Kept", "y")]) == [("X-Kept", "y")]


def test_other_headers_travel_unchanged_and_in_order() -> None:
    headers = [
        ("Content-Type", "text/event-stream; charset=utf-8"),
        ("Content-Encoding", "gzip"),
        ("Set-Cookie", "a=1"),
        ("set-cookie", "b=2; Path=/"),
        ("X-Request-Id", ""),
        ("X-Odd!#$%&'*+-.^_`|~Name", "tab\tinside"),
        ("Cache-Control", "no-store"),
    ]

    assert end_to_end_headers(headers) == headers


@pytest.mark.parametrize("value", ["X-Secret", "close, x-secret", " keep-alive ,X-SECRET , other"])
@pytest.mark.parametrize("name", ["Connection", "connection"])
def test_headers_that_connection_names_stay_too(name: str, value: str) -> None:
    headers = [("X-Secret", "1"), (name, value), ("x-secret", "2"), ("X-Kept", "3")]

    assert end_to_end_headers(headers) == [("X-Kept", "3")]


def test_several_connection_headers_add_up() -> None:
    headers = [("Connection", "a"), ("A", "1"), ("Connection", "b"), ("B", "2"), ("C", "3")]

    assert end_to_end_headers(headers) == [("C", "3")]


@pytest.mark.parametrize(
    ("value", "unfolded"),
    [
        ("a\r\n b", "a b"),
        ("a\n\tb", "a b"),
        ("a \r\n  b\r\n c", "a b c"),
        ("a\r\nX-Injected: 1", "a X-Injected: 1"),
    ],
)
def test_folded_lines_become_one(value: str, unfolded: str) -> None:
    assert end_to_end_headers([("X-Folded", value)]) == [("X-Folded", unfolded)]


def test_a_folded_connection_header_names_too() -> None:
    assert end_to_end_headers([("Connection", "close,\r\n x-secret"), ("X-Secret", "1")]) == []


@pytest.mark.parametrize("name", ["", " ", "X Y", "X:", "X\r\nY", "Ünicode", "X\x00", "(x)", "a/b"])
def test_a_malformed_name_is_dropped(name: str) -> None:
    assert end_to_end_headers([(name, "1"), ("X-Kept", "2")]) == [("X-Kept", "2")]


@pytest.mark.parametrize("value", ["a\x00b", "\x07", "a\x7f", "\x0b"])
def test_a_value_with_control_characters_is_dropped(value: str) -> None:
    assert end_to_end_headers([("X-Bad", value), ("X-Kept", "2")]) == [("X-Kept", "2")]


@given(st.lists(st.tuples(st.text() | st.sampled_from(["Connection", "TE", "X-A", "x-a"]), st.text())))
def test_whatever_comes_out_is_safe_to_write(headers: list[tuple[str, str]]) -> None:
    kept = end_to_end_headers(headers)

    assert len(kept) <= len(headers)
    for name, value in kept:
        assert name
        assert name.lower() not in HOP_BY_HOP
        assert not set(name) & set(' :\r\n\t\x00"(),/;<=>?@[\\]{}')
        assert not {"\r", "\n", "\x00"} & set(value)
    assert end_to_end_headers(kept) == kept


# -- in a response ----------------------------------------------------------------------------------------

COMMON: Headers = [
    ("Content-Type", "application/x-thing"),
    ("Set-Cookie", "a=1"),
    ("Set-Cookie", "b=2"),
    ("Connection", "x-private"),
    ("X-Private", "1"),
    ("Server", "model/1"),
    ("Keep-Alive", "timeout=5"),
]


@pytest.mark.parametrize("make", [pass_through, stream, copy])
@pytest.mark.parametrize("status", [200, 201, 404, 422, 500, 503])
def test_status_and_headers_are_the_models(
    make: Callable[[requests.Response], flask.Response], status: int
) -> None:
    response = make(model_says(b"body", [*COMMON, ("Content-Length", "4")], status))

    assert response.status_code == status
    assert response.headers.getlist("Set-Cookie") == ["a=1", "b=2"]
    assert response.headers.getlist("Content-Type") == ["application/x-thing"]
    assert not {"X-Private", "Server", "Keep-Alive", "Connection"} & set(response.headers.keys())
    assert body_of(response) == b"body"


@pytest.mark.parametrize("make", [pass_through, stream, copy])
def test_no_content_type_is_made_up(make: Callable[[requests.Response], flask.Response]) -> None:
    response = make(model_says(b"body", [("Content-Length", "4")]))

    assert "Content-Type" not in response.headers


@pytest.mark.parametrize("make", [pass_through, stream])
def test_compressed_bytes_pass_as_they_are(make: Callable[[requests.Response], flask.Response]) -> None:
    packed = gzip.compress(b"text " * 100)
    response = make(model_says(packed, [("Content-Encoding", "gzip"), ("Content-Length", str(len(packed)))]))

    assert body_of(response) == packed
    assert response.headers["Content-Encoding"] == "gzip"


def test_a_copy_was_decoded() -> None:
    packed = gzip.compress(b"text")
    model_response = model_says(packed, [("Content-Encoding", "gzip"), ("Content-Length", str(len(packed)))])

    response = copy(model_response)

    assert body_of(response) == b"text"
    assert "Content-Encoding" not in response.headers


@pytest.mark.parametrize(
    ("length", "whole"), [(0, True), (1, True), (WHOLE_BELOW, True), (WHOLE_BELOW + 1, False)]
)
def test_bodies_up_to_a_size_are_read_before_the_response_starts(length: int, whole: bool) -> None:
    response = pass_through(model_says(b"x" * length, [("Content-Length", str(length))]))

    assert response.is_sequence is whole
    assert body_of(response) == b"x" * length


def test_a_body_without_a_length_is_streamed() -> None:
    response = pass_through(model_says(b"endless", [("Transfer-Encoding", "identity")]))

    assert not response.is_sequence
    assert response.content_length is None
    assert body_of(response) == b"endless"


def test_a_stream_keeps_the_length_it_can_vouch_for() -> None:
    response = stream(model_says(b"x" * 10, [("Content-Length", "10")]))

    assert response.content_length == 10
    assert body_of(response) == b"x" * 10


def test_a_response_to_head_has_a_length_and_no_body() -> None:
    assert body_of(pass_through(model_says(b"", [("Content-Length", "10")], method="HEAD"))) == b""


# -- broken responses --------------------------------------------------------------------------------------


class Breaking(io.RawIOBase):
    """Some bytes, and then an error instead of more."""

    def __init__(self, content: bytes, error: Exception) -> None:
        super().__init__()
        self._content = content
        self._error = error

    def readable(self) -> bool:
        return True

    def read1(self, size: int = -1, /) -> bytes:
        return self.read(size)

    def read(self, size: int = -1, /) -> bytes:
        if not self._content:
            raise self._error
        if size < 0:
            size = len(self._content)
        piece, self._content = self._content[:size], self._content[size:]
        return piece


RESET = ConnectionResetError(104, "Connection reset by peer")


def test_a_small_body_that_breaks_off_becomes_a_502() -> None:
    with pytest.raises(ModelUnreachable, match="in the middle of its response"):
        pass_through(model_says(b"short", [("Content-Length", "10")]))
    with pytest.raises(ModelUnreachable, match="in the middle of its response"):
        pass_through(model_says(Breaking(b"short", RESET), [("Content-Length", "10")]))


def test_a_small_body_that_stops_coming_becomes_a_504() -> None:
    with pytest.raises(ModelTimeout):
        pass_through(model_says(Breaking(b"short", TimeoutError("timed out")), [("Content-Length", "10")]))


@pytest.mark.parametrize("headers", [[("Content-Length", "10")], []])
@pytest.mark.parametrize(
    ("error", "reason"),
    [(RESET, "broke off in the middle of its response"), (TimeoutError("timed out"), "went silent")],
)
def test_a_stream_that_breaks_off_is_cut_visibly(error: Exception, reason: str, headers: Headers) -> None:
    pieces = stream(model_says(Breaking(b"short", error), headers)).iter_encoded()

    assert next(iter(pieces)) == b"short"
    with pytest.raises(ModelBroken, match=reason):
        next(iter(pieces))


def test_a_stream_shorter_than_its_length_is_cut_visibly() -> None:
    pieces = iter(stream(model_says(b"short", [("Content-Length", "10")])).iter_encoded())

    assert next(pieces) == b"short"
    with pytest.raises(ModelBroken):
        next(pieces)


def test_a_body_that_cannot_be_decoded_is_the_models_fault() -> None:
    body = b"not gzip at all"
    with pytest.raises(ModelUnreachable):
        read_whole(model_says(body, [("Content-Encoding", "gzip"), ("Content-Length", str(len(body)))]))


# -- JSON ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [{"a": [1, None, "é"]}, [], "text", 1.5, None, True])
@pytest.mark.parametrize("status", [200, 422, 500])
def test_json_is_parsed_and_written_again(value: object, status: int) -> None:
    text = json.dumps(value, indent=8).encode()
    with app.test_request_context():
        response = json_response(
            model_says(text, [("Content-Length", str(len(text))), ("X-Other", "1")], status)
        )

    assert response.status_code == status
    assert response.mimetype == "application/json"
    assert response.get_json() == value
    assert "X-Other" not in response.headers


def test_an_empty_body_is_null() -> None:
    with app.test_request_context():
        response = json_response(model_says(b"", [("Content-Length", "0")], 204))

    assert response.get_json() is None


@pytest.mark.parametrize("text", [b"<html>", b"{", b"\xff\xfe\xff", b"{}{}"])
def test_what_is_no_json_is_the_models_fault(text: bytes) -> None:
    with app.test_request_context(), pytest.raises(ModelUnreachable, match="is not JSON"):
        json_response(model_says(text, [("Content-Length", str(len(text)))]))
