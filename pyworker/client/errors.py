"""Errors of the client."""

from __future__ import annotations

from typing import ClassVar

from pyworker.errors import PyworkerError
from pyworker.runtime.redaction import redacted


class ClientError(PyworkerError):
    """A call without a usable response. The message says why and what to do; `kind` groups failures."""

    kind: ClassVar[str] = "client error"

    def __init__(self, message: str) -> None:
        super().__init__(redacted(message))


class RoutingFailed(ClientError):
    """The autoscaler has named no worker."""

    kind = "routing"


class AutoscalerUnreachable(RoutingFailed):
    """No connection to the autoscaler, or nothing from it but server errors."""


class RouteRefused(RoutingFailed):
    """The autoscaler does not accept the request: a wrong key, an unknown endpoint."""


class NoWorkerReady(RoutingFailed):
    """No worker was ready before the deadline."""


class TlsFailed(ClientError):
    """The server's certificate is not trusted, or the handshake failed."""

    kind = "tls"


class WorkerUnavailable(ClientError):
    """No worker could be reached, or all refused until the deadline."""

    kind = "connection"


class WorkerTimeout(ClientError):
    """The worker accepted the request, then sent nothing for too long."""

    kind = "timeout"


class StreamBroken(ClientError):
    """The response was truncated."""

    kind = "cut"


class WorkerAnswerError(ClientError):
    """The worker answered with an error status, which is in `status`."""

    kind = "error response"

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class SessionClosed(WorkerAnswerError):
    """The session is unknown to the worker, has ended or has expired."""

    kind = "session closed"


class ClientClosed(ClientError):
    """`close` was called while the request was waiting."""

    kind = "client closed"
