"""`AuthData`: the signed part of a request."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from pydantic import ConfigDict, Field, PlainValidator
from pydantic_core import PydanticKnownError
from typing_extensions import Self

from pyworker.validation import STRICT, parse_fields

#: 64 bits: whoever reads a report can parse it.
Index = Annotated[int, Field(ge=-(2**63), lt=2**63)]


class WrittenNumber(float):
    """A number that was sent as text. Its value counts; the signature covers the text."""

    def __new__(cls, text: str) -> Self:
        number = super().__new__(cls, text)
        number.text = text
        return number

    text: str


_NUMBER = re.compile(r"[0-9]+(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?")
_MAX_NUMBER = 40
_MAX_COST = 10**15


def _cost(value: object) -> float:
    if isinstance(value, str) and len(value) <= _MAX_NUMBER and _NUMBER.fullmatch(value):
        value = WrittenNumber(value)
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise PydanticKnownError("float_type")
    if not math.isfinite(value if isinstance(value, float) else 0.0):
        raise PydanticKnownError("finite_number")
    if value < 0:
        raise PydanticKnownError("greater_than_equal", {"ge": 0})
    if value > _MAX_COST:
        raise PydanticKnownError("less_than_equal", {"le": _MAX_COST})
    return value


# Characters. Sessions keep it, and not every signature covers it; real ones are far shorter.
_MAX_ENDPOINT = 1024


@dataclass(frozen=True)
class AuthData:
    """The signed part of a request. `request_idx` may be None in the first form.

    cost: a number; a `WrittenNumber` if the client sent it as text, as older clients do.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    signature: str
    url: str
    endpoint: Annotated[str, Field(max_length=_MAX_ENDPOINT)]
    # The first form signs the cost as it was written, so 7 must not become 7.0.
    cost: Annotated[float, PlainValidator(_cost)]
    reqnum: Index
    request_idx: Index | None = None

    @classmethod
    def from_json_msg(cls, json_msg: Mapping[str, Any]) -> AuthData:
        """Parse `auth_data`; raises `JsonDataException`."""
        return parse_fields(cls, json_msg)
