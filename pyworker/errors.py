"""Error families. Each request error knows its HTTP status; `app` turns it into the answer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import ClassVar


class PyworkerError(Exception):
    """Root of every error this package raises on purpose."""


class ConfigError(PyworkerError):
    """Settings or a worker package that cannot work; stops the start with one line for every problem."""

    def __init__(self, *problems: str) -> None:
        super().__init__("; ".join(problems))
        self.problems = problems


class AutoscalerError(PyworkerError):
    """The autoscaler could not be reached, or answered something that is not in its contract."""


class RequestError(PyworkerError):
    """A request that gets an error answer: `status`, a JSON body, optionally `Retry-After` in seconds."""

    status: ClassVar[int] = 500
    default_retry_after: ClassVar[float | None] = None

    def __init__(self, message: str, *, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.retry_after = self.default_retry_after if retry_after is None else retry_after

    def body(self) -> Mapping[str, object]:
        """What the client reads; never a stack trace, a header or a secret."""
        return {"error": self.message}


class BadRequest(RequestError):
    """The body ended early or its framing is broken."""

    status = 400


class Unauthorized(RequestError):
    """The signature or token does not open this worker."""

    status = 401


class InvalidSession(RequestError):
    """The session of a request is unknown or has expired."""

    status = 410

    def __init__(self) -> None:
        super().__init__("invalid session")


class UnknownSession(RequestError):
    """A session of this id is not open here."""

    status = 400

    def __init__(self) -> None:
        super().__init__("session_id: no such session")


class SessionClosed(RequestError):
    """The session has ended or expired before."""

    status = 410

    def __init__(self) -> None:
        super().__init__("session_id: the session is already closed")


class BodyTooLarge(RequestError):
    """The request body is above `MAX_BODY_BYTES`."""

    status = 413


class UnsupportedCoding(RequestError):
    """The request body is compressed."""

    status = 415


class Unprocessable(RequestError):
    """The body is not a JSON object, or its fields are wrong."""

    status = 422


class JsonDataException(Unprocessable):
    """Fields of the client's JSON are wrong. `json_msg` maps each field at fault to what is wrong with it."""

    def __init__(self, json_msg: Mapping[str, str | Mapping[str, object]], *, more: int = 0) -> None:
        """more: how many faults are not in `json_msg`, since there are too many."""
        others = f" and {more} more" if more else ""
        super().__init__(f"invalid request: {', '.join(_fault_names(json_msg))}{others}")
        self.json_msg = json_msg
        self.more = more

    def body(self) -> Mapping[str, object]:
        return {"error": self.message, **self.json_msg}


def _fault_names(faults: Mapping[str, str | Mapping[str, object]]) -> Iterator[str]:
    for name, fault in faults.items():
        if isinstance(fault, str):
            yield name
        else:
            yield from (f"{name}.{inner}" for inner in fault)


class Overloaded(RequestError):
    """The estimated wait, or the number of requests in hand, is above the limit.

    estimated_wait: seconds until the requests in hand are done, as far as the benchmark can tell.
    """

    status = 429
    default_retry_after = 1.0

    def __init__(
        self, message: str, *, requests_in_hand: int, estimated_wait: float, retry_after: float | None = None
    ) -> None:
        super().__init__(message, retry_after=retry_after)
        self.requests_in_hand = requests_in_hand
        self.estimated_wait = estimated_wait

    def body(self) -> Mapping[str, object]:
        return {
            "error": self.message,
            "requests_in_hand": self.requests_in_hand,
            "estimated_wait": round(self.estimated_wait, 3),
        }


class TooManySessions(Overloaded):
    """As many sessions are open as may be."""

    def __init__(self, open_sessions: int) -> None:
        super().__init__(
            f"too busy: {open_sessions} sessions are open already",
            requests_in_hand=open_sessions,
            estimated_wait=0.0,
        )

    def body(self) -> Mapping[str, object]:
        return {"error": self.message, "open_sessions": self.requests_in_hand}


class LimitReached(PyworkerError):
    """The ledger admits no more: so much workload and so many entries are in hand."""

    def __init__(self, load: float, entries: int) -> None:
        super().__init__(f"{entries} entries with a workload of {load:g} are in hand")
        self.load = load
        self.entries = entries


class ModelUnreachable(RequestError):
    """The model server refused the connection or broke before its first byte."""

    status = 502


class NotReady(RequestError):
    """The worker cannot serve now: loading, errored, draining, or without the public key."""

    status = 503
    default_retry_after = 5.0


class UpdateRefused(RequestError):
    """An update cannot be asked for."""

    status = 503


class ModelTimeout(RequestError):
    """The model server was silent for longer than `MODEL_TIMEOUT`."""

    status = 504


class ModelBroken(PyworkerError):
    """The model server's answer broke off after its head; the client's answer is cut visibly too."""


class ClientGone(RequestError):
    """The client hung up; nobody reads this answer. The status is nginx's for the same, and only logged."""

    status = 499


def shortened(text: str, limit: int) -> str:
    """`text`, or where it is longer than `limit` characters its beginning with "…"."""
    return text if len(text) <= limit else text[: limit - 1] + "…"
