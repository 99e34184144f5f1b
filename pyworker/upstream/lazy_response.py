"""The model server's response as handlers get it: a `requests.Response` whose parts are made on first use.

To make the objects of urllib3 and requests (header dictionaries, a cookie jar, a decoder) takes longer than
to read the response, and most handlers pass it on without looking at them.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any, cast

import requests
from urllib3 import HTTPHeaderDict, HTTPResponse

from pyworker.upstream.response_reader import ResponseReader


class RawResponse(HTTPResponse):
    """The response as urllib3 presents it: `Response.raw`."""

    def __init__(self, reader: ResponseReader, method: str) -> None:
        super().__init__(
            body=cast("Any", reader),
            headers=HTTPHeaderDict(reader.head.fields),
            status=reader.head.status,
            version=reader.head.version,
            reason=reader.head.reason,
            preload_content=False,
            decode_content=False,
            original_response=cast("Any", reader),
            enforce_content_length=True,
            request_method=method,
        )

    def stream(
        self, amt: int | None = 2**16, decode_content: bool | None = None
    ) -> Generator[bytes, None, None]:
        """Each piece as it comes, of at most `amt` bytes, in any framing."""
        while piece := self.read1(amt, decode_content):
            yield piece

    def release_conn(self) -> None:
        """Called by urllib3 when it closes its file; the reader itself returns the connection to the pool."""


class LazyResponse(requests.Response):
    """Behaves like its base. If only `status_code` and `reader` are used, nothing else is made."""

    def __init__(self, reader: ResponseReader, build: Callable[[], requests.Response]) -> None:
        """build: makes the full response; called at most once."""
        # Not the base's, which would make the attributes that `__getattr__` makes later.
        self.reader = reader
        self.status_code = reader.head.status
        self._content: Any = False
        self._build: Callable[[], requests.Response] | None = build

    def __getattr__(self, name: str) -> Any:
        """Called for attributes that have not been made."""
        build = self.__dict__.get("_build")
        if build is None:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        self._build = None
        # Attributes that were set in the meantime win.
        self.__dict__ = {**vars(build()), **self.__dict__}
        return getattr(self, name)

    def keep(self, content: bytes) -> None:
        """The body, which was read from `reader`: what `content` returns."""
        self._content = content

    def close(self) -> None:
        """Stop reading; the connection is reused if the body was read to its end."""
        if self._build is None:
            super().close()
        else:
            self.reader.close()
