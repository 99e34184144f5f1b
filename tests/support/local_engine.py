"""What a test says to a local model server with the API of an LLM engine."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import requests

from pyworker.local.model_server import ModelServer
from tests.support.waiting import DEADLINE


def post(server: ModelServer, path: str, **fields: object) -> requests.Response:
    """One request with a JSON body."""
    return requests.post(server.url + path, json=fields, timeout=DEADLINE)


def good(server: ModelServer, path: str, **fields: object) -> Any:
    """The JSON of a response with status 200."""
    response = post(server, path, **fields)
    assert response.status_code == 200, response.text
    return response.json()


def post_form(
    server: ModelServer, path: str, files: Mapping[str, tuple[str, bytes, str]], **fields: str
) -> requests.Response:
    """One multipart request. files: name, bytes and content type by their field."""
    return requests.post(server.url + path, data=fields, files=files, timeout=DEADLINE)


@dataclass(frozen=True)
class Events:
    """A stream: the names of its events (empty if they have none) and their data, parsed unless `[DONE]`."""

    names: list[str]
    data: list[Any]

    @classmethod
    def of(cls, body: bytes | str) -> Events:
        """Fails if anything but whole events is in it."""
        text = body if isinstance(body, str) else body.decode()
        pieces = text.split("\n\n")
        assert pieces.pop() == "", f"the last event has no end: {text[-200:]!r}"
        names: list[str] = []
        data: list[Any] = []
        for piece in pieces:
            *name, line = piece.split("\n")
            assert line.startswith("data:"), piece
            names.append(name[0].removeprefix("event: ") if name else "")
            found = line.removeprefix("data:").removeprefix(" ")
            data.append(found if found == "[DONE]" else json.loads(found))
        return cls(names, data)


def stream(server: ModelServer, path: str, **fields: object) -> Events:
    """The events of a response with status 200."""
    response = post(server, path, **fields)
    assert response.status_code == 200, response.text
    assert response.headers["Content-Type"].startswith("text/event-stream")
    return Events.of(response.content)
