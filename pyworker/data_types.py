"""The classes that the author of a worker implements, and `AuthData`.

A worker is a payload class (`ApiPayload`, a dataclass), one `EndpointHandler` for each route, and the log
lines (`LogAction`) that show the state of the model.
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
from pyworker.runtime.sample import ResponseSample
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
    """The payload of a request. Subclass it as a dataclass.

    The types of its fields are checked, so most payloads write only `for_test` and `count_workload`.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    @classmethod
    @abstractmethod
    def for_test(cls) -> Self:
        """A realistic payload for load tests."""

    @abstractmethod
    def count_workload(self) -> float:
        """The work of this request, in a unit of your choice (tokens, steps, pixels); at least 0."""

    @classmethod
    def from_json_msg(cls, json_msg: Mapping[str, Any]) -> Self:
        """Parse the client's payload; raises `JsonDataException` with a message for each field at fault."""
        return parse_fields(cls, json_msg)

    def generate_payload_json(self) -> dict[str, Any]:
        """The JSON for the model server; by default every field by its name."""
        return {name: getattr(self, name) for name in _field_names(type(self))}

    @classmethod
    def prepare(cls, settings: Settings) -> None:
        """Load what `count_workload` needs, such as a tokenizer. Called once, in the background."""


Payload = TypeVar("Payload", bound=ApiPayload)


#: 64 bits: whoever reads a report can parse it.
Index = Annotated[int, Field(ge=-(2**63), lt=2**63)]


class WrittenNumber(float):
    """A number that was sent as text. Its value counts; the signature covers the text."""

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


# Characters. Sessions keep it, and not every signature covers it; real ones are far shorter.
_MAX_ENDPOINT = 1024


@dataclass(frozen=True)
class AuthData:
    """The signed part of a request. `request_idx` may be None in the first form.

    cost: a number; a `WrittenNumber` if the client sent it as text, as older clients do.
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
    """One route of the worker. An option that is None is taken from the `Backend`.

    benchmark_runs: rounds of the benchmark; benchmark_words: words of a benchmark prompt.
    allow_parallel_requests: False sends requests to the model one at a time, in order of arrival.
    max_queue_time: estimated wait in seconds above which a request is refused with 429, and the longest time
        that an admitted request may wait in the queue.
    concurrency: concurrent requests in a round of the benchmark.
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
        """The payload class of this route."""

    @abstractmethod
    def make_benchmark_payload(self) -> Payload:
        """The payload of one request of the benchmark."""

    @abstractmethod
    def generate_client_response(
        self, client_request: flask.Request, model_response: requests.Response
    ) -> flask.Response:
        """Make the client's response from the model server's; see `pyworker.responses`."""

    def generate_payload_json(self, payload: Payload) -> dict[str, Any]:
        """The JSON for the model server; by default the payload's own."""
        return payload.generate_payload_json()

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
