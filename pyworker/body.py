"""The body of a request, read within limits: one that is large has to be signed before it may cost memory."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from typing import IO, Any, cast

import flask
import pydantic_core
from werkzeug.exceptions import ClientDisconnected, RequestEntityTooLarge

from pyworker.budget import Budget
from pyworker.data_types import AuthData
from pyworker.errors import (
    BadRequest,
    BodyTooLarge,
    JsonDataException,
    NotReady,
    UnsupportedCoding,
    shortened,
)
from pyworker.wsgi_extensions import LEAVE_LINE

#: Up to here a body is taken from anybody; in as much of a larger one its `auth_data` has to be.
SMALL = 64 * 1024
#: Bytes for larger bodies without that, for all that are here at once.
UNSIGNED_BYTES = 32 * 2**20
# Of a body whose sender is known.
_PIECE = 2**20
_BOM = b"\xef\xbb\xbf"
_SHOWN = 40
_UNREADABLE = "the body could not be read to its end"


class BodyReader:
    """Reads the bodies of requests. Thread-safe.

    max_bytes: for any body; check: raises a `RequestError` for an `auth_data` that opens nothing here.
    max_unsigned: large bodies that are read at once though nobody knows yet who sent them; each holds a
    thread.
    """

    def __init__(self, max_bytes: int, check: Callable[[AuthData], None], *, max_unsigned: int) -> None:
        self._max_bytes = max_bytes
        self._unsigned = Unsigned(check, Budget(max_unsigned), Budget(UNSIGNED_BYTES))

    @contextlib.contextmanager
    def reading(self, request: flask.Request, limit: int | None = None) -> Generator[bytes]:
        """The whole body, of `limit` bytes at most, for as long as it takes to find out who sent it.

        A byte-order mark before it is left out. Raises `UnsupportedCoding`, `BodyTooLarge`, `BadRequest`
        where it ended early, `NotReady` where too much unsigned is here already, or what `check` raises.
        """
        coding = request.headers.get("Content-Encoding", "identity").strip().lower()
        if coding not in ("", "identity"):
            raise UnsupportedCoding(
                f"the body has the content coding {shortened(coding, _SHOWN)!r}; send it without one"
            )
        limit = self._max_bytes if limit is None else min(limit, self._max_bytes)
        declared = request.content_length
        if declared is not None and declared > limit:
            raise BodyTooLarge(f"the body has {declared} bytes; at most {limit} are allowed")
        guard = _Guard(self._unsigned, request.environ.get(LEAVE_LINE))
        try:
            if declared is None or declared > SMALL:
                body = _read_guarded(request, limit, guard)
            else:
                body = _read_small(request, declared)
            if declared is not None and len(body) != declared:
                raise BadRequest(f"the body ended after {len(body)} of {declared} bytes")
            yield body.removeprefix(_BOM)
        finally:
            guard.release()


def _read_small(request: flask.Request, declared: int) -> bytes:
    stream: IO[bytes] = request.environ["wsgi.input"]
    try:
        return stream.read(declared)
    except (OSError, ClientDisconnected) as error:
        raise BadRequest(_UNREADABLE) from error


def _read_guarded(request: flask.Request, limit: int, guard: _Guard) -> bytes:
    # Of a body in chunks, one byte more tells whether it is too long.
    request.max_content_length = limit + 1
    # Gives its bytes away without a copy, which neither a bytearray nor a list of pieces does.
    body = io.BytesIO()
    try:
        while piece := request.stream.read(_PIECE if guard.is_signed else SMALL):
            body.write(piece)
            guard.admit(body)
        if body.tell() > limit:
            raise RequestEntityTooLarge
    except RequestEntityTooLarge as error:
        raise BodyTooLarge(f"the body has more than the {limit} bytes that are allowed") from error
    except (OSError, ClientDisconnected) as error:
        raise BadRequest(_UNREADABLE) from error
    return body.getvalue()


@dataclass(frozen=True)
class Unsigned:
    """What large bodies share as long as nobody knows who sent them. Thread-safe.

    So those that stall exhaust their own share only: threads and memory of signed requests are others.
    """

    check: Callable[[AuthData], None]
    threads: Budget
    memory: Budget


class _Guard:
    """Decides whether one body may go on growing. Belongs to the thread of its request."""

    def __init__(self, unsigned: Unsigned, leave_line: Callable[[], None] | None) -> None:
        """leave_line: gives back the place among signed requests (`wsgi_extensions.LEAVE_LINE`)."""
        self._unsigned = unsigned
        self._leave_line = leave_line
        self.is_signed = False
        self._has_thread = False
        self._taken = 0

    def admit(self, body: io.BytesIO) -> None:
        """Raises where this much of the body is too much, or is signed by somebody else."""
        length = body.tell()
        if self.is_signed or length < SMALL:
            return
        if not self._has_thread:
            auth_data = leading_auth_data(body.getvalue())
            if auth_data is not None:
                self._unsigned.check(auth_data)
                self.is_signed = True
                return
            if self._leave_line is not None:
                self._leave_line()
            self._has_thread = self._unsigned.threads.take()
        if not (self._has_thread and self._unsigned.memory.take(length - self._taken)):
            raise NotReady(
                f"no room for a body whose auth_data does not come within its first {SMALL} bytes; "
                "put it before the payload",
                retry_after=1.0,
            )
        self._taken = length

    def release(self) -> None:
        """The body is gone, or known to be signed."""
        if self._has_thread:
            self._unsigned.threads.give_back()
            self._unsigned.memory.give_back(self._taken)
            self._has_thread, self._taken = False, 0


def leading_auth_data(beginning: bytes) -> AuthData | None:
    """The `auth_data` of a JSON object that has only begun; None unless it is there to its end."""
    text = beginning.removeprefix(_BOM).decode("utf-8", "ignore")  # the cut may lie within a character
    try:
        found: object = pydantic_core.from_json(text, allow_partial=True)
    except ValueError:
        return None
    if not isinstance(found, dict):
        return None
    fields = cast("dict[str, Any]", found)
    # Something comes after it, so it was not cut itself.
    if not isinstance(fields.get("auth_data"), Mapping) or list(fields)[-1] == "auth_data":
        return None
    try:
        return AuthData.from_json_msg(fields["auth_data"])
    except JsonDataException:
        return None
