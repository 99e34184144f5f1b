"""What a client sends to the wrapper's `/generate/sync`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from typing_extensions import Self

from pyworker.data_types import OpenPayload
from workers.comfyui.benchmark import stable_diffusion
from workers.comfyui.workflows import with_random_integers

#: Units of each request, whatever its workflow: what the service counts.
WORKLOAD = 100.0


@dataclass
class WrapperRequest(OpenPayload):
    """`{"input": {…}}`. The wrapper checks what is in it."""

    input: dict[str, Any]

    @classmethod
    def of(cls, workflow: Mapping[str, Any]) -> Self:
        """A request for this workflow."""
        return cls({"workflow_json": workflow})

    @classmethod
    def for_test(cls) -> Self:
        return cls.of(with_random_integers(stable_diffusion(), reseeded=True))

    def count_workload(self) -> float:
        return WORKLOAD
