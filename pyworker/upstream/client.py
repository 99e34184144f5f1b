"""The pooled Session that forwards to the model server, and a client on it whose calls can be aborted."""

from __future__ import annotations

import functools
from http.cookiejar import DefaultCookiePolicy
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

import requests

from pyworker.data_types import WITHOUT_BODY
from pyworker.errors import ModelTimeout, ModelUnreachable
from pyworker.runtime.redaction import redacted
from pyworker.upstream.adapter import ModelAdapter, ModelRequest, Trace
from pyworker.upstream.call import ModelCall
from pyworker.upstream.encoding import JSON, encode
from pyworker.upstream.faults import describe
from pyworker.upstream.origin import Origin

_CONNECT_TIMEOUT = 5.0
# A bound, because clients choose the paths of their sessions' callbacks.
_CACHED_PATHS = 64
NOTHING_LEFT_OUT: frozenset[str] = frozenset()


class ModelSession(requests.Session):
    """A `requests.Session` whose relative URLs go to the model server; thread-safe for plain calls.

    It follows no redirects unless a call asks for it, keeps no cookies, and takes no proxy from the
    environment.
    """

    def __init__(self, base_url: str, adapter: ModelAdapter) -> None:
        super().__init__()
        self.base_url = base_url.rstrip("/")
        self.trust_env = False
        self.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
        self.mount(self.base_url + "/", adapter)

    def request(self, method: str | bytes, url: str | bytes, *args: Any, **kwargs: Any) -> requests.Response:
        """As `requests.Session.request`; a URL without a host belongs to the model server."""
        kwargs.setdefault("allow_redirects", False)
        text = url.decode() if isinstance(url, bytes) else url
        return super().request(method, self.absolute(text), *args, **kwargs)

    def get(self, url: str | bytes, **kwargs: Any) -> requests.Response:
        """As `requests.Session.get`, which would follow redirects."""
        return self.request("GET", url, **kwargs)

    def options(self, url: str | bytes, **kwargs: Any) -> requests.Response:
        """As `requests.Session.options`, which would follow redirects."""
        return self.request("OPTIONS", url, **kwargs)

    def send(
        self, request: requests.PreparedRequest, *, timeout: Any = None, **kwargs: Any
    ) -> requests.Response:
        """As `requests.Session.send`, but a `ModelRequest` costs no more than its adapter.

        It has no redirects, cookies or hooks.
        """
        if not isinstance(request, ModelRequest):
            return super().send(request, timeout=timeout, **kwargs)
        adapter = self.get_adapter(request.url or "")
        if isinstance(adapter, ModelAdapter):
            return adapter.send(request, True, timeout)
        # Mounted by a worker's author. A call on it cannot be aborted before its response.
        return super().send(request.full(), timeout=timeout, stream=True, allow_redirects=False)

    def absolute(self, path: str) -> str:
        """The full URL of a path on the model server."""
        return self.base_url + path if path.startswith("/") else urljoin(self.base_url + "/", path)


class ModelClient:
    """Forwards JSON to the model server. Thread-safe.

    timeout: seconds of silence that end a call, None for no limit; pool_size: connections kept; ca_file:
    certificates that may sign the model server's. Raises `ConfigError` for a URL that cannot be called.
    """

    def __init__(
        self,
        base_url: str,
        *,
        api_key: str,
        timeout: float | None,
        pool_size: int,
        ca_file: Path | None = None,
    ) -> None:
        self._origin = Origin(base_url, ca_file)
        self.session = ModelSession(
            base_url, ModelAdapter(self._origin, api_key=api_key, pool_size=pool_size)
        )
        self.base_url = self.session.base_url
        #: Seconds of silence that end a call; None for no limit.
        self.timeout = timeout
        self._template = functools.lru_cache(maxsize=_CACHED_PATHS)(self._make_template)

    def post(
        self, path: str, payload: object, call: ModelCall, *, timeout: float | None = None
    ) -> requests.Response:
        """`forward` of what `encode` makes of the payload."""
        return self.forward(path, encode(payload), call, timeout=timeout)

    def forward(
        self,
        path: str,
        body: bytes,
        call: ModelCall,
        *,
        method: str = "POST",
        content_type: str = JSON,
        timeout: float | None = None,
        trace: Trace = (),
        left_out: frozenset[str] = NOTHING_LEFT_OUT,
    ) -> requests.Response:
        """Send a request; returns when the header block of the response has arrived. trace: more header
        fields; left_out: those, in lower case, that are not added as for any request.

        Raises `ModelUnreachable`, `ModelTimeout`, or `pyworker.upstream.call.Aborted`. A redirect to the
        instance itself is `ModelUnreachable`: no client could follow it.
        """
        limit = self.timeout if timeout is None else timeout
        try:
            # Each form has a boundary of its own, so its template is not kept.
            is_form = content_type.startswith("multipart/")
            make = self._make_template if is_form else self._template
            request = ModelRequest(make(path, method, content_type, left_out), body, call, trace)
            response = self.session.send(request, timeout=limit)
        except requests.exceptions.Timeout as error:
            raise ModelTimeout(str(error)) from error
        except requests.exceptions.RequestException as error:
            raise ModelUnreachable(str(error)) from error
        if 300 <= response.status_code < 400:
            inner = self._origin.inner_target(response.raw.headers.getlist("Location"))
            if inner:
                response.close()
                raise ModelUnreachable(
                    f"the model server answered {response.status_code} with a redirect to {inner}, "
                    "which only this instance can reach"
                )
        return response

    def connection_problem(self) -> str:
        """Empty if the model server accepts a connection, else why not."""
        try:
            self._origin.connect(lambda _: None, _CONNECT_TIMEOUT).close()
        except OSError as error:
            return f"{redacted(self.base_url)} cannot be reached ({describe(error)})"
        return ""

    def _make_template(
        self, path: str, method: str, content_type: str, left_out: frozenset[str]
    ) -> requests.PreparedRequest:
        headers = {"Accept": "*/*", "Accept-Encoding": "identity", "User-Agent": "pyworker"}
        headers = {name: value for name, value in headers.items() if name.lower() not in left_out}
        if method not in WITHOUT_BODY:
            headers = {"Content-Type": content_type, **headers}
        template = requests.Request(method, self.session.absolute(path), headers=headers).prepare()
        template.headers.pop("Content-Length", None)  # that of an empty body
        return template

    def close(self) -> None:
        """Close the idle connections."""
        self.session.close()

    def __repr__(self) -> str:
        return f"<ModelClient {self._origin!r}>"
