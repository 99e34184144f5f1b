"""Is the model server well? Asked on a connection of its own, never on the busy ones."""

from __future__ import annotations

import logging
import threading

import requests

from pyworker.lifecycle import Cause, ModelLifecycle, ModelState, ModelStatus
from pyworker.redaction import redacted

logger = logging.getLogger(__name__)

INTERVAL = 10.0
#: Between two looks whether the model is loaded, where its health says so.
LOADING_INTERVAL = 1.0
TIMEOUT = 10.0


class HealthProbe:
    """One URL. Thread-safe: each call has a connection of its own."""

    def __init__(self, url: str, api_key: str = "") -> None:
        self.url = url
        self._headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}

    def fetch(self) -> requests.Response:
        """The model server's own answer; raises an exception of requests."""
        with requests.Session() as session:
            session.trust_env = False
            return session.get(self.url, headers=self._headers, timeout=TIMEOUT, allow_redirects=False)

    def problem(self) -> str:
        """Empty where the model server is well, else why not."""
        try:
            status = self.fetch().status_code
        except requests.exceptions.Timeout:
            return f"{redacted(self.url)} did not answer in {TIMEOUT:g} s"
        except requests.exceptions.RequestException:
            return f"{redacted(self.url)} cannot be reached"
        return "" if 200 <= status < 300 else f"{redacted(self.url)} answered {status}"


class HealthMonitor:
    """Probes a model that should be serving. `step` belongs to one thread; `suspect` may come from any.

    tells_loaded: a success also says that a model is loaded, and until then it is asked more often.
    """

    def __init__(
        self,
        probe: HealthProbe,
        lifecycle: ModelLifecycle,
        failures_allowed: int,
        *,
        tells_loaded: bool = False,
    ) -> None:
        self._probe = probe
        self._lifecycle = lifecycle
        self._failures_allowed = failures_allowed
        self._tells_loaded = tells_loaded
        self._failures = 0
        # Guards _suspicion.
        self._lock = threading.Lock()
        self._suspicion = ""

    def suspect(self, line: str) -> None:
        """The log speaks of an error: the next probe decides, without further patience."""
        with self._lock:
            self._suspicion = line

    def step(self) -> float:
        """Probe once where that means anything; seconds until the next probe."""
        status = self._lifecycle.status
        if status.state is not ModelState.READY and status.cause is not Cause.HEALTH:
            self._failures = 0
            return self._look_for_loaded(status) if self._tells_loaded else INTERVAL
        with self._lock:
            suspicion, self._suspicion = self._suspicion, ""
        problem = self._probe.problem()
        if not problem:
            self._failures = 0
            if self._lifecycle.recovered():
                logger.info("the model server is well again; the worker is ready")
            return INTERVAL
        self._failures += 1
        logger.warning("health probe failed (%d in a row): %s", self._failures, problem)
        if suspicion or self._failures >= self._failures_allowed:
            message = f"{problem}; its log said: {suspicion}" if suspicion else problem
            self._lifecycle.failed(Cause.HEALTH, message, epoch=status.epoch)
        return INTERVAL

    def _look_for_loaded(self, status: ModelStatus) -> float:
        if status.awaits_loading and not self._probe.problem() and self._lifecycle.loaded(epoch=status.epoch):
            logger.info("the model is loaded: %s is well", redacted(self._probe.url))
        return LOADING_INTERVAL
