"""The validation of a workflow, in ComfyUI's order and with its errors."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, cast

from tests.support.comfyui.nodes import NODES, Input

Error = dict[str, Any]
Workflow = Mapping[str, Mapping[str, Any]]


def source_of(value: object) -> tuple[str, int] | None:
    """The node and slot that an input is linked to; None for a value."""
    if not isinstance(value, list):
        return None
    node_id, slot = cast("tuple[str, int]", tuple(cast("list[object]", value)))
    return node_id, slot


@dataclass
class Verdict:
    """error: why nothing can be executed; None if `outputs` can. node_errors: by node id."""

    error: Error | None = None
    node_errors: dict[str, Error] = field(default_factory=dict[str, Error])
    outputs: list[str] = field(default_factory=list[str])


def fault(kind: str, message: str, details: str = "", **extra_info: object) -> Error:
    """One error, as the server writes it."""
    return {"type": kind, "message": message, "details": details, "extra_info": extra_info}


NO_PROMPT = fault("no_prompt", "No prompt provided", "No prompt provided")


def validate(workflow: Workflow, files: Collection[str], log: Callable[[str], None]) -> Verdict:
    """files: those that were uploaded. Raises TypeError, as the server does, for a node that is no object."""
    outputs: list[str] = []
    for node_id, node in workflow.items():
        if "class_type" not in node:
            message = "Cannot execute because a node is missing the class_type property."
            return Verdict(fault("invalid_prompt", message, f"Node ID '#{node_id}'"))
        class_type = node["class_type"]
        if class_type not in NODES:
            message = f"Cannot execute because node {class_type} does not exist."
            return Verdict(fault("invalid_prompt", message, f"Node ID '#{node_id}'"))
        if NODES[class_type].is_output:
            outputs.append(node_id)
    if not outputs:
        return Verdict(fault("prompt_no_outputs", "Prompt has no outputs"))
    return _validate_outputs(_Checker(workflow, files), outputs, log)


def _validate_outputs(checker: _Checker, outputs: list[str], log: Callable[[str], None]) -> Verdict:
    verdict = Verdict()
    details: list[str] = []
    for output in outputs:
        reasons = checker.check_output(output)
        if not checker.fails(output):
            verdict.outputs.append(output)
            continue
        log(f"Failed to validate prompt for output {output}:")
        details += [f"{reason['message']}: {reason['details']}" for reason in reasons]
        for node_id, errors in checker.found.items():
            if errors:
                class_type = checker.workflow[node_id]["class_type"]
                entry = verdict.node_errors.setdefault(
                    node_id, {"errors": errors, "dependent_outputs": [], "class_type": class_type}
                )
                entry["dependent_outputs"].append(output)
                log(f"* {class_type} {node_id}:")
                for error in errors:
                    log(f"  - {error['message']}: {error['details']}")
        log("Output will be ignored")
    if not verdict.outputs:
        text = "\n".join(details)
        verdict.error = fault("prompt_outputs_failed_validation", "Prompt outputs failed validation", text)
    return verdict


class _Checker:
    """Checks each node once."""

    def __init__(self, workflow: Workflow, files: Collection[str]) -> None:
        self.workflow = workflow
        self._files = files
        self.found: dict[str, list[Error]] = {}
        self._failing: set[str] = set()

    def fails(self, node_id: str) -> bool:
        """Whether it or something that it needs is wrong."""
        return node_id in self._failing

    def check_output(self, output: str) -> list[Error]:
        """As `check`; what cannot even be looked at, such as a link to nowhere, is an error of the output."""
        try:
            return self.check(output)
        except (KeyError, IndexError) as error:
            kind, message = "exception_during_validation", "Exception when validating node"
            about = {
                "exception_type": type(error).__name__,
                "traceback": ['  File "/opt/ComfyUI/execution.py"'],
            }
            self.found[output] = [fault(kind, message, str(error), **about)]
            self._failing.add(output)
            return self.found[output]

    def check(self, node_id: str) -> list[Error]:
        """The node's own errors; those it needs are checked too."""
        if node_id in self.found:
            return self.found[node_id]
        errors = self.found[node_id] = []
        node = self.workflow[node_id]
        given: Mapping[str, Any] = node["inputs"]
        for name, wanted in NODES[node["class_type"]].inputs.items():
            if name not in given:
                if wanted.required:
                    errors.append(
                        fault("required_input_missing", "Required input is missing", name, input_name=name)
                    )
                continue
            value = given[name]
            if isinstance(value, list):
                errors += self._check_link(node_id, name, wanted, cast("list[Any]", value))
            elif wanted.kind == "FILE":
                errors += [] if value in self._files else [_no_file(name, value)]
            else:
                errors += _check_value(name, wanted, value)
        if errors:
            self._failing.add(node_id)
        return errors

    def _check_link(self, node_id: str, name: str, wanted: Input, link: list[Any]) -> list[Error]:
        about = {"input_name": name, "input_config": wanted.config, "received_value": link}
        if len(link) != 2:
            message = "Bad linked input, must be a length-2 list of [node_id, slot_index]"
            return [fault("bad_linked_input", message, name, **about)]
        source: str = link[0]
        slot: int = link[1]
        returned: str = NODES[self.workflow[source]["class_type"]].returns[slot]
        if returned != wanted.kind:
            message = "Return type mismatch between linked nodes"
            kind = "COMBO" if isinstance(wanted.kind, tuple) else wanted.kind
            text = f"{name}, received_type({returned}) mismatch input_type({kind})"
            return [fault("return_type_mismatch", message, text, **about, received_type=returned)]
        self.check(source)
        if self.fails(source):
            self._failing.add(node_id)
        return []


_CONVERTERS: Mapping[str, Callable[[Any], Any]] = {"INT": int, "FLOAT": float, "STRING": str}


def _no_file(name: str, value: object) -> Error:
    text = f"{name} - Invalid image file: {value}"
    about = {"input_name": name, "received_value": value}
    return fault("custom_validation_failed", "Custom validation failed for node", text, **about)


def _check_value(name: str, wanted: Input, value: object) -> list[Error]:
    about = {"input_name": name, "input_config": wanted.config, "received_value": value}
    if isinstance(wanted.kind, tuple):
        if value not in wanted.kind:
            text = f"{name}: '{value}' not in {list(wanted.kind)}"
            return [fault("value_not_in_list", "Value not in list", text, **about)]
        return []
    convert = _CONVERTERS.get(wanted.kind)
    if convert is None:
        text = f"{name}, {value}"
        return [fault("bad_linked_input", "Bad linked input, must be a link", text, **about)]
    try:
        number = convert(value)
    except (TypeError, ValueError) as error:
        message = f"Failed to convert an input value to a {wanted.kind} value"
        text = f"{name}, {value}, {error}"
        return [fault("invalid_input_type", message, text, **about, exception_message=str(error))]
    if wanted.minimum is not None and number < wanted.minimum:
        message = f"Value {number} smaller than min of {wanted.minimum}"
        return [fault("value_smaller_than_min", message, name, **about)]
    if wanted.maximum is not None and number > wanted.maximum:
        message = f"Value {number} bigger than max of {wanted.maximum}"
        return [fault("value_bigger_than_max", message, name, **about)]
    return []
