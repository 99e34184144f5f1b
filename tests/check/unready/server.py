"""A worker that takes the line that says loaded for an error, and whose benchmark its own route refuses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field
from typing_extensions import Self

from pyworker.data_types import ApiPayload, LogAction
from pyworker.routes import Post, worker


@dataclass
class Picky(ApiPayload):
    steps: Annotated[int, Field(ge=1)]

    @classmethod
    def for_test(cls) -> Self:
        return cls(0)

    def count_workload(self) -> float:
        return float(self.steps)


create_backend, create_blueprint = worker(
    "http://127.0.0.1:1",
    Post("/generate", Picky, benchmark=Picky.for_test),
    log=[(LogAction.ModelLoaded, "started without error"), (LogAction.ModelError, "error")],
)
