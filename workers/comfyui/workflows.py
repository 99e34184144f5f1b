"""Workflows in ComfyUI's API format: node ids, and for each its class and inputs. Pure."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any, TypeGuard, cast

from pyworker.data_types import JsonDataException
from pyworker.errors import shortened

#: Node ids, each with `{"class_type": …, "inputs": {…}}`.
Workflow = dict[str, Any]

#: As the value of an input: replaced by a random integer.
RANDOM_INT = "__RANDOM_INT__"
# Every seed of ComfyUI's nodes holds 32 bits.
_RANDOM_BELOW = 2**32
_SEEDS = ("seed", "noise_seed")
_SHOWN = 100
_EMPTY: Mapping[str, Any] = {}


def as_object(value: object) -> Mapping[str, Any]:
    """A JSON object; an empty one for anything else."""
    return cast("Mapping[str, Any]", value) if isinstance(value, dict) else _EMPTY


def as_list(value: object) -> list[Any]:
    """A JSON array; an empty one for anything else."""
    return cast("list[Any]", value) if isinstance(value, list) else []


def is_whole(value: object) -> TypeGuard[int]:
    """Whether this is an integer; true and false are none."""
    return isinstance(value, int) and not isinstance(value, bool)


def check(field: str, workflow: Mapping[str, Any]) -> None:
    """Raise `JsonDataException` about `field` unless each node is an object with a class and inputs.

    Anything else about it is ComfyUI's to say, which knows the nodes; its answer to a node of another shape
    would be an internal error without a reason.
    """
    if not workflow:
        raise JsonDataException({field: "is empty: expected the nodes of a workflow"})
    if isinstance(workflow.get("nodes"), list):
        raise JsonDataException(
            {field: "is in the editor's format: export it from ComfyUI with Export (API)"}
        )
    faults: dict[str, str] = {}
    for node_id, node in workflow.items():
        name = f"{field}.{shortened(node_id, _SHOWN)}"
        if not isinstance(node, dict):
            faults[name] = "must be an object with class_type and inputs"
        elif not isinstance(as_object(cast("object", node)).get("class_type"), str):
            faults[f"{name}.class_type"] = "must be the name of a node's class"
        elif not isinstance(as_object(cast("object", node)).get("inputs"), dict):
            faults[f"{name}.inputs"] = "must be an object"
        if len(faults) == 20:
            break
    if faults:
        raise JsonDataException(faults)


def with_random_integers(workflow: Mapping[str, Any], *, reseeded: bool = False) -> Workflow:
    """A copy with a random integer in place of each input that is `RANDOM_INT`.

    reseeded: and of each seed, so that no result is in ComfyUI's cache. Nodes without either are shared.
    """
    return {node_id: _with_random_inputs(node, reseeded) for node_id, node in workflow.items()}


def _with_random_inputs(node: Mapping[str, Any], reseeded: bool) -> Mapping[str, Any]:
    drawn = {
        name: random.randrange(_RANDOM_BELOW)
        for name, value in as_object(node.get("inputs")).items()
        if value == RANDOM_INT or (reseeded and name in _SEEDS and is_whole(value))
    }
    return {**node, "inputs": {**node["inputs"], **drawn}} if drawn else node
