"""What is known of one request of a load test, and the kinds of failure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import cast

from pyworker.client import ClientError, Trace, WorkerAnswerError, WorkerUnavailable

KINDS = {
    "routing": "routing",
    "connection": "connection",
    "tls": "TLS",
    "4xx": "4xx",
    "429": "429",
    "5xx": "5xx",
    "cut": "truncated response",
    "timeout": "timeout",
    "other": "other",
}
"""Each kind of failure in files, and its name in reports."""

EXCERPT = 200
SHORTEST_HIDDEN = 8


@dataclass(frozen=True)
class Failure:
    """One failed request: failures of a `kind` are counted together, one `example` of each is shown."""

    kind: str
    example: str


@dataclass
class Record:
    """One request that has ended. Moments are monotonic seconds."""

    due: float
    started: float
    workload: float
    trace: Trace = field(default_factory=Trace)
    ended: float = 0.0
    first_token_at: float | None = None
    gaps: list[float] = field(default_factory=list[float])
    tokens: int = 0
    failure: Failure | None = None
    cancelled: bool = False
    """Broken off by the test itself, as users do."""
    turn: int = 0
    """Of a conversation, from 1; 0: of none."""
    input_tokens: int = 0
    """If they are known."""

    # Latencies count from the moment the request was due: a late start is a wait that a user would feel.

    @property
    def total(self) -> float:
        return self.ended - self.due

    @property
    def first_byte(self) -> float | None:
        at = self.trace.first_byte_at
        return None if at is None else at - self.due

    @property
    def first_token(self) -> float | None:
        return None if self.first_token_at is None else self.first_token_at - self.due

    @property
    def per_token(self) -> float | None:
        """Mean time between two tokens: after the first one, each."""
        return sum(self.gaps) / len(self.gaps) if self.gaps else None

    @property
    def normalized(self) -> float | None:
        """The latency for each token of the response."""
        return self.total / self.tokens if self.tokens else None

    @property
    def late(self) -> float:
        """How long after it was due the generator began with it."""
        return self.started - self.due


def failure_of_status(status: int, text: str, payload: Mapping[str, object]) -> Failure | None:
    """None for a good response."""
    if 200 <= status < 300:
        return None
    return Failure(_kind_of_status(status), f"{status}: {_shown(text, payload)}")


def failure_of_error(error: ClientError, trace: Trace, payload: Mapping[str, object]) -> Failure:
    """The failure that an error of the client stands for."""
    kind = error.kind
    if isinstance(error, WorkerAnswerError):
        kind = _kind_of_status(error.status)
    elif isinstance(error, WorkerUnavailable) and trace.status:
        kind = _kind_of_status(trace.status)  # retries did not help: the last refusal counts
    return Failure(kind if kind in KINDS else "other", _shown(str(error), payload))


def _kind_of_status(status: int) -> str:
    if status == 429:
        return "429"
    family = f"{status // 100}xx"
    return family if family in KINDS else "other"


def _shown(text: str, payload: Mapping[str, object]) -> str:
    """In one line, without the texts of what was sent, which a response may repeat."""
    for value in _texts(payload):
        text = text.replace(value, "…")
    return " ".join(text.split())[:EXCERPT] or "(empty response)"


def _texts(value: object) -> Iterator[str]:
    """The longer texts in it, at whatever depth."""
    if isinstance(value, str):
        if len(value) >= SHORTEST_HIDDEN:
            yield value
    elif isinstance(value, Mapping):
        for inner in cast("Mapping[object, object]", value).values():
            yield from _texts(inner)
    elif isinstance(value, list):
        for inner in cast("list[object]", value):
            yield from _texts(inner)
