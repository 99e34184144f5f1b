"""`EndpointHandler`: one route of a worker; `LogAction`: what a line of the model's log means."""

from __future__ import annotations

from abc import ABC, ABCMeta, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from enum import Enum
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

from pyworker.data_types.payloads import Form, Payload
from pyworker.runtime.request_queue import Priority
from pyworker.runtime.sample import ResponseSample

if TYPE_CHECKING:
    import flask
    import requests

    from pyworker.jobs import Job

_Made = TypeVar("_Made")


@dataclass(frozen=True)
class HiddenEvents:
    """Events of a streamed response that are not passed on to the client.

    marker: only an event that holds these bytes is looked at; matches: whether such an event, as it was
    received, is hidden.
    """

    marker: bytes
    matches: Callable[[bytes], bool]


class Dialect(Enum):
    """What clients of a route speak beside the signed envelope."""

    ENVELOPE = "the envelope only"
    OPENAI = "the API of OpenAI: a plain body, an API key as bearer token, errors in its shape"


#: Methods of a route.
METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")
#: Those whose requests have no payload; their signature is in the header `X-Auth-Data`.
WITHOUT_BODY = frozenset({"GET", "DELETE"})


class _HandlerType(ABCMeta):
    """An option may also be set in the body of a class, as `allow_parallel_requests = True`."""

    def __call__(cls: type[_Made], *args: Any, **options: Any) -> _Made:
        made = type.__call__(cls, *args, **options)
        defaults = {option.name: option.default for option in fields(made)}
        for option in fields(EndpointHandler):
            name, of_class = option.name, getattr(cls, option.name)
            # `__init__` knows nothing of an attribute that is no field.
            if name not in options and getattr(made, name) == defaults[name] != of_class:
                setattr(made, name, of_class)
        return made


@dataclass(kw_only=True)
class EndpointHandler(ABC, Generic[Payload], metaclass=_HandlerType):
    """One route of the worker. An option that is None is taken from the `Backend`.

    benchmark_runs: rounds of the benchmark; benchmark_words: words of a benchmark prompt.
    allow_parallel_requests: False sends requests to the model one at a time, in order of arrival.
    max_queue_time: estimated wait in seconds above which a request is refused with 429, and the longest time
        that an admitted request may wait in the queue.
    concurrency: concurrent requests in a round of the benchmark.
    timeout: seconds until the model server's response has to begin, and of silence within it; None: as
        MODEL_TIMEOUT says.
    priority: in the queue of serial routes.
    pass_headers: header fields of the client's request that the model server gets.
    pass_query: whether the model server gets the query string.
    is_open: needs no signature. Whoever reaches the worker may call it, so few such requests run at once.
    """

    #: OPENAI also opens the route to clients with a key of OPENAI_API_KEY_DIGESTS.
    dialect: ClassVar[Dialect] = Dialect.ENVELOPE
    #: One of `METHODS`. GET and DELETE are for routes without a payload (`NoPayload`).
    method: ClassVar[str] = "POST"

    benchmark_runs: int = 8
    benchmark_words: int = 100
    allow_parallel_requests: bool | None = None
    max_queue_time: float | None = None
    concurrency: int | None = None
    timeout: float | None = None
    priority: Priority = Priority.NORMAL
    pass_headers: Sequence[str] = ()
    pass_query: bool = False
    is_open: bool = False

    @property
    @abstractmethod
    def endpoint(self) -> str:
        """The path on the model server, such as `/generate`; with variables, such as `/files/<file_id>`,
        which the route of the worker has, too.
        """

    @classmethod
    @abstractmethod
    def payload_cls(cls) -> type[Payload]:
        """The payload class of this route."""

    @abstractmethod
    def make_benchmark_payload(self) -> Payload:
        """The payload of one request of the benchmark."""

    @abstractmethod
    def generate_client_response(
        self, client_request: flask.Request, model_response: requests.Response
    ) -> flask.Response:
        """Make the client's response from the model server's; see `pyworker.responses`.

        With a third parameter, `payload: … | None = None`, it gets the request's payload, too.
        """

    def on_cancel(self, payload: Payload, job: Job) -> None:
        """The client has gone, or its session has ended, while the model server worked on this payload.

        Override it if the model server has to be told: `job.send("POST", "/interrupt")`. It runs on a thread
        of its own. The next request of a serial route starts once it has returned and the model server has
        ended its response, or after 30 s.
        """

    def generate_payload_json(self, payload: Payload) -> dict[str, Any]:
        """The JSON for the model server; by default the payload's own."""
        return payload.generate_payload_json()

    def generate_payload_multipart(self, payload: Payload) -> Form | None:
        """The form for the model server, or None for JSON; by default the payload's own."""
        return payload.generate_payload_multipart()

    def hidden_events(self, payload: Payload) -> HiddenEvents | None:  # noqa: ARG002
        """The events of the model server's response to this payload that the client does not get."""
        return None

    def count_work(self, response: ResponseSample) -> float | None:  # noqa: ARG002
        """The work that a 2xx response shows to have been done, in the unit of `count_workload`.

        None: the response does not tell; what `count_workload` said counts if it is complete. Also called
        for a response that was cut, with what had arrived by then.
        """
        return None

    def find_failure(self, response: ResponseSample) -> str:  # noqa: ARG002
        """The reason why a complete 2xx response of the model server is a failure; empty if it is a success.

        Called at the end of each response, in the benchmark too. `pyworker.responses.error_in` finds the
        error objects that model servers send with status 200, in JSON and in event streams.
        """
        return ""


class LogAction(Enum):
    """The meaning of a line of the model's log."""

    ModelLoaded = 1
    ModelError = 2
    Info = 3
