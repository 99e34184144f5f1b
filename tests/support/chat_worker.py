"""A worker with a route for chats and with sessions, which keeps all that came."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import flask
from typing_extensions import Self

from pyworker.local.serving import LocalServer
from tests.support.waiting import DEADLINE


@dataclass
class Asked:
    """One request to `/chat`. Monotonic moments; ended: when its answer was made."""

    payload: dict[str, Any]
    session: str | None
    arrived: float
    ended: float = 0.0
    answer: str = ""

    @property
    def messages(self) -> list[dict[str, Any]]:
        return self.payload["messages"]


@dataclass
class ChatWorker:
    """Answers `answer N` to the Nth request, whole or streamed as the payload says. A cleared `gate` holds
    the answers. Takes an envelope, or a bare payload. Any thread may call any method.

    slow: seconds for the first answer of a conversation. faults: statuses of requests by their number.
    has_sessions: else 404.
    """

    slow: float = 0.0
    faults: dict[int, int] = field(default_factory=dict[int, int])
    has_sessions: bool = True

    def __post_init__(self) -> None:
        self.gate = threading.Event()
        self.gate.set()
        # Guards the fields below.
        self._lock = threading.Lock()
        self.asked: list[Asked] = []
        self.created: list[float] = []
        """Lifetimes; the sessions are named by their number."""
        self.ended: list[str] = []
        app = flask.Flask("chat-worker")
        app.add_url_rule("/chat", view_func=self._chat, methods=["POST"])
        if self.has_sessions:
            app.add_url_rule("/session/create", view_func=self._create, methods=["POST"])
            app.add_url_rule("/session/end", view_func=self._end, methods=["POST"])
        self._server = LocalServer(app, name="chat-worker")

    def __enter__(self) -> Self:
        self._server.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self.gate.set()
        self._server.stop()

    @property
    def url(self) -> str:
        return self._server.url

    def conversations(self) -> list[list[Asked]]:
        """The requests of each, told apart by the first message; in order."""
        with self._lock:
            found: dict[str, list[Asked]] = {}
            for asked in self.asked:
                found.setdefault(asked.messages[0]["content"], []).append(asked)
        return list(found.values())

    def open_sessions(self) -> set[str]:
        """Those that were created and not ended."""
        with self._lock:
            return {str(number) for number in range(len(self.created))} - set(self.ended)

    def _create(self) -> tuple[dict[str, Any], int]:
        lifetime = json.loads(flask.request.get_data())["payload"]["lifetime"]
        with self._lock:
            self.created.append(lifetime)
            return {"session_id": str(len(self.created) - 1), "expiration": 0}, 201

    def _end(self) -> dict[str, Any]:
        name = json.loads(flask.request.get_data())["session_id"]
        with self._lock:
            self.ended.append(name)
        return {"ended": True, "removed_session": name}

    def _chat(self) -> flask.Response:
        body = json.loads(flask.request.get_data())
        asked = Asked(body.get("payload", body), body.get("session_id"), time.monotonic())
        with self._lock:
            number = len(self.asked)
            asked.answer = f"answer {number}"
            self.asked.append(asked)
        assert self.gate.wait(DEADLINE)
        if len(asked.messages) == 1:
            threading.Event().wait(self.slow)
        asked.ended = time.monotonic()
        if number in self.faults:
            return flask.Response("{}", self.faults[number])
        if asked.payload.get("stream"):
            return flask.Response(_events(asked.answer), mimetype="text/event-stream")
        message = {"role": "assistant", "content": asked.answer}
        text = json.dumps({"choices": [{"index": 0, "message": message}], "text": f"other {number}"})
        return flask.Response(text, mimetype="application/json")

    def __repr__(self) -> str:
        with self._lock:
            return f"<ChatWorker {self.url} [{len(self.asked)} asked, {len(self.created)} sessions]>"


def _events(answer: str) -> Iterator[str]:
    for delta in ({"role": "assistant"}, *({"content": piece} for piece in answer)):
        yield f"data: {json.dumps({'choices': [{'index': 0, 'delta': delta}]})}\n\n"
    yield f"data: {json.dumps({'choices': [], 'usage': {'completion_tokens': len(answer)}})}\n\n"
    yield "data: [DONE]\n\n"
