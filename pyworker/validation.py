"""Decoded JSON as dataclasses: a message for each field at fault, named by its path in the client's JSON."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from typing import Any, TypeVar, cast

import pydantic_core
from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic_core import CoreSchema, SchemaValidator

from pyworker.errors import JsonDataException, Unprocessable, shortened

T = TypeVar("T")

#: No conversions: neither "7" nor true is accepted for a number, and no infinite cost.
STRICT = ConfigDict(strict=True, allow_inf_nan=False)

MISSING_PARAMETER = "missing parameter"
#: Bytes of a body in which each fault is looked for: 2 ms for each KiB, before the signature is checked.
NAMED_FULLY = 2048
#: More faults than this are only counted.
MAX_FAULTS = 20
_MAX_FAULT_NAME = 200  # characters

# Of pydantic's core schema: types with any number of items, and keys that hold schemas of parts. A default or
# a literal may look like a schema and must stay as it is.
_OF_ANY_LENGTH = {"list", "tuple", "set", "frozenset", "deque", "dict"}
_PARTS = (
    "schema",
    "items_schema",
    "keys_schema",
    "values_schema",
    "fields",
    "choices",
    "steps",
    "definitions",
    "lax_schema",
    "strict_schema",
    "json_schema",
    "python_schema",
    "extras_schema",
)


def parse_fields(cls: type[T], json_msg: Mapping[str, Any]) -> T:
    """Make an instance of the dataclass `cls` from decoded JSON. Unknown keys are ignored.

    Raises `JsonDataException` with a message for each field at fault; a nested field is named by its path,
    such as `messages.0.role`.
    """
    try:
        return validate_json(cls, pydantic_core.to_json(json_msg))
    except pydantic_core.PydanticSerializationError as error:
        raise Unprocessable("a text holds half a character (a lone surrogate)") from error
    except ValidationError as error:
        faults = {".".join(path): message for path, message in field_faults(error, json_msg)}
        raise JsonDataException(faults, more=faults_left_out(error)) from None


def faults_left_out(error: ValidationError) -> int:
    """How many faults `field_faults` leaves out."""
    return max(error.error_count() - MAX_FAULTS, 0)


def field_faults(error: ValidationError, json_msg: object) -> Iterator[tuple[list[str], str]]:
    """Path and message of the first `MAX_FAULTS` fields at fault in the client's JSON."""
    details = error.errors(include_url=False, include_context=False, include_input=False)
    for detail in details[:MAX_FAULTS]:
        missing = detail["type"] == "missing"
        path = _path_in(detail["loc"], json_msg, missing)
        if missing:
            yield path, MISSING_PARAMETER
        elif detail["type"] in ("dataclass_type", "dict_type"):
            yield path, "must be an object"
        else:
            yield path, detail["msg"]


def _path_in(loc: tuple[int | str, ...], json_msg: object, missing: bool) -> list[str]:
    """`loc` without the names of union members, which mean nothing to the client.

    missing: the last step names a field that is missing.
    """
    path: list[str] = []
    node: Any = json_msg
    for depth, step in enumerate(loc):
        if isinstance(node, dict) and (step in node or (missing and depth == len(loc) - 1)):
            node = cast("dict[int | str, Any]", node).get(step)
        elif isinstance(node, list) and isinstance(step, int):
            node = cast("list[Any]", node)[step]
        else:
            continue
        path.append(shortened(str(step), _MAX_FAULT_NAME))
    return path


def validate_json(cls: type[T], body: bytes) -> T:
    """Make an instance of the class from JSON. Raises `ValidationError` with each field at fault.

    Of a body of more than `NAMED_FULLY` bytes it holds the first fault of each array and mapping.
    """
    adapter = _thorough_adapter(cls) if len(body) <= NAMED_FULLY else _quick_adapter(cls)
    return adapter.validate_json(body)


@functools.cache
def _thorough_adapter(cls: type[T]) -> TypeAdapter[T]:
    return TypeAdapter(cls)


@functools.cache
def _quick_adapter(cls: type[T]) -> TypeAdapter[T]:
    """One that finds the first fault only of an array or a mapping.

    Pydantic's own looks for all of them: 10 MB of `[1,1,1,…]` for a list of texts take it 4 GB and a minute.
    """
    adapter = TypeAdapter(cls)
    adapter.validator = SchemaValidator(cast("CoreSchema", _stopping(adapter.core_schema)))
    return adapter


def _stopping(schema: Any) -> Any:
    """The same schema, or whatever holds schemas, with arrays and mappings that stop at the first fault."""
    if isinstance(schema, list):
        return [_stopping(part) for part in cast("list[Any]", schema)]
    if isinstance(schema, tuple):  # a choice and its label
        return tuple(_stopping(part) for part in cast("tuple[Any, ...]", schema))
    if not isinstance(schema, Mapping):
        return schema
    found = cast("dict[str, Any]", schema)
    if not isinstance(found.get("type"), str):
        return {name: _stopping(part) for name, part in found.items()}  # fields or choices by name
    stopping = {key: _stopping(part) if key in _PARTS else part for key, part in found.items()}
    if found["type"] in _OF_ANY_LENGTH:
        stopping["fail_fast"] = True
    return stopping
