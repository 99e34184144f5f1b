"""The package's errors. A `RequestError` has an HTTP status; `app` makes the response from it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import ClassVar


class PyworkerError(Exception):
    """Base class of the errors that this package raises."""


class ConfigError(PyworkerError):
    """Settings or a worker package are wrong. Ends the start; one line for each problem."""

    def __init__(self, *problems: str) -> None:
        super().__init__("; ".join(problems))
        self.problems = problems


class AutoscalerError(PyworkerError):
    """The autoscaler could not be reached, or its response does not follow the protocol."""


class RequestError(PyworkerError):
    """An error response: `status`, a JSON body, optionally `Retry-After` in seconds."""

    status: ClassVar[int] = 500
    default_message: ClassVar[str] = ""
    default_retry_after: ClassVar[float | None] = None

    def __init__(self, message: str = "", *, retry_after: float | None = None) -> None:
        self.message = message or self.default_message
        super().__init__(self.message)
        self.retry_after = self.default_retry_after if retry_after is None else retry_after

    @property
    def reason(self) -> str:
        """For logs and records: the message, without what it quotes of the request."""
        return self.message

    def body(self) -> Mapping[str, object]:
        """The JSON body; never a stack trace, a header or a secret."""
        return {"error": self.message}


class BadRequest(RequestError):
    """The body ended early or its framing is broken."""

    status = 400


class Unauthorized(RequestError):
    """The signature or token is not valid for this worker."""

    status = 401


class InvalidSession(RequestError):
    """The session of a request is unknown or has expired."""

    status = 410
    default_message = "invalid session"


class UnknownSession(RequestError):
    """No session of this id is open."""

    status = 400
    default_message = "session_id: no such session"


class SessionClosed(RequestError):
    """The session has ended or expired before."""

    status = 410
    default_message = "session_id: the session is already closed"


class BodyTooLarge(RequestError):
    """The request body is above `MAX_BODY_BYTES`."""

    status = 413


class UnsupportedCoding(RequestError):
    """The request body is compressed."""

    status = 415

    @property
    def reason(self) -> str:
        return "the request body has a content coding or a type that the route does not take"


class Unprocessable(RequestError):
    """The body is not a JSON object, or its fields are wrong."""

    status = 422


class JsonDataException(Unprocessable):
    """Fields of the client's JSON are wrong. `json_msg` maps each field at fault to a message."""

    def __init__(self, json_msg: Mapping[str, str | Mapping[str, object]], *, more: int = 0) -> None:
        """more: how many faults `json_msg` leaves out."""
        others = f" and {more} more" if more else ""
        super().__init__(f"invalid request: {', '.join(_fault_names(json_msg))}{others}")
        self.json_msg = json_msg
        self.more = more

    @property
    def reason(self) -> str:
        # Deeper names may be keys of the client's own.
        names = dict.fromkeys(".".join(name.split(".")[:2]) for name in _fault_names(self.json_msg))
        return f"invalid request: {', '.join(names)}"

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

    estimated_wait: seconds until the requests in hand are done, by the measured throughput.
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
    """The limit of open sessions is reached."""

    def __init__(self, open_sessions: int) -> None:
        super().__init__(
            f"too busy: {open_sessions} sessions are open already",
            requests_in_hand=open_sessions,
            estimated_wait=0.0,
        )

    def body(self) -> Mapping[str, object]:
        return {"error": self.message, "open_sessions": self.requests_in_hand}


class TooManyViewers(RequestError):
    """So many pages watch this worker that one more would cost too much."""

    status = 429
    default_retry_after = 10.0


class LimitReached(PyworkerError):
    """The ledger refuses an entry. load, entries: the workload and the number of entries in hand."""

    def __init__(self, load: float, entries: int) -> None:
        super().__init__(f"{entries} entries with a workload of {load:g} are in hand")
        self.load = load
        self.entries = entries


class ModelUnreachable(RequestError):
    """The model server refused the connection, or broke off before the first byte of its body."""

    status = 502


class ResponseTooLarge(ModelUnreachable):
    """The model server's response is longer than its reader allows."""


class NotReady(RequestError):
    """The worker cannot serve now: it is loading, errored, draining, or has no public key yet."""

    status = 503
    default_retry_after = 5.0


class UpdateRefused(RequestError):
    """The flag for an update cannot be written."""

    status = 503


class BadHandler(PyworkerError):
    """The worker's own code did what it must not; the message names its file and line, for the log."""


class ModelTimeout(RequestError):
    """The model server sent nothing for `MODEL_TIMEOUT` seconds."""

    status = 504


class ModelBroken(PyworkerError):
    """The model server's response broke off after its header block. The client's is truncated visibly too."""


class ClientGone(RequestError):
    """The client hung up. The status, which is only logged, is the one that nginx uses."""

    status = 499


def shortened(text: str, limit: int) -> str:
    """`text`, truncated to `limit` characters with "…" at its end."""
    return text if len(text) <= limit else text[: limit - 1] + "…"
