"""One request that ended or was refused, in figures."""

from __future__ import annotations

from typing import NamedTuple

#: The outcome of a request that was never admitted.
REFUSED = "Refused"


class RequestRecord(NamedTuple):
    """Durations in seconds; workload and work in the unit of the worker's `count_workload`.

    ended_at: epoch seconds. status: of the client's response, 499 if the client hung up before. outcome: as
    the autoscaler is told, or `Refused` for a request that was never admitted. reason: why it was refused or
    failed; empty for a success. first_byte: from its turn until the model server's response began; None if
    that never did. work: done, as far as it is known.
    """

    request_id: str
    request_idx: int | None
    route: str
    ended_at: float
    status: int
    outcome: str
    reason: str
    authentication: float
    queued: float
    first_byte: float | None
    total: float
    workload: float
    work: float | None

    @property
    def total_to_first_byte(self) -> float:
        """From its arrival until the model server's response began; 0 if that never did."""
        return 0.0 if self.first_byte is None else self.authentication + self.queued + self.first_byte

    def as_json(self) -> dict[str, object]:
        """For `/status/requests`."""
        return {
            name: round(value, 6) if isinstance(value, float) and name != "ended_at" else value
            for name, value in self._asdict().items()
        }
