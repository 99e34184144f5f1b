"""HTTP of the client: one POST, and the lines of a response.

The adapter of requests is called without its session: that saves a third of the time of a call, and keeps
cookies, proxies and .netrc out, so that a key goes to the named host alone.
"""

from __future__ import annotations

import ssl
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import cast

import requests
from requests.structures import CaseInsensitiveDict
from urllib3.exceptions import HTTPError, ReadTimeoutError
from urllib3.response import HTTPResponse
from urllib3.util.ssl_ import create_urllib3_context

from pyworker.client.errors import ClientClosed, ClientError, StreamBroken, TlsFailed, WorkerTimeout
from pyworker.runtime.timed_http import TimedAdapter, TimeLimit
from pyworker.runtime.urls import can_be_called

CONNECT_SECONDS = 10.0
READ_SIZE = 65536
EXCERPT = 300
#: Bytes of one line of a stream, and of a response of the autoscaler.
MAX_LINE = 2**26
MAX_ROUTE = 2**20
_HOSTS = 64


class Http:
    """Posts JSON over a pool of connections. Any thread may call any method."""

    def __init__(self, pool_size: int, *, verify: bool, ca: Path | None) -> None:
        """Raises `ClientError` for a CA file that is none."""
        self._verify = verify
        self._adapter = _adapter(ca if verify else None, pool_size)
        self.closed = threading.Event()

    def post(self, url: str, body: bytes, headers: Mapping[str, str], limit: TimeLimit) -> requests.Response:
        """Returns once status and headers have arrived; the caller reads the body and closes the response.

        Raises the errors of requests if a retry may succeed, `ClientError` otherwise.
        """
        about = {"Content-Type": "application/json", "Content-Length": str(len(body))}
        return self._exchange("POST", url, body, {**about, **headers}, limit)

    def get(self, url: str, headers: Mapping[str, str], limit: TimeLimit) -> requests.Response:
        """As `post`."""
        return self._exchange("GET", url, None, headers, limit)

    def _exchange(
        self, method: str, url: str, body: bytes | None, headers: Mapping[str, str], limit: TimeLimit
    ) -> requests.Response:
        if self.closed.is_set():
            raise ClientClosed("the client was closed")
        request = requests.PreparedRequest()
        request.method = method
        request.url = _checked(url)
        request.body = body
        request.headers = CaseInsensitiveDict(headers)
        try:
            return self._adapter.exchange(request, limit, connect=CONNECT_SECONDS, verify=self._verify)
        except requests.exceptions.SSLError as error:
            raise TlsFailed(_tls_trouble(url, error)) from error

    def wait(self, seconds: float) -> None:
        """A pause, which `close` ends with `ClientClosed`."""
        if self.closed.wait(seconds):
            raise ClientClosed("the client was closed while the request was waiting")

    def close(self) -> None:
        """End pauses and close idle connections."""
        self.closed.set()
        self._adapter.close()


def _adapter(ca: Path | None, pool_size: int) -> TimedAdapter:
    adapter = TimedAdapter(pool_connections=_HOSTS, pool_maxsize=pool_size)
    if ca is None:
        return adapter
    context = create_urllib3_context()
    try:
        context.load_verify_locations(ca)
    except ssl.SSLError as error:
        raise ClientError(f"the CA file {ca} holds no certificate in PEM form") from error
    except OSError as error:
        raise ClientError(f"the CA file {ca} cannot be read ({error.strerror})") from error
    # The root of the public service lacks an extension that Python 3.13 asks for by default.
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    # The library adds its own roots to it.
    adapter.init_poolmanager(_HOSTS, pool_size, ssl_context=context)
    return adapter


def _tls_trouble(url: str, error: requests.exceptions.SSLError) -> str:
    if "CERTIFICATE_VERIFY_FAILED" in str(error):
        return f"the TLS certificate of {url} is not trusted; name its root with --ca, or use --insecure"
    return f"no TLS connection to {url}; does it speak TLS there?"


def _checked(url: str) -> str:
    if not can_be_called(url):
        raise ClientError(f"{url} is not a URL that can be called; it has to be like http://host:port")
    return url


def read(response: requests.Response) -> None:
    """Take the whole body, as `content`; raises `StreamBroken` or `WorkerTimeout`."""
    try:
        _ = response.content
    except requests.RequestException as error:
        inner: object = error.args[0] if error.args else None
        raise _broken(response, inner if isinstance(inner, Exception) else error) from error


def read_route(response: requests.Response) -> bytes:
    """The body of the autoscaler's response; raises errors of requests."""
    content = bytearray()  # grows in place
    for piece in response.iter_content(READ_SIZE):
        content += piece
        if len(content) > MAX_ROUTE:
            raise requests.exceptions.ContentDecodingError(f"answered with more than {MAX_ROUTE} bytes")
    return bytes(content)


def lines(response: requests.Response) -> Iterator[str]:
    """Lines of the body as they arrive. Raises `StreamBroken` if the body is truncated."""
    raw = cast("HTTPResponse", response.raw)
    begun: list[bytes] = []  # pieces of a line whose end has not arrived
    length = 0
    while True:
        try:
            data = raw.read1(READ_SIZE, decode_content=True)
        except (HTTPError, OSError) as error:
            raise _broken(response, error) from error
        if not data:
            break
        first, *others = data.split(b"\n")
        begun.append(first)
        length = len(others[-1]) if others else length + len(first)
        if length > MAX_LINE:
            raise StreamBroken(f"{response.url} sent a line of more than {MAX_LINE} bytes")
        for other in others:
            yield b"".join(begun).decode("utf-8", "replace")
            begun = [other]
    yield b"".join(begun).decode("utf-8", "replace")


def _broken(response: requests.Response, error: Exception) -> ClientError:
    if isinstance(error, ReadTimeoutError | TimeoutError):
        return WorkerTimeout(f"{response.url} stalled in the middle of its response")
    return StreamBroken(f"the response of {response.url} broke off ({type(error).__name__}); ask again")


def data_of(line: str) -> str | None:
    """The data in a line of a stream; None for blank lines, comments and other fields of SSE."""
    line = line.rstrip("\r")
    name, colon, value = line.partition(":")
    if colon and name == "data":
        return value.removeprefix(" ")
    if colon and name in ("", "event", "id", "retry"):
        return None
    return line.strip() or None


def received(response: requests.Response) -> int:
    """Bytes of the body that have arrived so far."""
    return cast("HTTPResponse", response.raw).tell()


def status_line(response: requests.Response) -> str:
    return f"{response.status_code} {response.reason or ''}".strip()


def excerpt(response: requests.Response, content: bytes, secret: str) -> str:
    """The status line and the beginning of the body, without the secret in case the server repeats it."""
    text = content.decode("utf-8", "replace").strip()
    if secret:
        text = text.replace(secret, "***")
    return f"{status_line(response)}: {text[:EXCERPT] or '(empty)'}"


def cause(error: BaseException) -> str:
    """Why a connection failed, without the address that the library's message repeats."""
    if isinstance(error, requests.exceptions.ConnectTimeout):
        return "the connection timed out"
    if isinstance(error, requests.exceptions.ReadTimeout):
        return "no response in time"
    inner: BaseException | None = error
    while inner is not None:
        if isinstance(inner, OSError) and inner.strerror:
            return inner.strerror.lower()
        nested = getattr(inner, "reason", None) or (inner.args[0] if inner.args else None)
        inner = nested if isinstance(nested, BaseException) else inner.__cause__ or inner.__context__
    return "the connection broke off"
