"""Turns the model server's response into the client's. A handler calls one of

    pass_through   the same status, headers and bytes; large or endless bodies are streamed
    stream         passes on each piece when it arrives, in any framing
    json_response  the response parsed and encoded again as JSON

and its `find_failure` may call

    error_in       the message of an error object that came with status 200

All of them drop the headers of a single connection. A response that breaks off is cut visibly: its
Content-Length is passed on only because `iterate` checks it.
"""

from __future__ import annotations

import functools
import http.client
import time
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass
from types import GeneratorType
from typing import TYPE_CHECKING, cast

import flask
import requests
import urllib3
from werkzeug.datastructures import Headers

from pyworker.errors import BadHandler, ModelBroken, ModelTimeout, ModelUnreachable, ResponseTooLarge
from pyworker.runtime.limits import READ_SIZE
from pyworker.upstream.error_objects import error_in as error_in
from pyworker.upstream.faults import describe_break
from pyworker.upstream.header_fields import end_to_end_headers as end_to_end_headers
from pyworker.upstream.lazy_response import LazyResponse
from pyworker.upstream.response_head import Fields
from pyworker.wsgi_extensions import ClosingBody, PollableBody

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment

#: `pass_through` reads bodies of up to this many bytes before the client's response starts.
WHOLE_BELOW = 256 * 1024


@functools.lru_cache(maxsize=128)
def _end_to_end_fields(fields: Fields) -> tuple[tuple[str, str], ...]:
    """Cached: equal header blocks share one `Fields`."""
    return tuple(end_to_end_headers(fields))


def json_response(model_response: requests.Response) -> flask.Response:
    """The model's JSON with the model's status. Raises `ModelUnreachable` if the body is not JSON."""
    content = read_whole(model_response)
    try:
        decoded = model_response.json() if content else None
    except ValueError as error:
        raise ModelUnreachable("the model server's response is not JSON") from error
    response = flask.jsonify(decoded)
    response.status_code = model_response.status_code
    return response


@dataclass(frozen=True)
class Passed:
    """The model server's response as it goes to the client.

    body: whole, or its pieces, which raise `ModelBroken` if they are fewer than `length` bytes; length: None
    if unknown.
    """

    status: int
    headers: Iterable[tuple[str, str]]
    body: bytes | Iterable[bytes]
    length: int | None


def passed_through(model_response: requests.Response) -> Passed:
    """What `pass_through` makes a response of."""
    if _was_read(model_response):
        return _read_already(model_response)
    length = _declared_length(model_response)
    if length is None or length > WHOLE_BELOW:
        return streamed(model_response)
    body = b"".join(iterate(model_response, is_held=True))
    return Passed(model_response.status_code, _passed_on(model_response), body, len(body))


def streamed(model_response: requests.Response) -> Passed:
    """What `stream` makes a response of."""
    if _was_read(model_response):
        return _read_already(model_response)
    pieces = iterate(model_response)
    body: Iterable[bytes] = pieces
    # A TLS socket cannot be polled: it is not readable while decrypted bytes are buffered.
    if isinstance(model_response, LazyResponse) and not model_response.reader.is_tls:
        body = PollableBody(pieces, model_response.reader)
    # It may be declared, because `iterate` raises if the body turns out shorter.
    length = _declared_length(model_response)
    return Passed(model_response.status_code, _passed_on(model_response), body, length)


def pass_through(model_response: requests.Response) -> flask.Response:
    """The model's status, headers and body, byte for byte."""
    return response_of(passed_through(model_response))


def stream(model_response: requests.Response) -> flask.Response:
    """The model's response, passed on piece by piece by a generator."""
    return response_of(streamed(model_response))


def response_of(passed: Passed) -> flask.Response:
    """The same as an object of Flask."""
    response = _ClientResponse(passed.body, passed.status, Headers(list(passed.headers)))
    if passed.length is not None and not isinstance(passed.body, bytes):
        response.content_length = passed.length
    return response


class PassThrough:
    """Mixed into a handler: its `generate_client_response` is `pass_through`, and takes a shorter way."""

    def generate_client_response(
        self,
        client_request: flask.Request,  # noqa: ARG002
        model_response: requests.Response,
    ) -> flask.Response:
        """The model server's response, whole or as it comes."""
        return pass_through(model_response)


class Stream:
    """Mixed into a handler: its `generate_client_response` is `stream`, and takes a shorter way."""

    def generate_client_response(
        self,
        client_request: flask.Request,  # noqa: ARG002
        model_response: requests.Response,
    ) -> flask.Response:
        """The model server's response, each piece as it comes."""
        return stream(model_response)


def checked(
    made: object, maker: Callable[[], str], example: str = "responses.pass_through(model_response)"
) -> flask.Response:
    """What a worker's own code has made, if it is a response. maker: the code's name. Raises `BadHandler`."""
    if isinstance(made, flask.Response):
        return made
    kind = "None" if made is None else f"a {type(made).__name__}"
    raise BadHandler(f"{maker()} returned {kind}: return a flask.Response, such as {example}")


def copy(model_response: requests.Response) -> flask.Response:
    """A response that was read to its end already."""
    return response_of(_read_already(model_response))


def _was_read(model_response: requests.Response) -> bool:
    # Of a `LazyResponse` that nobody has looked at, only the first is there.
    state = vars(model_response)
    return state.get("_content", False) is not False or state.get("_content_consumed", False)


def _read_already(model_response: requests.Response) -> Passed:
    try:
        content = model_response.content
    except RuntimeError as error:
        raise BadHandler(
            "the body of the model server's response was taken by iter_content or iter_lines, so it cannot "
            "be passed on: read it by `content` or `json()`"
        ) from error
    # requests has decoded it.
    headers = [field for field in _passed_on(model_response) if field[0].lower() != "content-encoding"]
    return Passed(model_response.status_code, headers, content, len(content))


def iterate(model_response: requests.Response, *, is_held: bool = False) -> Generator[bytes, None, None]:
    """The body's bytes as they arrive, never decoded. Raises `ModelBroken` if it breaks off.

    Raises `ModelUnreachable` or `ModelTimeout` instead while nothing has been sent to the client: before the
    first byte, or until the end if `is_held`.
    """
    read = _reader(model_response)
    has_begun = False
    try:
        while piece := read(READ_SIZE):
            yield piece
            has_begun = True
    except (urllib3.exceptions.HTTPError, http.client.HTTPException, OSError) as error:
        raise _broken(error, nothing_sent=is_held or not has_begun) from error


def read_whole(
    model_response: requests.Response, limit: int | None = None, deadline: float | None = None
) -> bytes:
    """The decoded body, which `content` has from then on.

    limit: bytes as they are received; deadline: seconds; None: no bound. Raises `ModelUnreachable` or
    `ModelTimeout` if it breaks off, `ResponseTooLarge` above the limit.
    """
    if isinstance(model_response, LazyResponse) and (limit is not None or deadline is not None):
        content = _read_within(model_response, limit, deadline)
        model_response.keep(content)
        return content
    try:
        return model_response.content
    except requests.exceptions.RequestException as error:
        raise _broken(error, nothing_sent=True) from error


def _read_within(model_response: LazyResponse, limit: int | None, deadline: float | None) -> bytes:
    end = None if deadline is None else time.monotonic() + deadline
    content = bytearray()
    for piece in iterate(model_response, is_held=True):
        content += piece
        if limit is not None and len(content) > limit:
            raise ResponseTooLarge(f"the model server's response is longer than {limit} bytes")
        if end is not None and time.monotonic() > end:
            raise ModelTimeout(f"the model server's response did not end within {deadline:g} s")
    return bytes(content)


def _broken(error: Exception, *, nothing_sent: bool) -> Exception:
    silent = isinstance(error, (urllib3.exceptions.TimeoutError, TimeoutError)) or (
        isinstance(error, requests.exceptions.ConnectionError) and "Read timed out" in str(error)
    )
    if silent:
        message = "the model server went silent in the middle of its response"
        return ModelTimeout(message) if nothing_sent else ModelBroken(message)
    message = f"the model server broke off in the middle of its response: {describe_break(error)}"
    return ModelUnreachable(message) if nothing_sent else ModelBroken(message)


class _ClientResponse(flask.Response):
    """Without a Content-Type if the model's response has none, and with fewer steps per piece."""

    default_mimetype = None

    def get_app_iter(self, environ: WSGIEnvironment) -> Iterable[bytes]:
        """As the base's, but pieces, which are bytes already, are not encoded again."""
        body: object = self.response  # pyright: ignore[reportUnknownMemberType]
        has_body = self.status_code not in (204, 304) and environ["REQUEST_METHOD"] != "HEAD"
        if has_body and isinstance(body, PollableBody):
            body.call_on_close(self.close)
            return body
        if has_body and isinstance(body, GeneratorType):
            return ClosingBody(cast("Generator[bytes, None, None]", body), self.close)
        return super().get_app_iter(environ)


# A `LazyResponse` gives all of this without making the objects of urllib3.


def _reader(model_response: requests.Response) -> Callable[[int], bytes]:
    """Reads a piece of the body, undecoded."""
    if isinstance(model_response, LazyResponse):
        return model_response.reader.read1
    raw: urllib3.HTTPResponse = model_response.raw
    return lambda size: raw.read1(size, decode_content=False)


def _passed_on(model_response: requests.Response) -> Iterable[tuple[str, str]]:
    if isinstance(model_response, LazyResponse):
        return _end_to_end_fields(model_response.reader.head.fields)
    raw: urllib3.HTTPResponse = model_response.raw
    return end_to_end_headers(raw.headers.items())


def _declared_length(model_response: requests.Response) -> int | None:
    """Bytes of the body that have not been read; None if unknown."""
    if isinstance(model_response, LazyResponse):
        return model_response.reader.length
    raw: urllib3.HTTPResponse = model_response.raw
    return raw.length_remaining
