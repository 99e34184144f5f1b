"""What the autoscaler should be told of each request, and whether it was."""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pyworker.check.finding import Finding
from pyworker.testing import Reported


@dataclass(frozen=True)
class Expected:
    """The outcome that a request should have, and what happened to it."""

    route: str
    request_idx: int
    outcome: str
    what: str

    def compare(self, outcomes: Sequence[str]) -> Iterator[Finding]:
        """With the outcomes that were reported."""
        if list(outcomes) == [self.outcome]:
            return
        if not outcomes:
            problem = f"{self.what}, and no outcome of it is reported"
            advice = "have a handler answer: what a before_request or another view answers is not counted"
        elif len(outcomes) > 1:
            problem = f"{self.what}, which is reported {len(outcomes)} times: {', '.join(outcomes)}"
            advice = "have each request go through one route or counted view, once"
        else:
            problem = f"{self.what}, which is reported as {outcomes[0]}, not {self.outcome}"
            advice = (
                "pass on the model server's status and errors; find_failure tells what a 2xx response hides"
            )
        yield Finding("accounts", self.route, problem, advice)


class Accounts:
    """Compared at the end, since reports take their time."""

    def __init__(self) -> None:
        self._expected: list[Expected] = []

    def expect(self, route: str, request_idx: int, outcome: str, what: str) -> None:
        """One outcome of one request. what: what happened to it."""
        self._expected.append(Expected(route, request_idx, outcome, what))

    def compare(self, reported: Reported, patience: float) -> Iterator[Finding]:
        """Whether each request has exactly its outcome, and no load is left. patience: seconds."""
        awaited = {one.request_idx for one in self._expected}
        with contextlib.suppress(AssertionError):
            reported.wait_for(
                lambda: awaited <= {one.request_idx for one in reported.finished}, "all outcomes", patience
            )
        outcomes: defaultdict[int, list[str]] = defaultdict(list)
        for one in reported.finished:
            outcomes[one.request_idx].append(one.status)
        for one in self._expected:
            yield from one.compare(outcomes[one.request_idx])
        try:
            reported.wait_idle(patience)
        except AssertionError:
            last = reported.reports[-1]
            left = f"{last['num_requests_working']} requests and a load of {last['cur_load']:g}"
            advice = "see which handler does not return; each response has to end"
            yield Finding("accounts", "", f"at the end {left} are left, though none is sent", advice)
