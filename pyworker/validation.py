"""Decoded JSON as dataclasses: a message for each field at fault, named by its path in the client's JSON."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from typing import Any, TypeVar, cast

import pydantic_core
from pydantic import ConfigDict, TypeAdapter, ValidationError

from pyworker.errors import JsonDataException, Unprocessable, shortened

T = TypeVar("T")

#: No conversions: neither "7" nor true is accepted for a number, and no infinite cost.
STRICT = ConfigDict(strict=True, allow_inf_nan=False)

MISSING_PARAMETER = "missing parameter"
#: More faults than this are only counted: one JSON array may have thousands.
MAX_FAULTS = 20
_MAX_FAULT_NAME = 200  # characters


def parse_fields(cls: type[T], json_msg: Mapping[str, Any]) -> T:
    """Make an instance of the dataclass `cls` from decoded JSON. Unknown keys are ignored.

    Raises `JsonDataException` with a message for each field at fault; a nested field is named by its path,
    such as `messages.0.role`.
    """
    try:
        return _adapter(cls).validate_json(pydantic_core.to_json(json_msg))
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


@functools.cache
def _adapter(cls: type[T]) -> TypeAdapter[T]:
    return TypeAdapter(cls)
