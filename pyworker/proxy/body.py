"""Reads request bodies within limits. A large body must show its signature before it may cost memory."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Generator, Mapping
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, cast

import pydantic_core
from werkzeug.exceptions import ClientDisconnected, RequestEntityTooLarge
from werkzeug.wsgi import get_content_length, get_input_stream

from pyworker.data_types import AuthData
from pyworker.errors import (
    BadRequest,
    BodyTooLarge,
    JsonDataException,
    NotReady,
    UnsupportedCoding,
    shortened,
)
from pyworker.runtime.budget import Budget
from pyworker.runtime.limits import SMALL_BODY
from pyworker.wsgi_extensions import LEAVE_LINE

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment

#: Bytes for all larger bodies together whose `auth_data` has not been found yet.
UNSIGNED_BYTES = 32 * 2**20
# Bytes per read once the signature is known to be good.
_PIECE = 2**20
_BOM = b"\xef\xbb\xbf"
_SHOWN = 40


class BodyReader:
    """Reads the bodies of requests. Thread-safe.

    max_bytes: the limit of any body. check: raises a `RequestError` for an `auth_data` that is not good.
    max_unsigned: concurrent large bodies whose `auth_data` has not been found yet; each holds a thread.
    """

    def __init__(self, max_bytes: int, check: Callable[[AuthData], None], *, max_unsigned: int) -> None:
        self._max_bytes = max_bytes
        self._check = check
        # The budget of large bodies whose `auth_data` has not been found yet. Bodies that stall exhaust this
        # only, not the threads and memory of signed requests.
        self._threads, self._memory = Budget(max_unsigned), Budget(UNSIGNED_BYTES)

    def reading(
        self, environ: WSGIEnvironment, limit: int | None = None, *, is_signed: bool = False
    ) -> AbstractContextManager[bytes]:
        """The whole body, of at most `limit` bytes. Leave the context once its sender is authenticated;
        is_signed: it is already.

        A byte-order mark at its start is removed. Raises `UnsupportedCoding`, `BodyTooLarge`, `BadRequest` if
        the body ended early, `NotReady` if too many unsigned bodies are being read, or what `check` raises.
        """
        coding = environ.get("HTTP_CONTENT_ENCODING", "identity").strip().lower()
        if coding not in ("", "identity"):
            raise UnsupportedCoding(
                f"the body has the content coding {shortened(coding, _SHOWN)!r}; send it without one"
            )
        limit = self._max_bytes if limit is None else min(limit, self._max_bytes)
        declared = get_content_length(environ)
        if declared is not None and declared > limit:
            raise BodyTooLarge(f"the body has {declared} bytes; at most {limit} are allowed")
        if declared is not None and declared <= SMALL_BODY:
            return _Read(_whole(declared, lambda: environ["wsgi.input"].read(declared)))
        guard = _Guard(self._check, self._threads, self._memory, environ.get(LEAVE_LINE), is_signed=is_signed)
        return _guarded(guard, declared, lambda: _read_guarded(environ, limit, guard))


class _Read(AbstractContextManager[bytes]):
    """A body that took nothing from the budget."""

    def __init__(self, body: bytes) -> None:
        self._body = body

    def __enter__(self) -> bytes:
        return self._body

    def __exit__(self, *_: object) -> None:
        """Nothing to release."""


@contextlib.contextmanager
def _guarded(guard: _Guard, declared: int | None, read: Callable[[], bytes]) -> Generator[bytes]:
    try:
        yield _whole(declared, read)
    finally:
        guard.release()


def _whole(declared: int | None, read: Callable[[], bytes]) -> bytes:
    try:
        body = read()
    except (OSError, ClientDisconnected) as error:
        raise BadRequest("the body could not be read to its end") from error
    if declared is not None and len(body) != declared:
        raise BadRequest(f"the body ended after {len(body)} of {declared} bytes")
    return body.removeprefix(_BOM)


def _read_guarded(environ: WSGIEnvironment, limit: int, guard: _Guard) -> bytes:
    # Its getvalue() makes no copy, unlike a bytearray or a list of pieces.
    body = io.BytesIO()
    try:
        # One more byte shows whether a chunked body is too long.
        stream = get_input_stream(environ, max_content_length=limit + 1)
        while piece := stream.read(_PIECE if guard.is_signed else SMALL_BODY):
            body.write(piece)
            guard.admit(body)
        if body.tell() > limit:
            raise RequestEntityTooLarge
    except RequestEntityTooLarge as error:
        raise BodyTooLarge(f"the body has more than the {limit} bytes that are allowed") from error
    return body.getvalue()


class _Guard:
    """Decides whether one body may grow further. Used by the thread of its request alone."""

    def __init__(
        self,
        check: Callable[[AuthData], None],
        threads: Budget,
        memory: Budget,
        leave_line: Callable[[], None] | None,
        *,
        is_signed: bool,
    ) -> None:
        """leave_line: releases the thread slot of signed requests (`wsgi_extensions.LEAVE_LINE`)."""
        self._check, self._threads, self._memory = check, threads, memory
        self._leave_line = leave_line
        self.is_signed = is_signed
        self._has_thread = False
        self._taken = 0

    def admit(self, body: io.BytesIO) -> None:
        """Raise `NotReady` if the budget is used up, or what `check` raises for the `auth_data` found."""
        length = body.tell()
        if self.is_signed or length < SMALL_BODY:
            return
        if not self._has_thread:
            auth_data = leading_auth_data(body.getvalue())
            if auth_data is not None:
                self._check(auth_data)
                self.is_signed = True
                return
            if self._leave_line is not None:
                self._leave_line()
            self._has_thread = self._threads.take()
        if not (self._has_thread and self._memory.take(length - self._taken)):
            raise NotReady(
                f"no room for a body whose auth_data does not come within its first {SMALL_BODY} bytes; "
                "put it before the payload",
                retry_after=1.0,
            )
        self._taken = length

    def release(self) -> None:
        """Return what was taken from the budget."""
        if self._has_thread:
            self._threads.give_back()
            self._memory.give_back(self._taken)


def leading_auth_data(beginning: bytes) -> AuthData | None:
    """The `auth_data` at the start of an incomplete JSON object; None unless it has arrived completely."""
    text = beginning.removeprefix(_BOM).decode("utf-8", "ignore")  # the end may lie within a character
    try:
        found: object = pydantic_core.from_json(text, allow_partial=True)
    except ValueError:
        return None
    if not isinstance(found, dict):
        return None
    fields = cast("dict[str, Any]", found)
    # Complete only if another field follows.
    if not isinstance(fields.get("auth_data"), Mapping) or list(fields)[-1] == "auth_data":
        return None
    try:
        return AuthData.from_json_msg(fields["auth_data"])
    except JsonDataException:
        return None
