"""A prompt in the queue, and what its execution tells."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from tests.support.comfyui.checks import Workflow, source_of

#: Sends an event to the client that a prompt belongs to; None: to every client.
Send = Callable[[str, Mapping[str, object], "str | None"], None]


class Interrupted(Exception):
    """The prompt was interrupted."""


class NodeFailed(Exception):
    """A node that a test has told to fail. kind: the name of the exception that is reported."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


@dataclass(order=True)
class Prompt:
    """One entry of the queue."""

    number: float
    id: str = field(compare=False)
    workflow: Workflow = field(compare=False)
    extra: Mapping[str, Any] = field(compare=False)
    outputs: list[str] = field(compare=False)

    @property
    def client(self) -> str | None:
        return self.extra.get("client_id")

    def listed(self) -> list[object]:
        return [self.number, self.id, self.workflow, self.extra, self.outputs]


class Run:
    """What one execution has told so far. Belongs to the execution thread."""

    def __init__(self, prompt: Prompt, send: Send) -> None:
        self._prompt = prompt
        self._send = send
        self.messages: list[list[object]] = []
        self.outputs: dict[str, Any] = {}
        self.done: list[str] = []
        self.node = ""

    def send(self, event: str, data: Mapping[str, object]) -> None:
        """To the client whose prompt it is."""
        if self._prompt.client is not None:
            self._send(event, data, self._prompt.client)

    def tell(self, event: str, **data: object) -> None:
        """The same, and keep it for the history."""
        message = {"prompt_id": self._prompt.id, "timestamp": int(time.time() * 1000), **data}
        self.messages.append([event, message])
        self.send(event, message)

    def where(self) -> dict[str, object]:
        """The node at hand."""
        return {"node_id": self.node, "node_type": self._prompt.workflow[self.node]["class_type"]}

    def states(self, running: str) -> dict[str, object]:
        about = {
            "value": 0.0,
            "max": 1.0,
            "state": "running",
            "node_id": running,
            "prompt_id": self._prompt.id,
        }
        return {running: about}


def needed(prompt: Prompt) -> list[str]:
    """The nodes that the outputs need, each after those it needs itself."""
    order: dict[str, None] = {}

    def visit(node_id: str) -> None:
        if node_id not in order:
            for value in prompt.workflow[node_id]["inputs"].values():
                if source := source_of(value):
                    visit(source[0])
            order[node_id] = None

    for output in prompt.outputs:
        visit(output)
    return list(order)


def key_of(workflow: Workflow, node_id: str) -> str:
    """Equal for nodes of equal class with equal inputs, and so on upwards."""
    node = workflow[node_id]
    inputs: dict[str, object] = {}
    for name, value in sorted(node["inputs"].items()):
        source = source_of(value)
        inputs[name] = value if source is None else [key_of(workflow, source[0]), source[1]]
    return json.dumps([node["class_type"], inputs])
