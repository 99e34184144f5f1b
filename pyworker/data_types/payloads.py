"""The payload of a request: what a client sends, checked by the types of a dataclass."""

from __future__ import annotations

import dataclasses
import functools
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from pydantic import ConfigDict
from typing_extensions import Self

from pyworker.validation import STRICT, parse_fields

if TYPE_CHECKING:
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
    def for_test(cls) -> Self:
        """A realistic payload for load tests, if the route has no `benchmark`."""
        raise NotImplementedError(
            f"{cls.__name__} has no for_test: write one, or give its route a benchmark payload"
        )

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
class FixedPayload(OpenPayload):
    """An open payload without a field of its own, each of which is as much work."""

    #: Of each request.
    workload: ClassVar[float] = 1.0

    def count_workload(self) -> float:
        return self.workload


@dataclass
class NoPayload(OpenPayload):
    """That of a GET or DELETE, which costs no work."""

    @classmethod
    def for_test(cls) -> Self:
        return cls()

    def count_workload(self) -> float:
        return 0.0


Payload = TypeVar("Payload", bound=ApiPayload)
