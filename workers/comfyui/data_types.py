"""What clients send: a template's name and values, a workflow, or either in the shape of `/generate/sync`."""

from __future__ import annotations

import random
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal, cast

from pydantic import Field
from typing_extensions import Self

from pyworker.data_types import ApiPayload, JsonDataException
from pyworker.validation import parse_fields
from pyworker.words import random_words
from workers.comfyui.benchmark import stable_diffusion
from workers.comfyui.settings import TEMPLATES
from workers.comfyui.templates import Library
from workers.comfyui.workflows import Workflow, check, with_random_integers
from workers.comfyui.workload import units

#: Files in the response as data URIs, or only their names in ComfyUI's folders.
Outputs = Literal["data_uri", "file"]
RequestId = Annotated[str, Field(max_length=200)]


@dataclass
class ComfyPayload(ApiPayload):
    """A request for one workflow. The client may wrap it as `{"input": {…}}`."""

    #: The templates of this worker, loaded when it starts.
    library: ClassVar[Library] = Library()

    def __post_init__(self) -> None:
        """Raises `JsonDataException` for a workflow that cannot be one."""
        #: What ComfyUI gets.
        self.workflow_to_run: Workflow = with_random_integers(self._workflow())

    @abstractmethod
    def _workflow(self) -> Workflow:
        """As the client wants it; raises `JsonDataException`."""

    @property
    @abstractmethod
    def delivery(self) -> Literal["base64", "data_uri", "file"]:
        """How the response holds the outputs."""

    @property
    @abstractmethod
    def name(self) -> str:
        """The client's own id of the request; empty if it gave none."""

    @classmethod
    def from_json_msg(cls, json_msg: Mapping[str, Any]) -> Self:
        inner = json_msg.get("input")
        if not isinstance(inner, dict):
            return parse_fields(cls, json_msg)
        try:
            return parse_fields(cls, cast("dict[str, Any]", inner))
        except JsonDataException as error:
            faults = {f"input.{name}": fault for name, fault in error.json_msg.items()}
            raise JsonDataException(faults, more=error.more) from None

    def count_workload(self) -> float:
        return units(self.workflow_to_run)


@dataclass
class CustomWorkflow(ComfyPayload):
    """A workflow of the client's own, in ComfyUI's API format."""

    workflow: dict[str, Any]
    outputs: Outputs = "data_uri"
    request_id: RequestId | None = None

    def _workflow(self) -> Workflow:
        check("workflow", self.workflow)
        return self.workflow

    @property
    def delivery(self) -> Outputs:
        return self.outputs

    @property
    def name(self) -> str:
        return self.request_id or ""

    @classmethod
    def for_test(cls) -> Self:
        return cls(with_random_integers(stable_diffusion(), reseeded=True))


@dataclass
class TemplatePrompt(ComfyPayload):
    """One of the worker's templates, and values for its parameters."""

    template: str
    values: dict[str, Any] = field(default_factory=dict[str, Any])
    outputs: Outputs = "data_uri"
    request_id: RequestId | None = None

    def _workflow(self) -> Workflow:
        return self.library.fill(self.template, self.values, "template", "values")

    @property
    def delivery(self) -> Outputs:
        return self.outputs

    @property
    def name(self) -> str:
        return self.request_id or ""

    @classmethod
    def for_test(cls) -> Self:
        if not cls.library.names:
            cls.library.load(TEMPLATES)
        return cls("text_to_image", {"prompt": random_words(20), "seed": random.randrange(2**32)})


_NOT_HERE = "is not supported: this worker returns outputs in its response"


@dataclass
class GenerateSync(ComfyPayload):
    """What clients of the service's wrapper send: a workflow, or the name of a template as `modifier`."""

    request_id: RequestId | None = None
    workflow_json: dict[str, Any] | None = None
    modifier: str | None = None
    modifications: dict[str, Any] | None = None
    s3: dict[str, Any] | None = None
    webhook: dict[str, Any] | None = None
    return_outputs_as_base64: bool | None = None

    def _workflow(self) -> Workflow:
        faults = {name: _NOT_HERE for name in ("s3", "webhook") if _is_filled_in(getattr(self, name))}
        if faults:
            raise JsonDataException(faults)
        # Older clients send an empty workflow beside a modifier, or an empty modifier beside a workflow.
        if self.modifier and not self.workflow_json:
            return self.library.fill(self.modifier, self.modifications or {}, "modifier", "modifications")
        if self.modifier:
            raise JsonDataException({"modifier": "there is a workflow_json as well: send one of the two"})
        if self.workflow_json is None:
            raise JsonDataException(
                {"workflow_json": "missing parameter, as is modifier: send one of the two"}
            )
        check("workflow_json", self.workflow_json)
        return self.workflow_json

    @property
    def delivery(self) -> Literal["base64", "file"]:
        # Without them a client could not have its outputs.
        return "file" if self.return_outputs_as_base64 is False else "base64"

    @property
    def name(self) -> str:
        return self.request_id or ""

    @classmethod
    def for_test(cls) -> Self:
        return cls(workflow_json=with_random_integers(stable_diffusion(), reseeded=True))


def _is_filled_in(options: Mapping[str, Any] | None) -> bool:
    """Whether any value is set: clients send the fields of what they do not use, empty."""
    return any(value not in (None, "", {}) for value in (options or {}).values())
