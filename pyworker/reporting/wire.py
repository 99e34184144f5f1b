"""The messages to the autoscaler, with the field names of the wire."""

from __future__ import annotations

from dataclasses import dataclass, field
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
    """One entry of `/delete_requests/`. Times are epoch seconds, 0 if not reached."""

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
        """The entry of a request with this outcome. To the autoscaler, cancelled is a success."""
        success = outcome in (Outcome.SUCCESS, Outcome.CANCELLED)
        return cls(request_idx, success, outcome.value, entered, started, completed)


@dataclass(frozen=True)
class StatusReport:
    """The body of `/worker_status/`, with the fields of PROTOCOL.md. Loads are in units of workload."""

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


@dataclass(frozen=True)
class Identity:
    """Who sends the report."""

    container_id: int
    master_token: str = field(repr=False)
    url: str


@dataclass(frozen=True)
class ModelFigures:
    """What a report says about the model. max_perf: workload per second, 0 unless the model can serve."""

    max_perf: float
    error_msg: str
