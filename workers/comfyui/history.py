"""What ComfyUI's queue and history tell of one prompt. Pure: JSON from an untrusted server in, facts out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

from pyworker.errors import shortened
from workers.comfyui.workflows import as_list, as_object, is_whole

#: Files of one response; a node may list any number.
MAX_FILES = 1000
_MAX_TEXT = 1000


@dataclass(frozen=True)
class Place:
    """Where a prompt is in the queue. position: 0 while it runs. prompt_id: by which ComfyUI knows it."""

    position: int
    prompt_id: str

    @property
    def is_running(self) -> bool:
        return self.position == 0


def place_of(queue: Mapping[str, Any], prompt_id: str, client_id: str) -> Place | None:
    """None if it is not in the queue. Releases that choose the id themselves tell it by the client's."""
    running = ((0, item) for item in as_list(queue.get("queue_running")))
    pending = enumerate(as_list(queue.get("queue_pending")), 1)
    for position, item in chain(running, pending):
        # Number, id, workflow, what came with it, outputs.
        _, id_there, _, extra, *_ = [*as_list(item)[:4], None, None, None, None]
        is_ours = id_there == prompt_id or as_object(extra).get("client_id") == client_id
        if is_ours and isinstance(id_there, str):
            return Place(position, id_there)
    return None


@dataclass(frozen=True)
class OutputFile:
    """One file that a node made. kind: such as `images`."""

    filename: str
    subfolder: str
    type: str
    node_id: str
    kind: str

    @property
    def path(self) -> str:
        """Below ComfyUI's own folder."""
        return "/".join(part for part in (self.type, self.subfolder, self.filename) if part)


@dataclass(frozen=True)
class Failure:
    """How the execution failed. node_id and node_type are empty if it was between two nodes."""

    is_interrupted: bool
    node_id: str = ""
    node_type: str = ""
    exception_type: str = ""
    exception_message: str = ""


@dataclass(frozen=True)
class Entry:
    """An entry of the history: the prompt has ended."""

    outputs: Mapping[str, Any] = field(default_factory=dict[str, Any])
    status: Mapping[str, Any] = field(default_factory=dict[str, Any])

    @classmethod
    def of(cls, history: object, prompt_id: str) -> Entry | None:
        """None if the history does not have it."""
        entry = as_object(as_object(history).get(prompt_id))
        return cls(as_object(entry.get("outputs")), as_object(entry.get("status"))) if entry else None

    @property
    def messages(self) -> Iterator[tuple[str, Mapping[str, Any]]]:
        for message in as_list(self.status.get("messages")):
            name, data = [*as_list(message), None, None][:2]
            if isinstance(name, str):
                yield name, as_object(data)

    @property
    def failure(self) -> Failure | None:
        """None if it succeeded."""
        for name, data in self.messages:
            if name in ("execution_error", "execution_interrupted"):
                return Failure(
                    name == "execution_interrupted", **{key: _text(data.get(key)) for key in _ABOUT}
                )
        return Failure(False) if self.status.get("status_str") == "error" else None

    @property
    def cached(self) -> frozenset[str]:
        """Ids of the nodes whose result came from the cache."""
        lists = (as_list(data.get("nodes")) for name, data in self.messages if name == "execution_cached")
        return frozenset(node for nodes in lists for node in nodes if isinstance(node, str))

    @property
    def execution_seconds(self) -> float | None:
        """By the server's own clock; None if it does not tell."""
        told = (data.get("timestamp") for name, data in self.messages if name in _SPAN)
        times = [time for time in told if is_whole(time)]
        return max((times[1] - times[0]) / 1000, 0.0) if len(times) == 2 else None

    @property
    def files(self) -> list[OutputFile]:
        """The files of every node, at most `MAX_FILES`."""
        found: list[OutputFile] = []
        for node_id, output in self.outputs.items():
            for kind, items in as_object(output).items():
                for item in as_list(items):
                    file = as_object(item)
                    name = file.get("filename")
                    if isinstance(name, str) and name and len(found) < MAX_FILES:
                        places = (str(file.get("subfolder", "")), str(file.get("type", "output")))
                        found.append(OutputFile(name, *places, node_id, kind))
        return found


_ABOUT = ("node_id", "node_type", "exception_type", "exception_message")
_SPAN = ("execution_start", "execution_success")


def _text(value: object) -> str:
    return shortened(str(value).strip(), _MAX_TEXT) if isinstance(value, str | int) else ""
