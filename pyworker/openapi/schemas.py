"""Payload classes as JSON Schema 2020-12, the dialect of OpenAPI 3.1."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import TypeAdapter

from pyworker.data_types import ApiPayload, OpenPayload

_TEMPLATE = "#/components/schemas/{model}"
Schema = Mapping[str, Any]


def schemas_of(
    classes: Iterable[type[ApiPayload]],
) -> tuple[Mapping[type[ApiPayload], Schema], dict[str, Any]]:
    """The schema of each class, and the definitions that they refer to, by name."""
    adapters = [(cls, "validation", TypeAdapter[Any](cls)) for cls in dict.fromkeys(classes)]
    if not adapters:
        return {}, {}
    found, shared = TypeAdapter.json_schemas(adapters, ref_template=_TEMPLATE)  # pyright: ignore[reportArgumentType]
    definitions: dict[str, Any] = dict(shared.get("$defs", {}))
    schemas: dict[type[ApiPayload], Schema] = {}
    for cls, _, _ in adapters:
        schema = found[(cls, "validation")]  # pyright: ignore[reportArgumentType]
        target = definitions[schema["$ref"].rpartition("/")[2]] if set(schema) == {"$ref"} else schema
        if target.get("type") == "object":
            # The client may send more: it travels on, or is told in the log and left out.
            target["additionalProperties"] = True
            target["x-undeclared-fields"] = "passed on" if issubclass(cls, OpenPayload) else "left out"
        schemas[cls] = schema
    return schemas, definitions
