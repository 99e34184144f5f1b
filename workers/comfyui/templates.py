"""Workflows in files, whose inputs a client fills by name: values replace values, never text."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pydantic_core

from pyworker.data_types import JsonDataException
from pyworker.errors import ConfigError, shortened
from pyworker.validation import MAX_FAULTS, MISSING_PARAMETER
from workers.comfyui.workflows import RANDOM_INT, Workflow, as_list, as_object, check

_SHOWN = 100
#: Node id and name of an input.
Target = tuple[str, str]


@dataclass(frozen=True)
class Template:
    """A workflow, and the inputs that each parameter fills. Immutable.

    The value that an input has in the file is its default, and says of which type a client's value is: text,
    a number (also for `RANDOM_INT`), or true and false. If it is null, the client has to give one.
    """

    name: str
    workflow: Workflow
    parameters: Mapping[str, tuple[Target, ...]]

    def fill(self, values: Mapping[str, Any], field: str) -> Workflow:
        """A copy with these values. Raises `JsonDataException` about `field`."""
        faults = {f"{field}.{shortened(name, _SHOWN)}": problem for name, problem in self._faults(values)}
        if faults:
            raise JsonDataException(faults)
        filled = dict(self.workflow)
        for name, value in values.items():
            for node_id, given in self.parameters[name]:
                node = filled[node_id]
                filled[node_id] = {**node, "inputs": {**node["inputs"], given: value}}
        return filled

    def _faults(self, values: Mapping[str, Any]) -> list[tuple[str, str]]:
        faults: list[tuple[str, str]] = []
        for name, value in itertools.islice(values.items(), len(self.parameters) + MAX_FAULTS):
            if name not in self.parameters:
                known = ", ".join(self.parameters) or "none"
                faults.append((name, f"the template {self.name} has no such parameter; it has: {known}"))
            elif not _fits(kind := self._kind(name), value):
                faults.append((name, f"must be {kind}"))
        missing = [name for name in self.parameters if self._kind(name) == _ANY and name not in values]
        return faults + [(name, MISSING_PARAMETER) for name in missing]

    def _kind(self, parameter: str) -> str:
        node_id, given = self.parameters[parameter][0]
        return _kind(self.workflow[node_id]["inputs"][given])


_BOOLEAN, _NUMBER, _TEXT = "true or false", "a number", "text"
_ANY = "text, a number, true or false"


def _kind(default: object) -> str:
    """What may stand in for this value of a template."""
    if default is None:
        return _ANY
    if isinstance(default, bool):
        return _BOOLEAN
    return _NUMBER if isinstance(default, int | float) or default == RANDOM_INT else _TEXT


def _fits(kind: str, value: object) -> bool:
    if isinstance(value, bool):
        return kind in (_BOOLEAN, _ANY)
    return (isinstance(value, str) and kind in (_TEXT, _ANY)) or (
        isinstance(value, int | float) and kind in (_NUMBER, _ANY)
    )


class Library:
    """The templates by name. Loaded once, before the first request; then any thread may read."""

    def __init__(self) -> None:
        self._templates: dict[str, Template] = {}

    def load(self, folder: Path) -> None:
        """Read `*.json` of this folder. Raises `ConfigError` with the file and what is wrong with it."""
        try:
            files = sorted(path for path in folder.iterdir() if path.suffix == ".json")
        except OSError as error:
            raise ConfigError(f"the templates in {folder} cannot be read: {error.strerror}") from error
        self._templates = {path.stem: read_template(path) for path in files}

    @property
    def names(self) -> list[str]:
        return list(self._templates)

    def fill(self, name: str, values: Mapping[str, Any], name_field: str, values_field: str) -> Workflow:
        """The workflow of a template, with these values. Raises `JsonDataException`."""
        template = self._templates.get(name)
        if template is None:
            known = ", ".join(self._templates) or "none"
            raise JsonDataException({name_field: f"there is no such template; there are: {known}"})
        return template.fill(values, values_field)

    def __repr__(self) -> str:
        return f"<Library [{len(self._templates)} templates]>"


def read_template(path: Path) -> Template:
    """`{"parameters": {name: "node.input", or a list of these}, "workflow": {…}}`, or a bare workflow.

    Raises `ConfigError`.
    """
    try:
        content: object = pydantic_core.from_json(path.read_bytes())
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise ConfigError(f"{path} is not JSON: {error}") from error
    fields = as_object(content)
    inner = as_object(fields.get("workflow"))
    # A bare workflow might have a node of this name.
    has_parameters = bool(inner) and "class_type" not in inner
    workflow = dict(inner if has_parameters else fields)
    try:
        check("workflow", workflow)
        given = as_object(fields.get("parameters") if has_parameters else None)
        parameters = {name: _targets(workflow, name, texts) for name, texts in given.items()}
    except JsonDataException as error:
        problems = "; ".join(f"{name}: {problem}" for name, problem in error.json_msg.items())
        raise ConfigError(f"{path}: {problems}") from error
    return Template(path.stem, workflow, parameters)


def _targets(workflow: Workflow, name: str, texts: object) -> tuple[Target, ...]:
    targets = tuple(_target(workflow, name, text) for text in as_list(texts) or [texts])
    kinds = {_kind(workflow[node_id]["inputs"][given]) for node_id, given in targets}
    if len(kinds) > 1:
        raise JsonDataException({f"parameters.{name}": f"fills inputs of several types: {', '.join(kinds)}"})
    return targets


def _target(workflow: Workflow, name: str, text: object) -> Target:
    node_id, _, given = text.partition(".") if isinstance(text, str) else ("", "", "")
    inputs = as_object(as_object(workflow.get(node_id)).get("inputs"))
    if given not in inputs:
        raise JsonDataException(
            {f"parameters.{name}": f"{text!r} names no input of the workflow; expected such as '3.seed'"}
        )
    if isinstance(inputs[given], list | dict):
        raise JsonDataException({f"parameters.{name}": f"{text!r} is a link to another node, not a value"})
    return node_id, given
