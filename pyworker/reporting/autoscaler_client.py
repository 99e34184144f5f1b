"""HTTP requests to the autoscaler, with a deadline and a bounded response."""

from __future__ import annotations

from collections.abc import Sequence

import pydantic_core
import requests
import urllib3

from pyworker.errors import AutoscalerError
from pyworker.runtime.redaction import redacted
from pyworker.runtime.timed_http import timed_session

#: Seconds to connect to one address, and for the whole request including the response.
_TIMEOUT = (3.0, 8.0)
_MAX_RESPONSE = 64 * 1024
_JSON = {"Content-Type": "application/json"}


class AutoscalerClient:
    """Sends each request to the first of several addresses that accepts it. One thread at a time.

    The address that accepted last is tried first, so that a dead one costs its timeout once only.
    """

    def __init__(self, addresses: Sequence[str]) -> None:
        self._addresses = list(addresses)
        self._accepted_by = self._addresses[0]
        self._session = timed_session()

    def fetch_public_key(self) -> str:
        """The PEM of the key that signs requests; raises `AutoscalerError`."""
        return self._first("GET", "/pubkey/", None)

    def send_status(self, body: dict[str, object]) -> None:
        """One status report; raises `AutoscalerError` if no address accepted it."""
        self._first("POST", "/worker_status/", body)

    def send_finished(self, body: dict[str, object]) -> None:
        """A batch of finished requests; raises `AutoscalerError` if no address accepted it."""
        self._first("POST", "/delete_requests/", body)

    def _first(self, method: str, path: str, body: dict[str, object] | None) -> str:
        problems: list[str] = []
        others = (address for address in self._addresses if address != self._accepted_by)
        for address in (self._accepted_by, *others):
            try:
                content = self._send(method, address + path, body)
            except (requests.exceptions.RequestException, UnicodeDecodeError) as error:
                problems.append(f"{redacted(address)}{path}: {_brief(error)}")
            else:
                self._accepted_by = address
                return content
        raise AutoscalerError("; ".join(problems))

    def _send(self, method: str, url: str, body: dict[str, object] | None) -> str:
        # Five times as fast as `json`, which would hold the GIL for that long.
        data = None if body is None else pydantic_core.to_json(body)
        headers = None if body is None else _JSON
        with self._session.request(
            method, url, data=data, headers=headers, timeout=_TIMEOUT, allow_redirects=False, stream=True
        ) as response:
            if not 200 <= response.status_code < 300:
                raise requests.exceptions.HTTPError(f"answered {response.status_code}")
            try:
                content = _read(response)
            except (urllib3.exceptions.HTTPError, OSError) as error:
                if body is None:
                    raise requests.exceptions.HTTPError("broke off its response") from error
                content = b""
            # The status accepts a report: a broken body must not make it be sent again.
            return content.decode() if body is None else ""

    def close(self) -> None:
        """Close the connections."""
        self._session.close()


def _read(response: requests.Response) -> bytes:
    """The body, up to the maximum; a server that drips it runs into the deadline of the request."""
    content = bytearray()  # grows in place: a server may send any number of small pieces
    while len(content) < _MAX_RESPONSE:
        piece = response.raw.read1(_MAX_RESPONSE, decode_content=True)
        if not piece:
            break
        content += piece
    return bytes(content)


def _brief(error: Exception) -> str:
    if isinstance(error, requests.exceptions.Timeout):
        return "no response in time"
    if isinstance(error, requests.exceptions.ConnectionError):
        return "cannot be reached"
    return str(error)
