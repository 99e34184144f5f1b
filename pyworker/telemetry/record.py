"""One request that ended or was refused, in figures."""

from __future__ import annotations

from typing import NamedTuple

from pyworker.telemetry.trace import TraceContext

#: Outcomes, as the autoscaler is told them; the last one of a request that was never admitted.
SUCCESS, ERROR, REJECTED, REFUSED = "Success", "Error", "Rejected", "Refused"


class RequestRecord(NamedTuple):
    """Durations in seconds; workload and work in the unit of the worker's `count_workload`.

    ended_at: epoch seconds. status: of the client's response, 499 if the client hung up before. outcome: as
    the autoscaler is told, or `Refused` for a request that was never admitted. reason: why it was refused or
    failed; empty for a success. first_byte: from its turn until the model server's response began; None if
    that never did. work: done, as far as it is known. prompt_tokens, generation_tokens: as the model server
    told them, else None. events: of a stream of server-sent events, as far as they were counted. trace: the
    ids of its spans, if they are exported.
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
    prompt_tokens: int | None = None
    generation_tokens: int | None = None
    events: int = 0
    trace: TraceContext | None = None

    @property
    def working(self) -> float:
        """From its turn to its end."""
        return max(self.total - self.authentication - self.queued, 0.0)

    @property
    def started(self) -> bool:
        """Whether its turn came, as far as its end tells: it had a response, or it failed."""
        return self.first_byte is not None or self.outcome == ERROR

    @property
    def seconds_per_token(self) -> float | None:
        """Mean time between two tokens of a stream; None if it has less than two, or is none."""
        steps = self.tokens_after_first
        if not steps or self.first_byte is None:
            return None
        return max(self.total - self.total_to_first_byte, 0.0) / steps

    @property
    def tokens_after_first(self) -> int:
        """Tokens of a stream after its first one, or events if it tells none; 0 for any other response."""
        if not self.events:
            return 0
        return max((self.generation_tokens or self.events) - 1, 0)

    @property
    def total_to_first_byte(self) -> float:
        """From its arrival until the model server's response began; 0 if that never did."""
        return 0.0 if self.first_byte is None else self.authentication + self.queued + self.first_byte

    @property
    def told_reason(self) -> str:
        """The reason, or what the status and the outcome say where the model server itself was the reason."""
        if self.reason or (self.status < 400 and self.outcome not in (ERROR, REJECTED)):
            return self.reason
        if self.status >= 400:
            return f"the model server's response has status {self.status}"
        return "the model server's response tells of an error"

    def as_json(self) -> dict[str, object]:
        """For `/status/requests`."""
        told: dict[str, object] = {
            name: round(value, 6) if isinstance(value, float) and name != "ended_at" else value
            for name, value in self._asdict().items()
        }
        trace = None if self.trace is None else f"{self.trace.trace:032x}"
        return {**told, "reason": self.told_reason, "trace": trace}
