"""Payload classes: a dataclass, with fields whose types can be checked."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import typing
from typing import Any

from pydantic import PydanticUserError, TypeAdapter
from pydantic.errors import PydanticUndefinedAnnotation
from pydantic_core import SchemaError

from pyworker.contract.places import place_of
from pyworker.data_types import ApiPayload, FixedPayload
from pyworker.errors import ConfigError, shortened
from pyworker.validation import STRICT

_SHOWN = 200
_TYPES = "str, int, float, bool, list[…], dict[str, …], another dataclass, Any, or one of them `| None`"


@functools.cache
def check_payload_class(payload_cls: type[ApiPayload]) -> None:
    """Raise `ConfigError` for a class that could not be parsed or made."""
    if issubclass(payload_cls, FixedPayload) and not inspect.get_annotations(payload_cls):
        return
    _check_decorated(payload_cls)
    missing = sorted(payload_cls.__abstractmethods__)
    if missing:
        raise ConfigError(f"{place_of(payload_cls)} lacks {', '.join(missing)}: write the methods")
    try:
        TypeAdapter(payload_cls).rebuild()  # raises if a name is not known
    except (PydanticUserError, PydanticUndefinedAnnotation, SchemaError, NameError, TypeError) as error:
        raise ConfigError(f"{place_of(payload_cls)}{_field_at_fault(payload_cls, error)}") from error


def _check_decorated(payload_cls: type[ApiPayload]) -> None:
    for cls in payload_cls.__mro__[: payload_cls.__mro__.index(ApiPayload)]:
        fields = [name for name, kind in inspect.get_annotations(cls).items() if not _is_of_class(kind)]
        if fields and "__dataclass_fields__" not in cls.__dict__:
            raise ConfigError(
                f"{place_of(cls)} has the fields {', '.join(fields)}, but is no dataclass: write @dataclass "
                "in the line above it"
            )


def _is_of_class(kind: object) -> bool:
    text = kind if isinstance(kind, str) else str(kind)
    return typing.get_origin(kind) is typing.ClassVar or "ClassVar" in text.partition("[")[0]


def _field_at_fault(payload_cls: type[ApiPayload], error: Exception) -> str:
    """The field whose type is wrong, and what to write."""
    for field in dataclasses.fields(payload_cls):
        alone: Any = dataclasses.make_dataclass(
            "Alone",
            [(field.name, field.type)],
            namespace={"__pydantic_config__": STRICT, "__module__": payload_cls.__module__},
        )
        try:
            TypeAdapter(alone).rebuild()
        except Exception as fault:  # noqa: BLE001  whatever it is, it is the field
            kind = field.type if isinstance(field.type, str) else getattr(field.type, "__name__", field.type)
            return (
                f".{field.name} has the type {kind}, which cannot be checked ({_brief(fault)}): write one of "
                f"{_TYPES}, and import it where the class is imported, too"
            )
    return f" cannot be checked ({_brief(error)}): its fields may be {_TYPES}"


def _brief(error: Exception) -> str:
    text = str(error).partition("\n")[0]
    return shortened(f"{type(error).__name__}: {text}" if text else type(error).__name__, _SHOWN)
