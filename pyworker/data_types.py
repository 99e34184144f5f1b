"""What a worker's author implements, and what travels with a request.

A worker is a payload class (`ApiPayload`, a dataclass), one `EndpointHandler` for each route, and the log
lines (`LogAction`) that say how the model is doing.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Generic, TypeVar

from pydantic import ConfigDict, Field, PlainValidator
from pydantic_core import PydanticKnownError
from typing_extensions import Self

from pyworker.errors import JsonDataException as JsonDataException
from pyworker.sample import ResponseSample
from pyworker.validation import STRICT, parse_fields

if TYPE_CHECKING:
    import flask
    import requests

    from pyworker.config import Settings


@functools.cache
def _field_names(cls: type[ApiPayload]) -> tuple[str, ...]:
    return tuple(field.name for field in dataclasses.fields(cls))


@dataclass
class ApiPayload(ABC):
    """The part of a request that is meant for the model. Subclass it as a dataclass.

    The fields' types are checked for you, so most payloads write only `for_test` and `count_workload`.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    @classmethod
    @abstractmethod
    def for_test(cls) -> Self:
        """A realistic payload for load tests."""

    @abstractmethod
    def count_workload(self) -> float:
        """How much work this request is, in the unit of your choice (tokens, steps, pixels); at least 0."""

    @classmethod
    def from_json_msg(cls, json_msg: Mapping[str, Any]) -> Self:
        """Parse the client's payload; raises `JsonDataException` with a message for each field at fault."""
        return parse_fields(cls, json_msg)

    def generate_payload_json(self) -> dict[str, Any]:
        """What is sent to the model server; by default every field by its name."""
        return {name: getattr(self, name) for name in _field_names(type(self))}

    @classmethod
    def prepare(cls, settings: Settings) -> None:
        """Load what `count_workload` needs (a tokenizer, say). Called once, off the request path."""


Payload = TypeVar("Payload", bound=ApiPayload)


#: Wide enough for any index, narrow enough for every reader of a report.
Index = Annotated[int, Field(ge=-(2**63), lt=2**63)]


class WrittenNumber(float):
    """A number that came as text. It counts as the number and is signed as the text that it was."""

    def __new__(cls, text: str) -> Self:
        number = super().__new__(cls, text)
        number.text = text
        return number

    text: str


_NUMBER = re.compile(r"[0-9]+(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?")
_MAX_NUMBER = 40
_MAX_COST = 10**15


def _cost(value: object) -> float:
    if isinstance(value, str) and len(value) <= _MAX_NUMBER and _NUMBER.fullmatch(value):
        value = WrittenNumber(value)
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise PydanticKnownError("float_type")
    if not math.isfinite(value if isinstance(value, float) else 0.0):
        raise PydanticKnownError("finite_number")
    if value < 0:
        raise PydanticKnownError("greater_than_equal", {"ge": 0})
    if value > _MAX_COST:
        raise PydanticKnownError("less_than_equal", {"le": _MAX_COST})
    return value


# Kept with a session and not covered by every signature, so it needs a bound; real ones are far below.
_MAX_ENDPOINT = 1024


@dataclass(frozen=True)
class AuthData:
    """What the autoscaler signed for this request. `request_idx` may be None in the first form.

    cost: a number; one that older clients wrote as text is a `WrittenNumber`.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    signature: str
    url: str
    endpoint: Annotated[str, Field(max_length=_MAX_ENDPOINT)]
    # The first form signs the cost as it was written, so 7 must not become 7.0.
    cost: Annotated[float, PlainValidator(_cost)]
    reqnum: Index
    request_idx: Index | None = None

    @classmethod
    def from_json_msg(cls, json_msg: Mapping[str, Any]) -> AuthData:
        """Parse `auth_data`; raises `JsonDataException`."""
        return parse_fields(cls, json_msg)


@dataclass(kw_only=True)
class EndpointHandler(ABC, Generic[Payload]):
    """One route of the worker. What is None here is decided by the `Backend`.

    benchmark_runs: rounds of the benchmark; benchmark_words: words of a benchmark prompt.
    allow_parallel_requests: False sends requests to the model one at a time, in order of arrival.
    max_queue_time: estimated wait in seconds above which a request is refused with 429; one that waited so
        long after all is turned away as well.
    concurrency: requests at once in a round of the benchmark.
    """

    benchmark_runs: int = 8
    benchmark_words: int = 100
    allow_parallel_requests: bool | None = None
    max_queue_time: float | None = None
    concurrency: int | None = None

    @property
    @abstractmethod
    def endpoint(self) -> str:
        """The path on the model server, such as `/generate`."""

    @classmethod
    @abstractmethod
    def payload_cls(cls) -> type[Payload]:
        """The class that parses this route's payload."""

    @abstractmethod
    def make_benchmark_payload(self) -> Payload:
        """A request of the benchmark."""

    @abstractmethod
    def generate_client_response(
        self, client_request: flask.Request, model_response: requests.Response
    ) -> flask.Response:
        """Turn the model's answer into the client's; `pyworker.responses` has the usual ways."""

    def generate_payload_json(self, payload: Payload) -> dict[str, Any]:
        """What is sent to the model server for this route; by default what the payload says."""
        return payload.generate_payload_json()

    def find_failure(self, response: ResponseSample) -> str:  # noqa: ARG002
        """Why a complete 2xx response of the model is a failure all the same; empty if it is work done.

        Asked at the end of each response, in the benchmark too. `pyworker.responses.error_in` finds the error
        objects that model servers send with status 200, in JSON and in event streams.
        """
        return ""


class LogAction(Enum):
    """What a line of the model's log means."""

    ModelLoaded = 1
    ModelError = 2
    Info = 3
