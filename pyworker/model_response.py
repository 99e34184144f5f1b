"""The model server's answer as handlers get it: a `requests.Response`, made only as far as it is looked at.

What urllib3 and requests make of an answer (dictionaries of headers, a jar of cookies, a decoder) takes
longer than to read it, and most handlers pass the answer on without a look.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any, cast

import requests
from urllib3 import HTTPHeaderDict, HTTPResponse

from pyworker.answer import Answer


class Body(HTTPResponse):
    """The answer as urllib3 shows it: `Response.raw`."""

    def __init__(self, answer: Answer, method: str) -> None:
        super().__init__(
            body=cast("Any", answer),
            headers=HTTPHeaderDict(answer.msg.items()),
            status=answer.head.status,
            version=answer.head.version,
            reason=answer.head.reason,
            preload_content=False,
            decode_content=False,
            original_response=cast("Any", answer),
            enforce_content_length=True,
            request_method=method,
        )

    def stream(
        self, amt: int | None = 2**16, decode_content: bool | None = None
    ) -> Generator[bytes, None, None]:
        """Each piece as it comes, of at most `amt` bytes, whatever the framing."""
        while piece := self.read1(amt, decode_content):
            yield piece

    def release_conn(self) -> None:
        """Called by urllib3 when it closes its file; the answer gives the connection itself back."""


class ModelResponse(requests.Response):
    """Behaves as its base does. Where only status and `answer` are used, nothing else is ever made."""

    def __init__(self, answer: Answer, build: Callable[[], requests.Response]) -> None:
        """build: make the response in full; called once at most."""
        # Not the base's, which would make what `__getattr__` leaves for later.
        self.answer = answer
        self.status_code = answer.head.status
        self._content: Any = False
        self._build: Callable[[], requests.Response] | None = build

    def __getattr__(self, name: str) -> Any:
        """Called for what is not there yet."""
        build = self.__dict__.get("_build")
        if build is None:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        self._build = None
        # What was set in the meantime stays.
        self.__dict__ = {**vars(build()), **self.__dict__}
        return getattr(self, name)

    def close(self) -> None:
        """Read no more of the answer; its connection is used again where it was read to its end."""
        if self._build is None:
            super().close()
        else:
            self.answer.close()
