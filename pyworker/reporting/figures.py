"""What the ledger is asked with, and what it answers."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """The most that may be in hand, entries and workload, for one more to be admitted; None: no limit."""

    entries: int | None = None
    load: float | None = None

    def allow(self, load: float, entries: int) -> bool:
        """Whether one more may come, with this much in hand."""
        return (self.entries is None or entries < self.entries) and (self.load is None or load <= self.load)


@dataclass(frozen=True)
class Counts:
    """Number of entries by outcome, including sessions and the requests in them.

    received is the sum of the others.
    """

    received: int = 0
    served: int = 0
    errored: int = 0
    cancelled: int = 0
    rejected: int = 0
    in_hand: int = 0
