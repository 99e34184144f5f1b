"""What the payloads of all routes have in common: wrapped input, and the shape of a workload."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, cast

from typing_extensions import Self

from pyworker.data_types import OpenPayload
from workers.openai.settings import OpenAISettings

#: Workload of an ordinary request of a route whose work is not counted in tokens, so that the figures of all
#: routes are of one size: that of a text of 500 tokens.
UNIT = 500.0
_LEAST, _MOST = 0.1, 8.0


def scaled(share: float) -> float:
    """The workload of a request that is `share` times an ordinary one, within bounds."""
    return UNIT * min(max(share, _LEAST), _MOST)


def unwrapped(json_msg: Mapping[str, Any]) -> Mapping[str, Any]:
    """The payload itself, which older clients send as `{"input": {…}}`.

    `input` is also a field of several routes, but never an object there. Fields beside it count if the inner
    object does not have them.
    """
    inner = json_msg.get("input")
    if not isinstance(inner, dict):
        return json_msg
    beside = {name: value for name, value in json_msg.items() if name != "input"}
    return {**beside, **cast("dict[str, Any]", inner)}


@dataclass(kw_only=True)
class OpenAIPayload(OpenPayload):
    """A JSON payload."""

    #: Whether the workload is in tokens, which a response counts as well.
    in_tokens: ClassVar[bool] = False

    @classmethod
    def from_json_msg(cls, json_msg: Mapping[str, Any]) -> Self:
        return super().from_json_msg(unwrapped(json_msg))

    @classmethod
    def for_test(cls) -> Self:
        return cls.for_benchmark(OpenAISettings())

    @classmethod
    def for_benchmark(cls, options: OpenAISettings) -> Self:
        """One request of the benchmark, which no cache of the model has seen."""
        raise NotImplementedError(cls.__name__)
