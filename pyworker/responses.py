"""The usual ways to turn the model server's answer into the client's. Handlers call one of these.

    pass_through   the same status, headers and bytes; large or endless bodies are streamed
    stream         each piece passed on the moment it arrives, whatever the framing
    json_response  the answer parsed and written again as JSON

and what `EndpointHandler.find_failure` may ask:

    error_in       the error object that a response with status 200 is, if it is one

All of them drop the headers that belong to one connection only, and none passes on a Content-Length that
was not checked: an answer that breaks off is cut visibly.
"""

from __future__ import annotations

import functools
import http.client
import re
from collections.abc import Callable, Generator, Iterable, Iterator
from types import GeneratorType
from typing import TYPE_CHECKING, cast

import flask
import requests
import urllib3
from werkzeug.datastructures import Headers
from werkzeug.wsgi import ClosingIterator

from pyworker.answer_head import Fields
from pyworker.error_objects import error_in as error_in
from pyworker.errors import ModelBroken, ModelTimeout, ModelUnreachable
from pyworker.faults import describe_break
from pyworker.model_response import ModelResponse
from pyworker.wsgi_extensions import PollableBody

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment

#: Bodies up to so many bytes are read whole before the client's answer starts.
WHOLE_BELOW = 256 * 1024
_PIECE = 64 * 1024

#: RFC 9110 section 7.6.1, and what older servers still send.
HOP_BY_HOP = frozenset(
    {
        "connection",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)
# The worker's own server writes these.
_WRITTEN_HERE = frozenset({"server", "date", "content-length"})
_NAME = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_LINE_ENDS = re.compile(r"[\r\n]+")
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")


def end_to_end_headers(headers: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    """The headers that may travel on: not those of one connection, nor any that is malformed."""
    unfolded = [(name, _unfolded(value)) for name, value in headers]
    named = {
        token.strip().lower()
        for name, value in unfolded
        if name.lower() == "connection"
        for token in value.split(",")
    }
    dropped = HOP_BY_HOP | _WRITTEN_HERE | named
    return [
        (name, value)
        for name, value in unfolded
        if name.lower() not in dropped and _NAME.fullmatch(name) and not _CONTROL.search(value)
    ]


def _unfolded(value: str) -> str:
    """The value on one line."""
    if "\r" not in value and "\n" not in value:
        return value
    return " ".join(line for part in _LINE_ENDS.split(value) if (line := part.strip()))


@functools.lru_cache(maxsize=128)
def _end_to_end_fields(fields: Fields) -> tuple[tuple[str, str], ...]:
    """As above; one head that a model server gives again and again is one object."""
    return tuple(end_to_end_headers(fields.items()))


def json_response(model_response: requests.Response) -> flask.Response:
    """The model's JSON with the model's status. Raises `ModelUnreachable` where it is no JSON."""
    content = read_whole(model_response)
    try:
        decoded = model_response.json() if content else None
    except ValueError as error:
        raise ModelUnreachable("the model server's answer is not JSON") from error
    response = flask.jsonify(decoded)
    response.status_code = model_response.status_code
    return response


def pass_through(model_response: requests.Response) -> flask.Response:
    """The model's status, headers and body, byte for byte."""
    length = _declared_length(model_response)
    if length is None or length > WHOLE_BELOW:
        return stream(model_response)
    pieces = b"".join(iterate(model_response, before_head=True))
    return _response(pieces, model_response)


def stream(model_response: requests.Response) -> flask.Response:
    """The model's answer, passed on piece by piece by a generator."""
    pieces = iterate(model_response)
    # What TLS has decrypted does not make its socket readable, so such a stream cannot wait there.
    answer = model_response.answer if isinstance(model_response, ModelResponse) else None
    if answer is not None and answer.is_tls:
        answer = None
    response = _response(pieces if answer is None else PollableBody(pieces, answer), model_response)
    length = _declared_length(model_response)
    if length is not None:
        # Safe, because `iterate` raises where the body turns out shorter.
        response.content_length = length
    return response


def copy(model_response: requests.Response) -> flask.Response:
    """An answer that was read whole already."""
    response = _response(model_response.content, model_response)
    del response.headers["Content-Encoding"]  # requests has decoded it
    return response


def iterate(model_response: requests.Response, *, before_head: bool = False) -> Generator[bytes, None, None]:
    """The body's bytes as they arrive, never decoded. Raises `ModelBroken` where it breaks off.

    Before its first byte nothing was sent to the client yet, so that a break is a `ModelUnreachable` or
    `ModelTimeout`. before_head: so it is until the end.
    """
    read = _reader(model_response)
    has_begun = False
    try:
        while piece := read(_PIECE):
            yield piece
            has_begun = True
    except (urllib3.exceptions.HTTPError, http.client.HTTPException, OSError) as error:
        raise _broken(error, before_head or not has_begun) from error


def read_whole(model_response: requests.Response) -> bytes:
    """The decoded body; raises `ModelUnreachable` or `ModelTimeout` where it breaks off."""
    try:
        return model_response.content
    except requests.exceptions.RequestException as error:
        raise _broken(error, before_head=True) from error


def _broken(error: Exception, before_head: bool) -> Exception:
    silent = isinstance(error, (urllib3.exceptions.TimeoutError, TimeoutError)) or (
        isinstance(error, requests.exceptions.ConnectionError) and "Read timed out" in str(error)
    )
    if silent:
        message = "the model server went silent in the middle of its answer"
        return ModelTimeout(message) if before_head else ModelBroken(message)
    message = f"the model server broke off in the middle of its answer: {describe_break(error)}"
    return ModelUnreachable(message) if before_head else ModelBroken(message)


class _ModelAnswer(flask.Response):
    """Without a Content-Type where the model's answer has none, and with fewer steps for each piece."""

    default_mimetype = None

    def get_app_iter(self, environ: WSGIEnvironment) -> Iterable[bytes]:
        """As the base's, but pieces that are bytes already are not looked at once more."""
        body: object = self.response  # pyright: ignore[reportUnknownMemberType]
        has_body = self.status_code not in (204, 304) and environ["REQUEST_METHOD"] != "HEAD"
        if has_body and isinstance(body, PollableBody):
            body.call_on_close(self.close)
            return body
        if has_body and isinstance(body, GeneratorType):
            return ClosingIterator(cast("Iterator[bytes]", body), self.close)
        return super().get_app_iter(environ)


def _response(body: bytes | Iterable[bytes], model_response: requests.Response) -> flask.Response:
    return _ModelAnswer(body, model_response.status_code, Headers(_travelling(model_response)))


# Of an answer that nobody has looked at yet, everything is known without making the objects of urllib3.


def _reader(model_response: requests.Response) -> Callable[[int], bytes]:
    """Reads what is here of the body, undecoded."""
    if isinstance(model_response, ModelResponse):
        return model_response.answer.read1
    raw: urllib3.HTTPResponse = model_response.raw
    return lambda size: raw.read1(size, decode_content=False)


def _travelling(model_response: requests.Response) -> Iterable[tuple[str, str]]:
    if isinstance(model_response, ModelResponse):
        return _end_to_end_fields(model_response.answer.msg)
    raw: urllib3.HTTPResponse = model_response.raw
    return end_to_end_headers(raw.headers.items())


def _declared_length(model_response: requests.Response) -> int | None:
    """How many bytes of the body are still to come; None where that is not known."""
    if isinstance(model_response, ModelResponse):
        return model_response.answer.length
    raw: urllib3.HTTPResponse = model_response.raw
    return raw.length_remaining
