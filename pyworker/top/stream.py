"""The server-sent events behind the page of a worker or a fleet, over HTTP."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Literal

import requests

from pyworker.errors import PyworkerError
from pyworker.runtime import server_sent_events
from pyworker.runtime.redaction import redacted
from pyworker.runtime.urls import can_be_called

Kind = Literal["worker", "fleet"]

_PATHS: dict[Kind, str] = {"worker": "/status/events", "fleet": "/events"}
#: The sections without which there is nothing to show.
WHOLE: dict[Kind, set[str]] = {"worker": {"status", "minute", "requests", "lines"}, "fleet": {"fleet"}}
_CONNECT_SECONDS = 5.0
# A section changes each second.
_SILENCE_SECONDS = 10.0
_MAX_ERROR = 4096


class TopError(PyworkerError):
    """Nothing can be shown; says why, and what to do."""


class Disconnected(TopError):
    """There is no connection, or no more: it may help to try again."""


class Stream:
    """What a server tells of itself. Belongs to one thread."""

    def __init__(self, url: str, token: str = "", ca_file: str = "") -> None:
        """url: of a worker or a local autoscaler. Raises `TopError` if it is none, or the file is."""
        self.url = _base(url)
        self.kind: Kind | None = None
        self._token = token
        self._session = requests.Session()
        # The token goes to this host, and neither .netrc nor a proxy of the environment is asked.
        self._session.trust_env = False
        if ca_file:
            if not Path(ca_file).is_file():
                raise TopError(f"--ca: there is no file {ca_file}")
            self._session.verify = ca_file

    def sections(self) -> Iterator[tuple[str, object]]:
        """Name and value of each section when it changes, all of them at first. `kind` is known then.

        Ends if the server ends it. Raises `TopError`.
        """
        with closing(self._open()) as response:
            try:
                yield from server_sent_events.read(_pieces(response))
            except ValueError as error:
                raise TopError(f"{self._shown} sent what is no event: {error}") from error
            except (requests.RequestException, OSError) as error:
                raise Disconnected(f"{self._shown} broke off") from error

    def close(self) -> None:
        self._session.close()

    def _open(self) -> requests.Response:
        for kind, path in _PATHS.items():
            if self.kind not in (None, kind):
                continue
            response = self._get(path)
            if response.status_code == 404 and self.kind is None:
                response.close()
                continue
            is_stream = response.headers.get("Content-Type", "").startswith(server_sent_events.CONTENT_TYPE)
            if response.status_code == 200 and is_stream:
                self.kind = kind
                return response
            raise self._refused(response)
        raise TopError(f"{self._shown} is neither a worker nor a local autoscaler (of this version)")

    def _get(self, path: str) -> requests.Response:
        fields = {"Accept": server_sent_events.CONTENT_TYPE}
        if self._token:
            fields["Authorization"] = f"Bearer {self._token}"
        try:
            return self._session.get(
                self.url + path,
                headers=fields,
                stream=True,
                timeout=(_CONNECT_SECONDS, _SILENCE_SECONDS),
                allow_redirects=False,
            )
        except requests.exceptions.SSLError as error:
            raise TopError(
                f"the certificate of {self._shown} is not trusted: name its root certificate with --ca FILE"
            ) from error
        except (requests.RequestException, OSError, ValueError) as error:
            raise Disconnected(
                f"cannot connect to {self._shown}: {_cause(error)}; is it running, and is this its port?"
            ) from error

    def _refused(self, response: requests.Response) -> TopError:
        status = response.status_code
        with closing(response):
            if status == 401 and self._token:
                return TopError(f"{self._shown} refused this token: it is not the worker's MASTER_TOKEN")
            if status == 401:
                return TopError(
                    f"{self._shown} tells this to those who have the worker's MASTER_TOKEN only: set "
                    "MASTER_TOKEN, or give --token"
                )
            if status == 429:
                return Disconnected(f"{self._shown} is watched by as many as may; close a page or a top")
            return TopError(f"{self._shown} responded with status {status}")

    @property
    def _shown(self) -> str:
        return redacted(self.url)

    def __repr__(self) -> str:
        return f"<Stream {self._shown} of {self.kind or 'an unknown server'}>"


def _base(url: str) -> str:
    """Without the path of the page."""
    full = url if "://" in url else f"http://{url}"
    if not can_be_called(full):
        raise TopError(f"not a URL of a worker or an autoscaler: {redacted(url)}")
    return full.partition("?")[0].partition("#")[0].rstrip("/").removesuffix("/status")


def _pieces(response: requests.Response) -> Iterator[bytes]:
    """What arrives. Raises TimeoutError if it is silent, or drips, for too long."""
    heard = time.monotonic()
    for piece in response.iter_content(None):
        now = time.monotonic()
        if b"data:" in piece:
            heard = now
        elif now - heard > _SILENCE_SECONDS:
            raise TimeoutError("no event has come to its end")
        yield piece


def _cause(error: BaseException) -> str:
    """The innermost reason, in words."""
    seen: BaseException = error
    while (inner := seen.__cause__ or seen.__context__) is not None:
        seen = inner
    if isinstance(seen, OSError) and seen.strerror:
        return seen.strerror.lower()
    return "it did not respond in time" if isinstance(error, requests.Timeout) else type(seen).__name__
