"""ComfyUI's errors as responses. The message of each, which may be logged, holds nothing of the client's."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

from pyworker.errors import RequestError, shortened
from workers.comfyui.history import Failure
from workers.comfyui.workflows import as_list, as_object

_MAX_NODES = 20
_MAX_ERRORS = 10
_MAX_TEXT = 500


class WorkflowError(RequestError):
    """A workflow failed.

    text: what the client is told; details: further fields of the body; word: the status in it.
    """

    word: ClassVar[str] = "failed"

    def __init__(self, message: str, text: str = "", **details: object) -> None:
        super().__init__(message)
        self.text = text or message
        self.details = details
        # Of the request, as its client named it.
        self.request_id = ""

    def body(self) -> Mapping[str, object]:
        about = {"id": self.request_id, "status": self.word, "message": self.text}
        return {"error": self.text, **about, **self.details}

    def told(self) -> WorkflowError:
        """The same, whose message is what a client is told."""
        return type(self)(self.text)


class WorkflowRefused(WorkflowError):
    """ComfyUI's validation found errors."""

    status = 422


class GenerationInterrupted(WorkflowError):
    """Somebody else interrupted the execution. The status is the one of the service's own wrapper."""

    status = 499
    word = "cancelled"


class OutputTooLarge(WorkflowError):
    """The outputs are above `COMFYUI_MAX_OUTPUT_BYTES`."""

    status = 413


class GenerationFailed(WorkflowError):
    """A node failed."""

    status = 500


def refusal(body: object) -> WorkflowRefused:
    """Of a 400 response to POST /prompt: `{"error": {…}, "node_errors": {…}}`."""
    error = as_object(as_object(body).get("error"))
    nodes = node_errors(body)
    kind = _text(error.get("type")) or "invalid_prompt"
    reason = ": ".join(filter(None, (_text(error.get("message")), _text(error.get("details")))))
    told = "; ".join(_lines(nodes)) or reason or "ComfyUI refused it without a reason"
    return WorkflowRefused(
        "ComfyUI refused the workflow",
        f"the workflow is not valid: {told}",
        comfyui_error={"type": kind, "message": reason},
        node_errors=nodes,
    )


def node_errors(body: object) -> dict[str, Any]:
    """By node id: its class, and each error's type, input, message and details."""
    found: dict[str, Any] = {}
    for node_id, value in list(as_object(as_object(body).get("node_errors")).items())[:_MAX_NODES]:
        node = as_object(value)
        errors = [as_object(error) for error in as_list(node.get("errors"))[:_MAX_ERRORS]]
        found[_text(node_id)] = {
            "class_type": _text(node.get("class_type")),
            "errors": [
                {
                    "type": _text(error.get("type")),
                    "input": _text(as_object(error.get("extra_info")).get("input_name")),
                    "message": _text(error.get("message")),
                    "details": _text(error.get("details")),
                }
                for error in errors
            ],
        }
    return found


def _lines(nodes: Mapping[str, Any]) -> Iterator[str]:
    for node_id, node in nodes.items():
        for error in node["errors"]:
            text = ": ".join(filter(None, (error["message"], error["details"])))
            yield f"node {node_id} ({node['class_type']}): {text}"


def failure_of(failure: Failure) -> WorkflowError:
    """Of an execution that ended without success."""
    node = {"node_id": failure.node_id, "class_type": failure.node_type}
    where = f" at node {failure.node_id} ({failure.node_type})" if failure.node_id else ""
    if failure.is_interrupted:
        return GenerationInterrupted("interrupted in ComfyUI", f"interrupted in ComfyUI{where}", node=node)
    raised = ": ".join(filter(None, (failure.exception_type, failure.exception_message)))
    return GenerationFailed(
        "a node of a workflow failed in ComfyUI",
        f"ComfyUI failed{where}: {raised or 'it gave no reason'}",
        node={
            **node,
            "exception_type": failure.exception_type,
            "exception_message": failure.exception_message,
        },
    )


def _text(value: object) -> str:
    return shortened(value, _MAX_TEXT) if isinstance(value, str) else ""
