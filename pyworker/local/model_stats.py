"""What a local model server was asked and what it has generated, for tests to compare with."""

from __future__ import annotations

import hashlib
import json
import threading
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import flask
from werkzeug.datastructures import FileStorage

MOST_REQUESTS = 1000
MOST_BYTES = 16 * 1024 * 1024
"""Of the bodies of the requests that are kept; the oldest are forgotten first."""


@dataclass(frozen=True)
class SeenFile:
    """A file of a multipart request. sha256: of its bytes, in hex."""

    field: str
    filename: str
    content_type: str
    size: int
    sha256: str


@dataclass(eq=False)
class SeenRequest:
    """A request as it arrived, and what came of it.

    fields: the JSON body, or the text fields of a multipart one as pairs. size: of the body, in bytes.
    ending: done, cut or failed; empty while it runs, and if nothing was generated.
    """

    method: str
    path: str
    headers: Sequence[tuple[str, str]]
    fields: Any
    files: Sequence[SeenFile]
    size: int
    prompt_tokens: int = 0
    completion_tokens: int = 0
    ending: str = ""

    def header(self, name: str) -> str | None:
        """The first header of this name, whatever its case."""
        return next((value for key, value in self.headers if key.lower() == name.lower()), None)


@dataclass(eq=False)
class ModelStats:
    """Totals since the start, and the latest requests. Thread-safe."""

    # Guards the totals, the table of requests and what is written into a `SeenRequest`.
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _requests: deque[SeenRequest] = field(default_factory=lambda: deque[SeenRequest]())
    _bytes: int = 0
    _prompt_tokens: int = 0
    _completion_tokens: int = 0

    @property
    def prompt_tokens(self) -> int:
        """Tokens of all prompts that were generated from."""
        with self._lock:
            return self._prompt_tokens

    @property
    def completion_tokens(self) -> int:
        """Tokens generated, those of responses that were cut included."""
        with self._lock:
            return self._completion_tokens

    def requests(self, path: str | None = None) -> list[SeenRequest]:
        """The latest ones, oldest first."""
        with self._lock:
            return [request for request in self._requests if path in (None, request.path)]

    def see(self, request: flask.Request) -> SeenRequest:
        """Keep a request; its body is read."""
        seen = _seen(request)
        with self._lock:
            self._requests.append(seen)
            self._bytes += seen.size
            while len(self._requests) > MOST_REQUESTS or self._bytes > MOST_BYTES:
                self._bytes -= self._requests.popleft().size
        return seen

    def prompt(self, seen: SeenRequest, tokens: int) -> None:
        """A prompt of so many tokens is taken in."""
        with self._lock:
            seen.prompt_tokens += tokens
            self._prompt_tokens += tokens

    def end(self, seen: SeenRequest, ending: str, tokens: int) -> None:
        """A generation has ended after so many tokens."""
        with self._lock:
            seen.completion_tokens += tokens
            seen.ending = ending
            self._completion_tokens += tokens

    def as_json(self) -> Mapping[str, object]:
        """The body of `GET /stats`."""
        with self._lock:
            return {
                "prompt_tokens": self._prompt_tokens,
                "completion_tokens": self._completion_tokens,
                "requests": [asdict(request) for request in self._requests],
            }

    def __repr__(self) -> str:
        with self._lock:
            return f"<ModelStats [{len(self._requests)} requests, {self._completion_tokens} tokens]>"


def _seen(request: flask.Request) -> SeenRequest:
    # The whole body first: the form is parsed from what is kept of it then.
    size = len(request.get_data())
    return SeenRequest(
        method=request.method,
        path=request.path,
        headers=list(request.headers.items()),
        fields=_fields(request),
        files=[_file(name, upload) for name, upload in request.files.items(multi=True)],
        size=size,
    )


def _fields(request: flask.Request) -> Any:
    if request.mimetype == "multipart/form-data":
        return list(request.form.items(multi=True))
    try:
        return json.loads(request.get_data())
    except (ValueError, RecursionError):  # the latter for a body of a hundred thousand brackets
        return None  # the route will say so


def _file(name: str, upload: FileStorage) -> SeenFile:
    data = upload.stream.read()
    upload.stream.seek(0)  # the route reads it too
    digest = hashlib.sha256(data).hexdigest()
    return SeenFile(name, upload.filename or "", upload.content_type or "", len(data), digest)
