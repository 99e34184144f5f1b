"""One request that ended or was refused, in figures."""

from __future__ import annotations

from typing import NamedTuple

#: The outcome of a request that was never admitted.
REFUSED = "Refused"
_FAILED = ("Error", "Rejected")


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

    @property
    def told_reason(self) -> str:
        """The reason, or what the status and the outcome say where the model server itself was the reason."""
        if self.reason or (self.status < 400 and self.outcome not in _FAILED):
            return self.reason
        if self.status >= 400:
            return f"the model server's response has status {self.status}"
        return "the model server's response tells of an error"

    def as_json(self) -> dict[str, object]:
        """For `/status/requests`."""
        rounded = {
            name: round(value, 6) if isinstance(value, float) and name != "ended_at" else value
            for name, value in self._asdict().items()
        }
        return {**rounded, "reason": self.told_reason}
