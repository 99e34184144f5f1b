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
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Generic, TypeVar

from pydantic import ConfigDict, Field, PlainValidator
from pydantic_core import PydanticKnownError
from typing_extensions import Self

from pyworker.errors import JsonDataException as JsonDataException
from pyworker.runtime.sample import ResponseSample as ResponseSample
from pyworker.validation import STRICT, parse_fields

if TYPE_CHECKING:
    import flask
    import requests

    from pyworker.config import Settings


@dataclass(frozen=True)
class Upload:
    """A file in a form. content_type: such as `audio/wav`; empty for none."""

    data: bytes
    filename: str
    content_type: str = ""

    def __repr__(self) -> str:
        return f"<Upload {self.content_type} [{len(self.data)} bytes]>"


@dataclass(frozen=True)
class Form:
    """multipart/form-data: text fields and files, each with its name; a name may come more than once."""

    fields: Sequence[tuple[str, str]] = ()
    uploads: Sequence[tuple[str, Upload]] = ()


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

    def generate_payload_multipart(self) -> Form | None:
        """The form for the model server, if it takes multipart/form-data; None: JSON."""
        return None

    @classmethod
    def prepare(cls, settings: Settings) -> None:
        """Load what `count_workload` needs, such as a tokenizer. Called once, in the background."""


@dataclass
class OpenPayload(ApiPayload):
    """A payload whose declared fields are checked, and which passes on all fields that the client sent.

    A field that is not declared is not looked at.
    """

    @classmethod
    def from_json_msg(cls, json_msg: Mapping[str, Any]) -> Self:
        """Parse the declared fields; raises `JsonDataException` with a message for each at fault."""
        declared = {name: json_msg[name] for name in _field_names(cls) if name in json_msg}
        payload = parse_fields(cls, declared)
        vars(payload)["_sent"] = json_msg
        return payload

    @classmethod
    def from_form(cls, form: Form) -> Self:
        """The payload of a client that sent multipart/form-data; by default each text field as a string."""
        return cls.from_json_msg(dict(form.fields))

    @property
    def sent(self) -> Mapping[str, Any]:
        """What the client sent; empty for a payload that was not parsed."""
        return vars(self).get("_sent", {})

    def generate_payload_json(self) -> dict[str, Any]:
        """What the client sent, in its order, and the declared fields that are not None."""
        own = super().generate_payload_json()
        return {**self.sent, **{name: value for name, value in own.items() if value is not None}}


@dataclass
class NoPayload(OpenPayload):
    """That of a GET, which costs no work."""

    @classmethod
    def for_test(cls) -> Self:
        return cls()

    def count_workload(self) -> float:
        return 0.0


Payload = TypeVar("Payload", bound=ApiPayload)


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

    #: OPENAI also opens the route to clients with a key of OPENAI_API_KEY_DIGESTS.
    dialect: ClassVar[Dialect] = Dialect.ENVELOPE
    #: POST, or GET for a route without a payload (`NoPayload`).
    method: ClassVar[str] = "POST"

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
