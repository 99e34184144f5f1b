"""Workers in front of a stand-in of an engine, and what a test says to them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from pyworker.local.autoscaler import Autoscaler
from pyworker.local.model_server import ModelServer
from pyworker.local.openai_api.api import OpenAIApi
from pyworker.local.signing import Signer
from tests.support.http import Answer, RawClient, ask, next_request_idx
from tests.support.leaks import share_port, unshare_port
from tests.support.scripted import ScriptedServer
from tests.support.stack import Stack
from tests.support.waiting import DEADLINE
from workers.openai.routes import ROUTES

#: Of a client that comes without an envelope.
DOOR_KEY = "sk-key-of-a-user"
LOADED = "INFO:     Application startup complete."
ALL_ROUTES = ",".join(ROUTES)


class OpenAIStack(Stack):
    """A worker with OpenAI's routes; `model` is scripted, unless MODEL_SERVER_URL names another."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._admitted = 0

    def call(self, route: str, payload: Mapping[str, Any], request_idx: int | None = None) -> Answer:
        """One good request in an envelope, answered. route: such as `completions`."""
        answer = ask(self.url, "POST", f"/v1/{route}", self.enveloped(payload, request_idx))
        self._admitted += answer.status != 422
        return answer

    def call_plain(self, route: str, body: bytes, content_type: str = "application/json") -> Answer:
        """One request as OpenAI's clients send it; once it was served, it is reported."""
        headers = {"Authorization": f"Bearer {DOOR_KEY}", "Content-Type": content_type}
        before = self.settled_work()
        answer = ask(self.url, "POST", f"/v1/{route}", body, headers)
        if answer.status == 200:
            self.wait_for_report(lambda _: self.work > before, "the work of a plain request")
        return answer

    def open_route(self, route: str, payload: Mapping[str, Any], request_idx: int) -> RawClient:
        """One good request in an envelope, sent; the rest is the caller's."""
        client = RawClient(self.url)
        client.post(f"/v1/{route}", self.enveloped(payload, request_idx))
        self._admitted += 1
        return client

    def enveloped(self, payload: Mapping[str, Any], request_idx: int | None = None) -> bytes:
        """The body of a signed request."""
        auth_data = self.auth_data(request_idx=next_request_idx() if request_idx is None else request_idx)
        return json.dumps({"auth_data": auth_data, "payload": payload}).encode()

    @property
    def work(self) -> float:
        """The work that the reports so far call served."""
        return sum(report["cur_perf"] for report in self.reports)

    def settled_work(self) -> float:
        """The same, once every request so far has ended and was reported."""

        def is_settled(_: object) -> bool:
            last = self.reports[-1]
            is_idle = last["num_requests_working"] == last["cur_load"] == 0
            return bool(is_idle and last["num_requests_recieved"] >= self._admitted)

        found = self.autoscaler.fleet.wait_for(is_settled, DEADLINE)
        assert found, f"{self._admitted} requests are not settled by {self.reports[-1:]}"
        return self.work

    def settled(self, route: str, payload: Mapping[str, Any]) -> tuple[Answer, float]:
        """The response to one request, and the work that it is reported as."""
        before = self.settled_work()
        answer = self.call(route, payload)
        return answer, round(self.settled_work() - before, 6)


@contextmanager
def openai_stack(
    folder: Path,
    signer: Signer,
    variables: Mapping[str, str] | None = None,
    worker: str = "openai",
    benchmark: float | None = 1000.0,
) -> Generator[OpenAIStack]:
    """A ready worker, which several tests may share. benchmark: an earlier result; None to measure."""
    with Autoscaler(signer=signer) as autoscaler, ScriptedServer() as model:
        ports = {
            urlsplit(autoscaler.url).port or 0: "pyworker-autoscaler",
            model.port: f"scripted-{model.port}",
        }
        for port, prefix in ports.items():
            share_port(port, prefix)
        digest = hashlib.sha256(DOOR_KEY.encode()).hexdigest()
        own = {"OPENAI_API_KEY_DIGESTS": digest, **(variables or {})}
        stack = OpenAIStack(folder, autoscaler, model, own, f"pyworker:create_app('{worker}')")
        try:
            if benchmark is not None:
                stack.keep_benchmark(benchmark)
            stack.worker.say(LOADED)
            stack.worker.start()
            stack.wait_for_report(lambda report: report["max_perf"] > 0, "a report of a ready worker")
            stack.worker.wait_for_log("fetched the autoscaler's public key")
            yield stack
        finally:
            stack.worker.stop()
            for port in ports:
                unshare_port(port)


@pytest.fixture(scope="session", params=["vllm", "sglang"])
def engine(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModelServer]:
    """A stand-in of each, loaded."""
    log = tmp_path_factory.mktemp(request.param) / "model.log"
    with ModelServer(api=OpenAIApi(request.param), log_file=log, seed=1) as running:
        port = urlsplit(running.url).port or 0
        share_port(port, "pyworker-model")
        yield running
        unshare_port(port)


@pytest.fixture(scope="session")
def served(
    engine: ModelServer, tmp_path_factory: pytest.TempPathFactory, signing_key: Signer
) -> Iterator[OpenAIStack]:
    """A worker with every route in front of it."""
    variables = {"MODEL_SERVER_URL": engine.url, "OPENAI_ROUTES": ALL_ROUTES}
    with openai_stack(tmp_path_factory.mktemp("served"), signing_key, variables) as stack:
        yield stack


@pytest.fixture(scope="session")
def shared_raw(tmp_path_factory: pytest.TempPathFactory, signing_key: Signer) -> Iterator[OpenAIStack]:
    """A worker with every route in front of a scripted server."""
    variables = {"OPENAI_ROUTES": ALL_ROUTES, "MODEL_NAME": "model-of-the-worker"}
    with openai_stack(tmp_path_factory.mktemp("raw"), signing_key, variables) as stack:
        yield stack


@pytest.fixture
def raw(shared_raw: OpenAIStack) -> OpenAIStack:
    """That, with a model server that has no orders yet."""
    shared_raw.model.forget()
    return shared_raw
