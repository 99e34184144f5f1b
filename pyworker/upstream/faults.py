"""Why a call to the model server failed, in words for logs and clients. Pure.

The words never quote the model server or a URL.
"""

from __future__ import annotations

import http.client
import socket
import ssl

import requests

from pyworker.errors import ModelTimeout, ModelUnreachable, RequestError
from pyworker.upstream.origin import CONNECT_SECONDS, ConnectTimeout


def describe(error: BaseException) -> str:
    """Why no response arrived."""
    for kinds, words in _CAUSES:
        if isinstance(error, kinds):
            return words
    if isinstance(error, ssl.SSLCertVerificationError):
        return (
            f"the model server's TLS certificate is not trusted ({error.verify_message}); "
            "MODEL_CA_FILE names a file with the certificates to trust"
        )
    if isinstance(error, ssl.SSLError):
        return f"TLS with the model server failed ({error.reason or 'no reason was given'})"
    if isinstance(error, http.client.HTTPException):
        # Raised by our parser, which never quotes what it has read.
        return f"the model server's response is malformed: {error}"
    if isinstance(error, OSError):
        return f"the connection to the model server failed ({error.strerror or type(error).__name__})"
    return f"the call to the model server failed ({type(error).__name__})"


def error_of(error: BaseException) -> RequestError | None:
    """What a client is told if a call of requests has failed with this; None for any other exception."""
    if not isinstance(error, requests.exceptions.RequestException):
        return None
    words = describe(error.__cause__ or error)
    is_late = isinstance(error, requests.exceptions.Timeout)
    return ModelTimeout(words) if is_late else ModelUnreachable(words)


def describe_break(error: BaseException) -> str:
    """Why a response broke off."""
    # urllib3 and requests wrap the cause as an argument of their exceptions.
    for inner in error.args:
        if isinstance(inner, Exception):
            return describe_break(inner)
    if isinstance(error, http.client.IncompleteRead):
        return "the connection ended"
    if isinstance(error, http.client.HTTPException):
        return str(error)
    if isinstance(error, ConnectionResetError):
        return "the connection was reset"
    if isinstance(error, OSError) and error.strerror:
        return f"the connection failed ({error.strerror})"
    return type(error).__name__


# The most specific cause comes first.
_CAUSES: tuple[tuple[type[BaseException] | tuple[type[BaseException], ...], str], ...] = (
    (ConnectTimeout, f"the model server did not accept the connection within {CONNECT_SECONDS:g} s"),
    (TimeoutError, "the model server did not answer in time"),
    (socket.gaierror, "the model server's host name cannot be resolved"),
    (ConnectionRefusedError, "the model server refused the connection"),
    (http.client.RemoteDisconnected, "the model server closed the connection before its response"),
    (ConnectionResetError, "the model server reset the connection before its response"),
    (ssl.SSLEOFError, "the model server closed the connection before its response"),
    (BrokenPipeError, "the model server closed the connection before its response"),
    (
        http.client.IncompleteRead,
        "the model server closed the connection within the header block of its response",
    ),
)
