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
from pyworker.reports import Identity, ModelFigures

logger = logging.getLogger(__name__)

#: Seconds between two status reports: at least, and at most.
MIN_INTERVAL = 1.0
MAX_INTERVAL = 10.0
_BATCH = 500
_MAX_PAUSE = 10.0
_MAX_KEY_PAUSE = 30.0
_TIMEOUT = (3.0, 5.0)
_MAX_ANSWER = 64 * 1024
_JSON = {"Content-Type": "application/json"}


class AutoscalerClient:
    """Calls to the first of several addresses that accepts. One thread at a time."""

    def __init__(self, addresses: Sequence[str]) -> None:
        self._addresses = addresses
        self._session = requests.Session()
        self._session.trust_env = False

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
        for address in self._addresses:
            try:
                return self._exchange(method, address + path, body)
            except (requests.exceptions.RequestException, UnicodeDecodeError) as error:
                problems.append(f"{address}{path}: {_brief(error)}")
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
    """The body, as far as it came in the time of one timeout: an answer that trickles holds nobody up."""
    content = b""
    deadline = time.monotonic() + _TIMEOUT[1]
    while len(content) < _MAX_ANSWER and time.monotonic() < deadline:
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

    def report_once(self, now: float) -> float:
        """Send what is due; seconds until the next report is due anyhow. `now` is monotonic."""
        if self._failures and now < self._retry_at:
            return self._retry_at - now
        problem = self._problem(self._send_finished)
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
        return MAX_INTERVAL if self._sent_at is None else max(self._sent_at + MAX_INTERVAL - now, 0.0)

    def flush(self) -> None:
        """One last try before the process ends; raises nothing."""
        problem = self._problem(self._send_finished)
        if self._metrics.changed:
            problem = self._problem(self._send_status) or problem
        if problem:
            logger.warning(
                "the last report was not accepted (%s); %d finished requests unsent",
                problem,
                self._metrics.unsent,
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

    def _send_finished(self) -> None:
        while batch := self._metrics.finished(_BATCH):
            self._client.send_finished(
                {
                    "worker_id": self._identity.container_id,
                    "mtoken": self._identity.master_token,
                    "requests": [record.to_wire() for record in batch],
                }
            )
            self._metrics.acknowledge_finished(len(batch))
