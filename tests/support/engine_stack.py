"""A worker in front of a model server as people run it, and what a test says to both."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pyworker.local.autoscaler import Autoscaler
from pyworker.local.signing import Signer
from tests.support.engines import Engine
from tests.support.http import Answer, RawClient, ask, next_request_idx
from tests.support.leaks import share_port, unshare_port
from tests.support.sdk import API_KEY, ENDPOINT
from tests.support.stack import Stack
from tests.support.waiting import DEADLINE

#: Of a client that comes without an envelope.
DOOR_KEY = "sk-key-of-a-user"
DOOR_KEY_DIGEST = hashlib.sha256(DOOR_KEY.encode()).hexdigest()


@dataclass(frozen=True)
class Events:
    """The events of a stream, parsed; `done` tells whether `[DONE]` was the last."""

    objects: list[dict[str, Any]]
    done: bool

    @classmethod
    def of(cls, answer: Answer) -> Events:
        """Fails if anything but events of JSON is in the body."""
        assert (answer.header("Content-Type") or "").startswith("text/event-stream"), answer
        pieces = answer.body.decode().replace("\r\n", "\n").split("\n\n")
        assert pieces.pop() == "", f"the last event has no end: {answer.body[-200:]!r}"
        assert all(piece.startswith("data: ") for piece in pieces), answer.body
        data = [piece.removeprefix("data: ") for piece in pieces]
        done = data[-1:] == ["[DONE]"]
        return cls([json.loads(text) for text in data[: len(data) - done]], done)

    @property
    def text(self) -> str:
        """What was said in all, in whichever shape."""
        choices = [choice for event in self.objects for choice in event["choices"]]
        return "".join(
            choice.get("text") or choice.get("delta", {}).get("content") or "" for choice in choices
        )

    @property
    def usages(self) -> list[dict[str, Any]]:
        """Every `usage` that is no null."""
        return [event["usage"] for event in self.objects if event.get("usage")]


class EngineStack(Stack[Engine]):
    """A worker of OpenAI's API with its surroundings."""

    def __init__(
        self,
        folder: Path,
        autoscaler: Autoscaler,
        engine: Engine,
        worker: str,
        variables: Mapping[str, str] | None = None,
    ) -> None:
        """worker: the name of its package."""
        app = f"pyworker:create_app('{worker}')"
        own = {"MODEL_LOG": str(engine.log_file), "OPENAI_API_KEY_DIGESTS": DOOR_KEY_DIGEST}
        super().__init__(folder, autoscaler, engine, {**own, **(variables or {})}, app)

    def checks_signatures(self) -> bool:
        """Asked with a session that does not exist: that costs nothing, and nothing of it is counted."""
        body = {"auth_data": self.auth_data(), "payload": {"prompt": "", "input": ""}, "session_id": "none"}
        path = "/v1/embeddings" if self._serves_embeddings else "/v1/completions"
        return ask(self.url, "POST", path, json.dumps(body).encode()).status == 410

    @property
    def _serves_embeddings(self) -> bool:
        return self.variables.get("OPENAI_ROUTES") == "embeddings"

    def settled(self) -> float:
        """The work of all that has ended, as reported.

        A session that costs nothing is opened: the report that has it alone in hand comes after everything.
        """
        auth_data = self.auth_data(cost=0.0)
        session = self._ask("/session/create", {"auth_data": auth_data, "payload": {"lifetime": 60}})
        alone: list[float] = []

        def is_alone() -> bool:
            served = 0.0
            for report in self.reports:
                served += report["cur_perf"]
                # Those with an API key are in no list of indices.
                is_last = report["working_request_idxs"] == [auth_data["request_idx"]]
                if is_last and report["cur_load"] == 0:
                    alone.append(served)
                    return True
            return False

        found = self.autoscaler.fleet.wait_for(lambda _: is_alone(), DEADLINE)
        assert found, f"something is still in hand: {self.reports[-1:]}"
        self._ask("/session/end", {"session_id": session["session_id"], "session_auth": auth_data})
        return alone[0]

    def _ask(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        answer = ask(self.url, "POST", path, json.dumps(body).encode())
        assert answer.status in (200, 201), answer
        return answer.object()

    def call(self, path: str, payload: Mapping[str, Any], request_idx: int | None = None) -> Answer:
        """One good request in an envelope, answered."""
        return ask(self.url, "POST", path, self._enveloped(payload, request_idx))

    def begin(self, path: str, payload: Mapping[str, Any], request_idx: int) -> RawClient:
        """One good request in an envelope, sent; the rest is the caller's."""
        client = RawClient(self.url)
        client.post(path, self._enveloped(payload, request_idx))
        return client

    def _enveloped(self, payload: Mapping[str, Any], request_idx: int | None) -> bytes:
        auth_data = self.auth_data(request_idx=next_request_idx() if request_idx is None else request_idx)
        return json.dumps({"auth_data": auth_data, "payload": payload}).encode()


@contextmanager
def engine_stack(
    folder: Path,
    signer: Signer,
    engine: Engine,
    worker: str,
    variables: Mapping[str, str] | None = None,
    *,
    benchmark: float | None = 1000.0,
    ready: bool = True,
) -> Generator[EngineStack]:
    """A worker that several tests may share, which serves; if `ready` is False, it waits for its engine.

    benchmark: an earlier result; None to measure.
    """
    with Autoscaler(signer=signer, endpoints=[ENDPOINT], api_key=API_KEY) as autoscaler:
        port = urlsplit(autoscaler.url).port or 0
        share_port(port, "pyworker-autoscaler")
        stack = EngineStack(folder, autoscaler, engine, worker, variables)
        try:
            if benchmark is not None:
                stack.keep_benchmark(benchmark)
            stack.worker.start()
            if ready:
                stack.wait_ready()
            yield stack
        finally:
            stack.worker.stop()
            unshare_port(port)
