"""A client of the service: asks the autoscaler for a worker and calls it.

Shared by the workers' example clients and the load test.
"""

from __future__ import annotations

import json
import math
import random
import ssl
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar, cast

import requests
from requests.adapters import HTTPAdapter
from typing_extensions import Self
from urllib3.exceptions import HTTPError
from urllib3.response import HTTPResponse
from urllib3.util.ssl_ import create_urllib3_context

from pyworker.errors import PyworkerError

CONNECT_SECONDS = 10.0
ROUTE_SECONDS = 30.0
"""How long the autoscaler may be silent before the call is tried again."""
FIRST_PAUSE = 0.1
LONGEST_PAUSE = 5.0
ROUTE_FAILURES = 5
"""An autoscaler that cannot be reached this often in a row is reported instead of tried on."""
READ_SIZE = 65536
EXCERPT = 300
_HOSTS = 64


class ClientError(PyworkerError):
    """A call that got no usable answer. The message says why and what to do; `kind` groups failures."""

    kind: ClassVar[str] = "client error"


class AutoscalerUnreachable(ClientError):
    """No connection to the autoscaler, or nothing from it but server errors."""

    kind = "autoscaler unreachable"


class RouteRefused(ClientError):
    """The autoscaler does not accept the request: a wrong key, an unknown endpoint."""

    kind = "refused by the autoscaler"


class NoWorkerReady(ClientError):
    """The deadline passed while the autoscaler had no worker to offer."""

    kind = "no worker ready"


class WorkerUnavailable(ClientError):
    """The deadline passed while workers refused, failed or could not be reached."""

    kind = "worker unavailable"


class WorkerTimeout(ClientError):
    """The worker took the request and was silent until the deadline."""

    kind = "worker timed out"


class WorkerAnswerError(ClientError):
    """The worker answered a stream request with an error status, which is in `status`."""

    kind = "error answer"

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class StreamBroken(ClientError):
    """The stream ended before its end: what was received so far is not the whole answer."""

    kind = "stream broken"


class ClientClosed(ClientError):
    """`close` was called while the request was waiting."""

    kind = "client closed"


class _Deadline:
    """The end of one call; used by the one thread that makes the call."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._end = time.monotonic() + seconds

    def left(self) -> float:
        return self._end - time.monotonic()


class Client:
    """Calls workers of one endpoint. Any thread may call any method; they share one connection pool.

    `timeout` bounds a whole call in seconds: waiting for a worker, retries and the answer; a stream may
    take longer as long as it is never silent for `timeout`. `verify` is the worker's and the autoscaler's
    TLS check; `ca` the file of a root certificate that is trusted too, such as the one that signs workers.
    """

    def __init__(
        self,
        autoscaler_url: str,
        api_key: str,
        endpoint: str,
        *,
        timeout: float = 600.0,
        verify: bool = True,
        ca: Path | None = None,
        pool_size: int = 256,
    ) -> None:
        if not (math.isfinite(timeout) and timeout > 0):
            raise ValueError(f"timeout must be a number of seconds above 0, not {timeout!r}")
        self._autoscaler_url = autoscaler_url.rstrip("/")
        self._api_key = api_key
        self._endpoint = endpoint
        self._timeout = timeout
        self._verify = verify
        self._closed = threading.Event()
        self._session = requests.Session()
        self._session.trust_env = False  # no proxies, no .netrc: the key goes to the autoscaler only
        adapter = _adapter(ca if verify else None, pool_size)
        self._session.mount("http://", adapter)
        self._session.mount("https://", adapter)

    def route(self, cost: float) -> dict[str, object]:
        """The `auth_data` of a ready worker for a request of this workload, waited for if need be."""
        return self._route(cost, 0, _Deadline(self._timeout))

    def call(self, route_path: str, payload: Mapping[str, object], cost: float) -> requests.Response:
        """POST `payload` to a worker and read its answer, whatever its status.

        Busy and failing workers (408, 429, 5xx, connection errors) are retried until the deadline.
        """
        return self._post(route_path, payload, cost, stream=False)

    def stream(self, route_path: str, payload: Mapping[str, object], cost: float) -> Iterator[str]:
        """The data of a streamed answer, each item as soon as it arrives: SSE `data:` or lines of JSON.

        Raises `WorkerAnswerError` for an error status and `StreamBroken` when the stream is cut short.
        Closing the iterator hangs up.
        """
        response = self._post(route_path, payload, cost, stream=True)
        try:
            if not 200 <= response.status_code < 300:
                raise WorkerAnswerError(self._described(response), response.status_code)
            # Read to the end of the body even behind [DONE]: to hang up earlier would cancel the request.
            for line in _lines(response):
                item = _data_of(line)
                if item and item != "[DONE]":
                    yield item
        finally:
            response.close()

    def close(self) -> None:
        """End waiting calls with `ClientClosed` and close idle connections."""
        self._closed.set()
        self._session.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    def __repr__(self) -> str:
        state = "closed" if self._closed.is_set() else "open"
        return f"<Client {self._endpoint} at {self._autoscaler_url} [{state}]>"

    def _post(
        self, route_path: str, payload: Mapping[str, object], cost: float, *, stream: bool
    ) -> requests.Response:
        """Route and call until an answer is final. Every retry keeps the request index it began with."""
        deadline = _Deadline(self._timeout)
        index = 0
        attempt = 0
        while True:
            auth_data = self._route(cost, index, deadline)
            index = _index_of(auth_data, index)
            url = f"{str(auth_data['url']).rstrip('/')}/{route_path.lstrip('/')}"
            body = {"auth_data": auth_data, "payload": payload, "session_id": None}
            retry_after = 0.0
            try:
                response = self._send(url, body, {}, max(0.001, deadline.left()), stream=stream)
            except requests.exceptions.ReadTimeout as error:
                raise WorkerTimeout(
                    f"{url} did not answer within {deadline.seconds:g} s; allow more time, or look at its log"
                ) from error
            except requests.RequestException as error:
                trouble = f"{url}: {self._cause(error)}"
            else:
                if not _retryable(response.status_code):
                    return response
                trouble = self._described(response)
                retry_after = _retry_after(response)
                response.close()
            pause = max(retry_after, _pause(attempt))
            attempt += 1
            if pause >= deadline.left():
                raise WorkerUnavailable(
                    f"no answer within {deadline.seconds:g} s, {attempt} tries; {trouble}"
                )
            self._wait(pause)

    def _route(self, cost: float, index: int, deadline: _Deadline) -> dict[str, object]:
        attempt = 0
        failures = 0
        while True:
            answer, trouble, retry_after = self._ask(cost, index, deadline)
            if answer is not None and "url" in answer:
                return answer
            failures = 0 if answer is not None else failures + 1
            if answer is not None:
                index = _index_of(answer, index)
                trouble = str(answer.get("status", "it gave no reason"))
            pause = max(retry_after, _pause(attempt))
            attempt += 1
            if failures >= ROUTE_FAILURES or (failures and pause >= deadline.left()):
                raise AutoscalerUnreachable(
                    f"no answer from the autoscaler at {self._autoscaler_url}: {trouble}; is it running?"
                )
            if pause >= deadline.left():
                raise NoWorkerReady(
                    f"no worker of {self._endpoint!r} became ready within {deadline.seconds:g} s "
                    f"({trouble}); see that one is running and that its model has loaded"
                )
            self._wait(pause)

    def _ask(
        self, cost: float, index: int, deadline: _Deadline
    ) -> tuple[dict[str, object] | None, str, float]:
        """One question to the autoscaler: its answer, or why there is none and how long to wait."""
        body: dict[str, object] = {
            "endpoint": self._endpoint,
            "api_key": self._api_key,
            "cost": cost,
            "request_idx": index,
            "replay_timeout": deadline.seconds,
        }
        # The contract also has the key in the query, but addresses end up in logs and error messages.
        headers = {"Authorization": f"Bearer {self._api_key}"}
        limit = max(0.001, min(ROUTE_SECONDS, deadline.left()))
        try:
            response = self._send(f"{self._autoscaler_url}/route/", body, headers, limit, stream=False)
        except requests.RequestException as error:
            return None, self._cause(error), 0.0
        if _retryable(response.status_code):
            return None, f"it answered {_status_line(response)}", _retry_after(response)
        if not 200 <= response.status_code < 300:
            raise self._refusal(response)
        return self._route_answer(response), "", 0.0

    def _refusal(self, response: requests.Response) -> RouteRefused:
        hints = {401: "the API key", 403: "the API key", 404: "the endpoint name and the autoscaler's URL"}
        hint = hints.get(response.status_code, "the request")
        answer = f"{_status_line(response)}: {self._excerpt(response)}"
        return RouteRefused(f"the autoscaler at {self._autoscaler_url} answered {answer}; check {hint}")

    def _route_answer(self, response: requests.Response) -> dict[str, object]:
        try:
            answer: object = json.loads(response.content)
        except ValueError:
            answer = None
        if isinstance(answer, dict):
            fields = cast("dict[str, object]", answer)
            if isinstance(fields.get("url", ""), str):
                return fields
        raise RouteRefused(
            f"the autoscaler at {self._autoscaler_url} answered {self._excerpt(response)}, "
            "which is no route; check its URL"
        )

    def _send(
        self,
        url: str,
        body: Mapping[str, object],
        headers: Mapping[str, str],
        timeout: float,
        *,
        stream: bool,
    ) -> requests.Response:
        if self._closed.is_set():
            raise ClientClosed("the client was closed")
        try:
            return self._session.post(
                url,
                json=body,
                headers=dict(headers),
                timeout=(min(CONNECT_SECONDS, timeout), timeout),
                verify=self._verify,
                stream=stream,
                allow_redirects=False,
            )
        except requests.exceptions.SSLError as error:
            raise ClientError(
                f"the TLS certificate of {url} is not trusted; name its root with --ca, or use --insecure"
            ) from error
        except (requests.exceptions.InvalidURL, requests.exceptions.InvalidSchema) as error:
            raise ClientError(f"{url} is not a URL that can be called") from error
        except requests.exceptions.MissingSchema as error:
            raise ClientError(f"{url} is not a URL: it has to begin with http:// or https://") from error

    def _wait(self, seconds: float) -> None:
        if self._closed.wait(seconds):
            raise ClientClosed("the client was closed while the request was waiting")

    def _described(self, response: requests.Response) -> str:
        return f"{response.url} answered {_status_line(response)}: {self._excerpt(response)}"

    def _excerpt(self, response: requests.Response) -> str:
        """The beginning of an answer, without the key in case the answer repeats it."""
        try:
            text = response.content.decode("utf-8", "replace").strip()
        except requests.RequestException:
            return "(the answer broke off)"
        if self._api_key:
            text = text.replace(self._api_key, "***")
        return text[:EXCERPT] or "(empty)"

    def _cause(self, error: requests.RequestException) -> str:
        """A few words on a failed connection, without the address that the library's message repeats."""
        if isinstance(error, requests.exceptions.ConnectTimeout):
            return "the connection timed out"
        if isinstance(error, requests.exceptions.ReadTimeout):
            return "it is silent"
        inner: BaseException | None = error
        while inner is not None:
            if isinstance(inner, OSError) and inner.strerror:
                return inner.strerror.lower()
            nested = getattr(inner, "reason", None) or (inner.args[0] if inner.args else None)
            inner = nested if isinstance(nested, BaseException) else inner.__cause__ or inner.__context__
        return "the connection broke off"


class _TrustingAdapter(HTTPAdapter):
    """Trusts what this context trusts, and the roots of the requests library, which adds them to it."""

    def __init__(self, context: ssl.SSLContext, pool_size: int) -> None:
        self._context = context
        super().__init__(pool_connections=_HOSTS, pool_maxsize=pool_size)

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, ssl_context=self._context, **kwargs)


def _adapter(ca: Path | None, pool_size: int) -> HTTPAdapter:
    if ca is None:
        return HTTPAdapter(pool_connections=_HOSTS, pool_maxsize=pool_size)
    context = create_urllib3_context()
    try:
        context.load_verify_locations(ca)
    except ssl.SSLError as error:
        raise ClientError(f"the CA file {ca} holds no certificate in PEM form") from error
    except OSError as error:
        raise ClientError(f"the CA file {ca} cannot be read ({error.strerror})") from error
    # The root of the public service lacks an extension that Python 3.13 asks for by default.
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    return _TrustingAdapter(context, pool_size)


def _retryable(status: int) -> bool:
    return status in (408, 429) or 500 <= status < 600


def _pause(attempt: int) -> float:
    """Doubles with each attempt up to a cap; a random part keeps clients from coming back together."""
    return min(LONGEST_PAUSE, FIRST_PAUSE * 2.0 ** min(attempt, 16)) * random.uniform(0.75, 1.25)


def _retry_after(response: requests.Response) -> float:
    """Seconds asked for by `Retry-After`; 0 where it is absent, a date, or senseless."""
    try:
        seconds = float(response.headers.get("Retry-After", "0"))
    except ValueError:
        return 0.0
    return seconds if math.isfinite(seconds) and seconds > 0 else 0.0


def _index_of(answer: Mapping[str, object], otherwise: int) -> int:
    index = answer.get("request_idx")
    return index if isinstance(index, int) and index > 0 else otherwise


def _status_line(response: requests.Response) -> str:
    return f"{response.status_code} {response.reason or ''}".strip()


def _lines(response: requests.Response) -> Iterator[str]:
    """Lines of the body as they arrive. Cut visibly: an end that the framing does not allow raises."""
    raw = cast("HTTPResponse", response.raw)
    begun: list[bytes] = []  # pieces of a line whose end has not come yet
    while True:
        try:
            data = raw.read1(READ_SIZE, decode_content=True)
        except (HTTPError, OSError) as error:
            raise StreamBroken(
                f"the answer of {response.url} broke off ({type(error).__name__}); ask again"
            ) from error
        if not data:
            break
        first, *others = data.split(b"\n")
        begun.append(first)
        for other in others:
            yield b"".join(begun).decode("utf-8", "replace")
            begun = [other]
    yield b"".join(begun).decode("utf-8", "replace")


def _data_of(line: str) -> str | None:
    """What a line of a stream carries; None for blank lines, comments and other fields of SSE."""
    line = line.rstrip("\r")
    name, colon, value = line.partition(":")
    if colon and name == "data":
        return value.removeprefix(" ")
    if colon and name in ("", "event", "id", "retry"):
        return None
    return line.strip() or None
