"""What a local autoscaler reads off the wire.

Checked more strictly than the public service does, so that it doubles as a test of the worker's side.
"""

from __future__ import annotations

from dataclasses import field
from typing import Annotated, Literal, TypeVar

from pydantic import Field, ValidationError, model_validator
from pydantic.dataclasses import dataclass
from typing_extensions import Self

from pyworker.errors import Unprocessable
from pyworker.validation import STRICT, validate_json

RequestStatus = Literal["Success", "Error", "Cancelled", "Rejected"]

_Amount = Annotated[float, Field(ge=0)]
_Count = Annotated[int, Field(ge=0)]
# Kept as it was written: the first form signs 7 and 7.0 differently.
_Cost = Annotated[int, Field(ge=0)] | _Amount

T = TypeVar("T")


@dataclass(frozen=True, config=STRICT)
class RouteRequest:
    """A client asks for a worker. Older clients send neither `request_idx` nor `replay_timeout`."""

    endpoint: str
    cost: _Cost
    api_key: str = ""
    request_idx: _Count = 0
    replay_timeout: float | None = None


@dataclass(frozen=True, config=STRICT)
class WorkerReport:
    """A worker's status. Loads are workload, performances workload per second, disk GiB.

    A worker that cannot start sends only its identity and the reason.
    """

    id: int
    mtoken: str
    version: str
    error_msg: str
    url: Annotated[str, Field(pattern=r"^https?://[^/\s]+(/\S*)?$")]
    loadtime: _Amount = 0.0
    new_load: _Amount = 0.0
    cur_load: _Amount = 0.0
    rej_load: _Amount = 0.0
    cur_perf: _Amount = 0.0
    max_perf: _Amount = 0.0
    num_requests_working: _Count = 0
    num_requests_recieved: _Count = 0
    working_request_idxs: list[int] = field(default_factory=list[int])
    disk_usage: _Amount = 0.0
    additional_disk_usage: float = 0.0
    cur_capacity: float = 0.0
    max_capacity: float = 0.0


@dataclass(frozen=True, config=STRICT)
class FinishedRequest:
    """How one request ended. Times are epoch seconds, 0 if the stage was not reached."""

    request_idx: int
    success: bool
    status: RequestStatus
    entered_queue_at: _Amount
    work_started_at: _Amount
    work_completed_at: _Amount

    @model_validator(mode="after")
    def _success_follows_from_status(self) -> Self:
        if self.success != (self.status in ("Success", "Cancelled")):
            raise ValueError(f"success is {self.success}, which contradicts the status {self.status}")
        return self


@dataclass(frozen=True, config=STRICT)
class FinishedBatch:
    """Requests that ended on one worker since its last accepted batch."""

    worker_id: int
    mtoken: str
    requests: list[FinishedRequest]


@dataclass(frozen=True, config=STRICT)
class WorkersQuery:
    """A client asks for the workers of an endpoint."""

    id: int
    api_key: str = ""


def parse(cls: type[T], body: bytes) -> T:
    """The message in `body`. Raises `Unprocessable` naming every field at fault, never its value."""
    try:
        return validate_json(cls, body)
    except ValidationError as error:
        details = error.errors(include_input=False)
        faults = [(".".join(map(str, fault["loc"])), fault["msg"]) for fault in details]
        raise Unprocessable("; ".join(f"{path}: {text}" if path else text for path, text in faults)) from None
