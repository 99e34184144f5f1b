"""Why a call to the service got no usable answer."""

from __future__ import annotations

from typing import ClassVar

from pyworker.errors import PyworkerError
from pyworker.redaction import redacted


class ClientError(PyworkerError):
    """A call that got no usable answer. The message says why and what to do; `kind` groups failures."""

    kind: ClassVar[str] = "client error"

    def __init__(self, message: str) -> None:
        super().__init__(redacted(message))


class RoutingFailed(ClientError):
    """The autoscaler named no worker."""

    kind = "routing"


class AutoscalerUnreachable(RoutingFailed):
    """No connection to the autoscaler, or nothing from it but server errors."""


class RouteRefused(RoutingFailed):
    """The autoscaler does not accept the request: a wrong key, an unknown endpoint."""


class NoWorkerReady(RoutingFailed):
    """The deadline passed while the autoscaler had no worker to offer."""


class TlsFailed(ClientError):
    """The certificate of the other side is not trusted, or the handshake failed."""

    kind = "tls"


class WorkerUnavailable(ClientError):
    """Workers could not be reached, or went on refusing until the deadline."""

    kind = "connection"


class WorkerTimeout(ClientError):
    """The worker took the request and then was silent for too long."""

    kind = "timeout"


class StreamBroken(ClientError):
    """The answer ended before its end: what was received so far is not the whole."""

    kind = "cut"


class WorkerAnswerError(ClientError):
    """The worker answered with an error status, which is in `status`."""

    kind = "error answer"

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class SessionClosed(WorkerAnswerError):
    """The session is unknown to the worker, has ended or has expired."""

    kind = "session closed"


class ClientClosed(ClientError):
    """`close` was called while the request was waiting."""

    kind = "client closed"
