"""Sends status reports and finished requests to the autoscaler."""

from __future__ import annotations

import logging
import shutil
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

from pyworker.errors import AutoscalerError
from pyworker.reporting.autoscaler_client import AutoscalerClient
from pyworker.reporting.journal import Journal
from pyworker.reporting.ledger import Ledger
from pyworker.reporting.wire import Identity, ModelFigures

logger = logging.getLogger(__name__)

#: Minimum and maximum seconds between two status reports.
MIN_INTERVAL = 1.0
MAX_INTERVAL = 10.0
_BATCH = 500
_MAX_PAUSE = 10.0
#: Seconds for which `flush` goes on sending batches.
_FLUSH_SECONDS = 4.0
# Of the last reports it is remembered how they ended.
_REMEMBERED = 20


@dataclass(frozen=True)
class LastReport:
    """at: epoch seconds, None before the first; problem: why it was not accepted; failures: in a row."""

    at: float | None = None
    problem: str = ""
    failures: int = 0

    def as_json(self) -> dict[str, object]:
        """For `/status`."""
        return {"last_report_at": self.at, "problem": self.problem, "failures": self.failures}


class Reporter:
    """Sends status reports and finished requests until they are accepted. One thread owns it."""

    def __init__(
        self,
        client: AutoscalerClient,
        ledger: Ledger,
        journal: Journal,
        identity: Identity,
        figures: Callable[[], ModelFigures],
        on_accepted: Callable[[], None] = lambda: None,
    ) -> None:
        self._client = client
        self._ledger = ledger
        self._journal = journal
        self._identity = identity
        self._figures = figures
        self._on_accepted = on_accepted
        self._sent_at: float | None = None
        self._failures = 0
        self._retry_at = 0.0
        self._is_behind = False
        #: How the last report ended. Replaced as a whole by the thread that reports.
        self.last = LastReport()
        #: Reports that were not accepted, since the start.
        self.failed = 0
        # A bounded deque: append and copy are atomic.
        self._recent: deque[LastReport] = deque(maxlen=_REMEMBERED)

    def recent(self) -> Sequence[LastReport]:
        """How the last reports ended, oldest first. Any thread may ask."""
        return list(self._recent)

    def report_once(self, now: float) -> float:
        """Send what is due. Returns the seconds until the next step. now: monotonic seconds.

        A step sends one batch of finished requests, so that many of them do not delay the status.
        """
        if self._failures and now < self._retry_at:
            return self._retry_at - now
        problem = self._problem(self._send_batch)
        # Even if the batch failed: one failing route must not stop the other.
        if self._status_due(now):
            status_problem = self._problem(self._send_status)
            if not status_problem:
                self._sent_at = now
            problem = problem or status_problem
        if problem or self._sent_at == now:
            self.last = LastReport(time.time(), problem, self._failures + 1 if problem else 0)
            self._recent.append(self.last)
        if problem:
            self._failures += 1
            self.failed += 1
            pause = min(2.0 ** (self._failures - 1), _MAX_PAUSE)
            self._retry_at = now + pause
            logger.warning("a report was not accepted (%s); next try in %.0f s", problem, pause)
            return pause
        if self._failures:
            logger.info("the autoscaler accepts reports again")
        self._failures = 0
        if self._is_behind:
            return 0.0
        return MAX_INTERVAL if self._sent_at is None else max(self._sent_at + MAX_INTERVAL - now, 0.0)

    def flush(self) -> None:
        """Try once more before the process ends. Raises nothing."""
        deadline = time.monotonic() + _FLUSH_SECONDS
        problem = self._problem(self._send_batch)
        while not problem and len(self._journal) and time.monotonic() < deadline:
            problem = self._problem(self._send_batch)
        if self._ledger.changed:
            problem = self._problem(self._send_status) or problem
        unsent = len(self._journal)
        if problem or unsent:
            logger.warning(
                "the last report was not accepted (%s); %d finished requests unsent",
                problem or "out of time",
                unsent,
            )

    def _problem(self, send: Callable[[], None]) -> str:
        """Call `send`. Returns why it failed; empty if it did not."""
        try:
            send()
        except AutoscalerError as error:
            return str(error)
        return ""

    def _status_due(self, now: float) -> bool:
        if self._sent_at is None:
            return True
        waited = now - self._sent_at
        return waited >= MAX_INTERVAL or (waited >= MIN_INTERVAL and self._ledger.changed)

    def _send_status(self) -> None:
        disk_usage = shutil.disk_usage("/").used / 2**30
        figures = self._figures()
        if figures.max_perf > 0:
            # Before the snapshot: the first report of a ready model carries the load time.
            self._ledger.model_ready()
        snapshot = self._ledger.snapshot(self._identity, figures, disk_usage)
        self._client.send_status(asdict(snapshot.report))
        self._ledger.acknowledge(snapshot)
        self._on_accepted()

    def _send_batch(self) -> None:
        batch = self._journal.oldest(_BATCH)
        # A full batch: there may be more, and no wake-up comes for those.
        self._is_behind = len(batch) == _BATCH
        if batch:
            self._client.send_finished(
                {
                    "worker_id": self._identity.container_id,
                    "mtoken": self._identity.master_token,
                    "requests": [record._asdict() for record in batch],
                }
            )
            self._journal.drop(len(batch))
