"""HTTP to the autoscaler: the public key comes in, status and finished requests go out."""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Callable, Sequence

import pydantic_core
import requests
import urllib3

from pyworker.auth import SignatureVerifier
from pyworker.errors import AutoscalerError
from pyworker.metrics import Metrics
from pyworker.redaction import redacted
from pyworker.reports import Identity, ModelFigures
from pyworker.timed_http import timed_session

logger = logging.getLogger(__name__)

#: Seconds between two status reports: at least, and at most.
MIN_INTERVAL = 1.0
MAX_INTERVAL = 10.0
_BATCH = 500
_MAX_PAUSE = 10.0
_MAX_KEY_PAUSE = 30.0
#: Seconds to connect, and for a whole exchange with one address, whatever that does.
_TIMEOUT = (3.0, 8.0)
#: Seconds in which batches are still sent at the end.
_LAST_SECONDS = 4.0
_MAX_ANSWER = 64 * 1024
_JSON = {"Content-Type": "application/json"}


class AutoscalerClient:
    """Calls to the first of several addresses that accepts. One thread at a time.

    The address that accepted last is tried first: one that is silent costs its time once.
    """

    def __init__(self, addresses: Sequence[str]) -> None:
        self._addresses = list(addresses)
        self._accepted_by = self._addresses[0]
        self._session = timed_session()

    def fetch_public_key(self) -> str:
        """The PEM of the key that signs requests; raises `AutoscalerError`."""
        return self._first("GET", "/pubkey/", None)

    def send_status(self, body: dict[str, object]) -> None:
        """One status report; raises `AutoscalerError` where no address accepted it."""
        self._first("POST", "/worker_status/", body)

    def send_finished(self, body: dict[str, object]) -> None:
        """A batch of finished requests; raises `AutoscalerError` where no address accepted it."""
        self._first("POST", "/delete_requests/", body)

    def _first(self, method: str, path: str, body: dict[str, object] | None) -> str:
        problems: list[str] = []
        others = (address for address in self._addresses if address != self._accepted_by)
        for address in (self._accepted_by, *others):
            try:
                content = self._exchange(method, address + path, body)
            except (requests.exceptions.RequestException, UnicodeDecodeError) as error:
                problems.append(f"{redacted(address)}{path}: {_brief(error)}")
            else:
                self._accepted_by = address
                return content
        raise AutoscalerError("; ".join(problems))

    def _exchange(self, method: str, url: str, body: dict[str, object] | None) -> str:
        # Five times as fast as `json`, which would keep the interpreter from all requests for so long.
        data = None if body is None else pydantic_core.to_json(body)
        headers = None if body is None else _JSON
        with self._session.request(
            method, url, data=data, headers=headers, timeout=_TIMEOUT, allow_redirects=False, stream=True
        ) as answer:
            if not 200 <= answer.status_code < 300:
                raise requests.exceptions.HTTPError(f"answered {answer.status_code}")
            try:
                content = _read(answer)
            except (urllib3.exceptions.HTTPError, OSError) as error:
                if body is None:
                    raise requests.exceptions.HTTPError("broke off its answer") from error
                content = b""
            # A report is accepted by its status: what follows must not make it be sent again.
            return content.decode() if body is None else ""

    def close(self) -> None:
        """Close the connections."""
        self._session.close()


def _read(answer: requests.Response) -> bytes:
    """The body, as far as it came in the time of the exchange: one that drips holds nobody up."""
    content = b""
    while len(content) < _MAX_ANSWER:
        piece = answer.raw.read1(_MAX_ANSWER, decode_content=True)
        if not piece:
            break
        content += piece
    return content


def _brief(error: Exception) -> str:
    if isinstance(error, requests.exceptions.Timeout):
        return "no answer in time"
    if isinstance(error, requests.exceptions.ConnectionError):
        return "cannot be reached"
    return str(error)


class KeyFetcher:
    """Brings the public key to the verifier. Steps of one thread."""

    def __init__(self, client: AutoscalerClient, verifier: SignatureVerifier) -> None:
        self._client = client
        self._verifier = verifier
        self._pause = 0.0

    def fetch_once(self) -> float | None:
        """Try once; seconds until the next try, or None: not before somebody asks."""
        try:
            changed = self._verifier.set_public_key(self._client.fetch_public_key())
        except (AutoscalerError, ValueError, IndexError, TypeError) as error:
            self._pause = min(max(2 * self._pause, 0.5), _MAX_KEY_PAUSE)
            logger.warning(
                "the autoscaler's public key cannot be fetched (%s); next try in %.1f s", error, self._pause
            )
            return self._pause
        self._pause = 0.0
        if changed:
            logger.info("the autoscaler's public key is here; signatures are checked with it")
        return None


class Reporter:
    """Status reports and finished requests, kept until accepted. Steps of one thread."""

    def __init__(
        self,
        client: AutoscalerClient,
        metrics: Metrics,
        identity: Identity,
        figures: Callable[[], ModelFigures],
        on_accepted: Callable[[], None] = lambda: None,
    ) -> None:
        self._client = client
        self._metrics = metrics
        self._identity = identity
        self._figures = figures
        self._on_accepted = on_accepted
        self._sent_at: float | None = None
        self._failures = 0
        self._retry_at = 0.0
        self._is_behind = False

    def report_once(self, now: float) -> float:
        """Send what is due, of the finished requests one batch; seconds until the next step is due.

        `now` is monotonic. Many finished requests take many steps, so that the status is not kept waiting.
        """
        if self._failures and now < self._retry_at:
            return self._retry_at - now
        problem = self._problem(self._send_batch)
        # Tried in any case: a route that fails must not silence the other.
        if self._status_due(now):
            status_problem = self._problem(self._send_status)
            if not status_problem:
                self._sent_at = now
            problem = problem or status_problem
        if problem:
            self._failures += 1
            pause = min(2.0 ** (self._failures - 1), _MAX_PAUSE)
            self._retry_at = now + pause
            logger.warning("a report was not accepted (%s); kept, next try in %.0f s", problem, pause)
            return pause
        if self._failures:
            logger.info("the autoscaler accepts reports again")
        self._failures = 0
        if self._is_behind:
            return 0.0
        return MAX_INTERVAL if self._sent_at is None else max(self._sent_at + MAX_INTERVAL - now, 0.0)

    def flush(self) -> None:
        """One last try before the process ends; raises nothing."""
        deadline = time.monotonic() + _LAST_SECONDS
        problem = self._problem(self._send_batch)
        while not problem and len(self._metrics.journal) and time.monotonic() < deadline:
            problem = self._problem(self._send_batch)
        if self._metrics.changed:
            problem = self._problem(self._send_status) or problem
        unsent = len(self._metrics.journal)
        if problem or unsent:
            reason = problem or "there was no time for more"
            logger.warning(
                "the last report was not accepted (%s); %d finished requests unsent", reason, unsent
            )

    def _problem(self, send: Callable[[], None]) -> str:
        """Send; why that failed, empty where it did not."""
        try:
            send()
        except AutoscalerError as error:
            return str(error)
        return ""

    def _status_due(self, now: float) -> bool:
        if self._sent_at is None:
            return True
        waited = now - self._sent_at
        return waited >= MAX_INTERVAL or (waited >= MIN_INTERVAL and self._metrics.changed)

    def _send_status(self) -> None:
        disk_usage = shutil.disk_usage("/").used / 2**30
        snapshot = self._metrics.snapshot(self._identity, self._figures(), disk_usage)
        self._client.send_status(snapshot.report.to_wire())
        self._metrics.acknowledge(snapshot)
        self._on_accepted()

    def _send_batch(self) -> None:
        journal = self._metrics.journal
        batch = journal.oldest(_BATCH)
        # More wait than those that came since the step began, which wake the next one.
        self._is_behind = len(batch) == _BATCH
        if batch:
            self._client.send_finished(
                {
                    "worker_id": self._identity.container_id,
                    "mtoken": self._identity.master_token,
                    "requests": [record.to_wire() for record in batch],
                }
            )
            journal.drop(len(batch))
