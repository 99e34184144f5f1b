"""What a worker has told the autoscaler."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, cast

from pyworker.local.autoscaler import Autoscaler
from pyworker.local.messages import FinishedRequest
from pyworker.testing.model import DEADLINE


class Reported:
    """The reports of one worker to the autoscaler beside it. A check waits until it holds, or fails."""

    def __init__(self, autoscaler: Autoscaler, url: str) -> None:
        self._fleet = autoscaler.fleet
        self._url = url
        # Workload that was reported before the test began: received, and served.
        self._before = (0.0, 0.0)

    @property
    def reports(self) -> list[Mapping[str, Any]]:
        """The status reports, oldest first."""
        return [
            cast("Mapping[str, Any]", report) for report in self._fleet.reports if report["url"] == self._url
        ]

    @property
    def finished(self) -> list[FinishedRequest]:
        """The requests that have ended, oldest first."""
        return self._fleet.finished

    def wait_for(self, condition: Callable[[], object], what: str, timeout: float = DEADLINE) -> None:
        """Until it holds, looked at after each report. AssertionError if it never does."""
        held = self._fleet.wait_for(lambda _: bool(condition()), timeout)
        assert held, f"not within {timeout:g} s: {what}; the last report: {self.reports[-1:]}"

    def outcome(self, request_idx: int, timeout: float = DEADLINE) -> str:
        """How a request has ended: `Success`, `Error`, `Cancelled` or `Rejected`. AssertionError if that was
        not reported, or more than once.
        """

        def records() -> list[str]:
            return [one.status for one in self.finished if one.request_idx == request_idx]

        self.wait_for(records, f"an outcome of request {request_idx}", timeout)
        found = records()
        assert len(found) == 1, f"request {request_idx} has {len(found)} outcomes: {', '.join(found)}"
        return found[0]

    def wait_idle(self, timeout: float = DEADLINE) -> None:
        """Until a report says that no request and no load is left."""
        self.wait_for(self._is_idle, "a report without a request or load in hand", timeout)

    def _is_idle(self) -> bool:
        last = self.reports[-1]
        ended = {one.request_idx for one in self.finished}
        is_empty = last["cur_load"] == 0 and last["num_requests_working"] == 0
        # A report that is older than the last request knows of fewer.
        return is_empty and last["num_requests_recieved"] >= len(ended)

    def workload_received(self) -> float:
        """Workload of all requests since the test began, less that of cancelled ones; waits until all have
        ended.
        """
        self.wait_idle()
        return self._sum("new_load") - self._before[0]

    def workload_served(self) -> float:
        """Workload of those that were served since the test began; waits until all have ended."""
        self.wait_idle()
        return self._sum("cur_perf") - self._before[1]

    def begin(self) -> None:
        """A test begins: workload counts from here. Waits until all requests have ended."""
        self.wait_idle()
        self._before = (self._sum("new_load"), self._sum("cur_perf"))

    def _sum(self, figure: str) -> float:
        return sum(float(report[figure]) for report in self.reports)

    def __repr__(self) -> str:
        return f"<Reported [{len(self.reports)} reports, {len(self.finished)} finished]>"
