"""What is told to the autoscaler. The only home of the wire's spellings."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from enum import Enum
from typing import NamedTuple

PROTOCOL_VERSION = "1.1.0"


class Outcome(Enum):
    """How a request ended; the values go on the wire."""

    SUCCESS = "Success"
    ERROR = "Error"
    CANCELLED = "Cancelled"
    REJECTED = "Rejected"


class FinishedRequest(NamedTuple):
    """One entry of `/delete_requests/`. Times are epoch seconds, 0 where not reached."""

    request_idx: int
    success: bool
    status: str
    entered_queue_at: float
    work_started_at: float
    work_completed_at: float

    @classmethod
    def of(
        cls, outcome: Outcome, request_idx: int, entered: float, started: float, completed: float
    ) -> FinishedRequest:
        """Of a request that ended so: the autoscaler takes a cancelled one for a success."""
        success = outcome in (Outcome.SUCCESS, Outcome.CANCELLED)
        return cls(request_idx, success, outcome.value, entered, started, completed)

    def to_wire(self) -> dict[str, object]:
        """The JSON object that is sent."""
        return self._asdict()


@dataclass(frozen=True)
class StatusReport:
    """The body of `/worker_status/`, field by field as PROTOCOL names it. Loads are workload units."""

    id: int
    mtoken: str = field(repr=False)
    version: str
    loadtime: float
    new_load: float
    cur_load: float
    rej_load: float
    cur_perf: float
    max_perf: float
    error_msg: str
    num_requests_working: int
    num_requests_recieved: int
    working_request_idxs: list[int]
    disk_usage: float
    additional_disk_usage: float
    url: str
    cur_capacity: int = 0
    max_capacity: int = 0

    def to_wire(self) -> dict[str, object]:
        """The JSON object that is sent."""
        return asdict(self)


@dataclass(frozen=True)
class Identity:
    """Who reports."""

    container_id: int
    master_token: str = field(repr=False)
    url: str


@dataclass(frozen=True)
class ModelFigures:
    """What a report says of the model: `max_perf` in workload per second."""

    max_perf: float
    error_msg: str
