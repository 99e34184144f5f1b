"""The routes: each has the same path on the model server, but for `/job`."""

from __future__ import annotations

import json
import socket
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar
from urllib.parse import urlsplit

import flask
import requests
from pydantic import Field
from typing_extensions import Self

from pyworker import responses
from pyworker.backend import Backend
from pyworker.data_types import (
    ApiPayload,
    Dialect,
    EndpointHandler,
    Form,
    HiddenEvents,
    LogAction,
    OpenPayload,
    Priority,
)
from pyworker.errors import Unprocessable
from pyworker.jobs import Job, JobHandler
from pyworker.routes import Delete, Get, Patch, Post, Put, worker
from pyworker.runtime.sample import ResponseSample
from pyworker.runtime.thread_pool import waiting
from tests.support.stack import LOADED_LINE

POLL = 0.01  # seconds between two looks at a job


@dataclass
class Chat(OpenPayload):
    """A prompt with the longest response in tokens."""

    max_tokens: Annotated[int, Field(ge=1)] | None = None

    @classmethod
    def for_test(cls) -> Self:
        return cls(100)

    def count_workload(self) -> float:
        return self.max_tokens or 500


@dataclass
class Declared(ApiPayload):
    """Only what is declared goes to the model server."""

    prompt: str

    @classmethod
    def for_test(cls) -> Self:
        return cls("a prompt")

    def count_workload(self) -> float:
        return 1.0


@dataclass
class Picture(Chat):
    """A picture that goes to the model server as a file."""

    image: str = ""
    form: Form | None = None

    @classmethod
    def from_form(cls, form: Form) -> Self:
        return cls(form=form)

    def generate_payload_multipart(self) -> Form | None:
        return self.form


class ChatHandler(EndpointHandler[Chat]):
    """Its responses tell the tokens that were generated. The event that only tells them is hidden."""

    dialect = Dialect.OPENAI
    path = "/chat"

    @property
    def endpoint(self) -> str:
        return self.path

    @classmethod
    def payload_cls(cls) -> type[Chat]:
        return Chat

    def make_benchmark_payload(self) -> Chat:
        return Chat(100)

    def generate_client_response(
        self, client_request: flask.Request, model_response: requests.Response
    ) -> flask.Response:
        return responses.pass_through(model_response)

    def hidden_events(self, payload: Chat) -> HiddenEvents | None:
        return HiddenEvents(b'"usage"', _is_usage) if payload.sent.get("hide") else None

    def count_work(self, response: ResponseSample) -> float | None:
        if response.end == b"count_work fails":
            raise RuntimeError("a fault of count_work")
        if not response.is_complete:
            return response.events
        if response.events:
            last = response.end.strip().split(b"\n\n")[-2]
            return float(json.loads(last.removeprefix(b"data: "))["usage"]["completion_tokens"])
        return float(json.loads(response.beginning)["usage"]["completion_tokens"])


class PictureHandler(ChatHandler):
    path = "/picture"

    @classmethod
    def payload_cls(cls) -> type[Chat]:
        return Picture


def _is_usage(event: bytes) -> bool:
    return json.loads(event.strip().removeprefix(b"data: ")).get("choices") == []


class WorkHandler(JobHandler[Chat]):
    """A job: started at `/start`, polled at `/state` until it is done, stopped at `/stop`. Serial."""

    @property
    def endpoint(self) -> str:
        return "/job"

    @classmethod
    def payload_cls(cls) -> type[Chat]:
        return Chat

    def make_benchmark_payload(self) -> Chat:
        return Chat(100)

    def perform(self, payload: Chat, job: Job) -> flask.Response:
        if payload.sent.get("impossible"):
            raise Unprocessable("an impossible job")
        started = job.send("POST", "/start", json=payload.generate_payload_json(), starts=True)
        if started.status_code != 200:
            return job.respond({"error": "not started"}, started.status_code)
        with job.on_cancel(lambda: job.send("POST", "/stop", json={})):
            while (state := job.send("GET", "/state").json())["state"] != "done":
                if state["state"] == "listening":
                    _listen(job, state["url"])
                job.progress(state.get("step", 0), 10)
                job.wait(POLL)
        job.settle(float(state.get("work", 7)))
        return job.respond({"result": state})


class SilentHandler(WorkHandler):
    """A job that is never heard of again."""

    @property
    def endpoint(self) -> str:
        return "/silent"

    def perform(self, payload: Chat, job: Job) -> flask.Response:
        with job.on_cancel(lambda: job.send("POST", "/stop", json={})):
            while True:
                job.wait(60)


def _listen(job: Job, url: str) -> None:
    """Wait for a byte on a connection of the job's own."""
    parts = urlsplit(url)
    with socket.create_connection((parts.hostname or "", parts.port or 0)) as connection:
        connection.sendall(b"GET /events HTTP/1.1\r\nHost: model\r\n\r\n")
        with job.holding(connection), waiting:
            if not connection.recv(1):
                raise ConnectionError("the connection has ended")


class ToldHandler(responses.PassThrough, EndpointHandler[Chat]):
    """Serial; the model server is told of a client that has gone."""

    allow_parallel_requests = False
    timeout = 30  # seconds: a test may hold it for longer than MODEL_TIMEOUT

    @property
    def endpoint(self) -> str:
        return "/told"

    @classmethod
    def payload_cls(cls) -> type[Chat]:
        return Chat

    def make_benchmark_payload(self) -> Chat:
        return Chat(100)

    def on_cancel(self, payload: Chat, job: Job) -> None:
        job.send("POST", "/interrupt", json={"of": payload.sent["prompt"]})


class ToldParallelHandler(ToldHandler):
    allow_parallel_requests = True

    @property
    def endpoint(self) -> str:
        return "/told-parallel"


class LookingHandler(ToldHandler):
    """Its response repeats a field of the payload."""

    allow_parallel_requests = True

    @property
    def endpoint(self) -> str:
        return "/looking"

    def generate_client_response(
        self,
        client_request: flask.Request,
        model_response: requests.Response,
        payload: Chat | None = None,
    ) -> flask.Response:
        assert payload is not None
        response = responses.pass_through(model_response)
        response.headers["X-Max-Tokens"] = str(payload.max_tokens)
        return response


class ForgetfulHandler(ToldHandler):
    """Returns no response, which its source does not show."""

    allow_parallel_requests = True
    made: ClassVar[Any] = None

    @property
    def endpoint(self) -> str:
        return "/forgetful"

    def generate_client_response(
        self, client_request: flask.Request, model_response: requests.Response
    ) -> flask.Response:
        return self.made


def read_first(model_response: requests.Response) -> flask.Response:
    """The body is read, and passed on all the same."""
    assert model_response.content is not None
    return responses.pass_through(model_response)


def read_and_stream(model_response: requests.Response) -> flask.Response:
    assert model_response.content is not None
    return responses.stream(model_response)


def read_in_pieces(model_response: requests.Response) -> flask.Response:
    """Nothing is left to pass on."""
    assert list(model_response.iter_content(2))
    return responses.pass_through(model_response)


def describe(payload: Chat, job: Job) -> flask.Response:
    """Two calls, one response."""
    first = job.send("POST", "/first", json=payload.generate_payload_json()).json()
    second = job.send("GET", "/second").json()
    return job.respond({**first, **second})


def _echo(path: str, **options: Any) -> Post:
    return Post(path, Chat, **options)


create_backend, _create_blueprint = worker(
    "http://127.0.0.1:5001",
    _echo("/pass", benchmark={"prompt": "of the benchmark", "max_tokens": 10}, runs=2, concurrency=3),
    ChatHandler(),
    PictureHandler(),
    WorkHandler(allow_parallel_requests=False),
    SilentHandler(allow_parallel_requests=False),
    Get("/models"),
    Get("/files/<file_id>", pass_headers=("Accept-Language", "Accept")),
    Get("/trees/<path:place>"),
    Delete("/files/<file_id>"),
    Put("/files/<file_id>/text", Chat),
    Patch("/files/<file_id>/text", Chat),
    Post("/files/<file_id>/copy", workload=7),
    Get("/open", open=True),
    Post("/free", Chat, open=True),
    Post("/quick", Chat, timeout=0.5),
    Post("/read", Chat, respond=read_first),
    Post("/read/streamed", Chat, respond=read_and_stream),
    Post("/read/in-pieces", Chat, respond=read_in_pieces),
    Post("/first-rank", Chat, parallel=False, timeout=30, priority=Priority.HIGH),
    Post("/last-rank", Chat, parallel=False, timeout=30, priority=Priority.LOW),
    Post("/described", Chat, perform=describe),
    Post("/declared", Declared),
    ToldHandler(),
    ToldParallelHandler(),
    LookingHandler(),
    ForgetfulHandler(),
    log=[(LogAction.ModelLoaded, LOADED_LINE)],
    parallel=True,
    max_open=2,
)


def create_blueprint(backend: Backend) -> flask.Blueprint:
    """The routes, and views of this worker's own."""
    blueprint = _create_blueprint(backend)

    @blueprint.post("/views/<name>")
    @backend.counted_view(Chat)
    def named_view(payload: Chat, job: Job, name: str) -> flask.Response:  # pyright: ignore[reportUnusedFunction]
        answer = backend.session.post("/first", json=payload.generate_payload_json())
        job.settle(5)
        return job.respond({"name": name, "model": answer.json()})

    @blueprint.get("/plain-view")
    def plain_view() -> flask.Response:  # pyright: ignore[reportUnusedFunction]
        return responses.json_response(backend.session.get("/second?secret=1", timeout=0.5))

    return blueprint
