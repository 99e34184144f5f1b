"""Tells the model server that the client of a request has gone: the `on_cancel` of its handler."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Any

from pyworker.errors import PyworkerError
from pyworker.jobs import CANCEL_TIMEOUT, Job, JobCall
from pyworker.runtime.thread_pool import waiting
from pyworker.upstream.client import ModelClient

logger = logging.getLogger(__name__)


class Cancellation:
    """The hook of one request. Thread-safe."""

    def __init__(
        self, client: ModelClient, endpoint: str, hook: Callable[[Any, Job], None], payload: object
    ) -> None:
        """endpoint: for the log; hook: gets the payload, and a job whose calls take 10 s at most."""
        self._client = client
        self._endpoint = endpoint
        self._hook = hook
        self._payload = payload
        # Guards _thread.
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Call the hook on a thread of its own, the first time only: it may block."""
        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="pyworker-on-cancel", daemon=True)
                self._thread.start()

    def wait(self, seconds: float) -> None:
        """Until the hook has returned, if it was called."""
        thread = self._thread
        if thread is not None:
            with waiting:
                thread.join(seconds)

    def _run(self) -> None:
        try:
            self._hook(self._payload, Job(self._client, JobCall(), CANCEL_TIMEOUT))
        except Exception as error:  # noqa: BLE001  the request has ended anyway
            # Only our own errors are known to contain nothing of the request.
            text = str(error) if isinstance(error, PyworkerError) else ""
            logger.warning("on_cancel of %s failed: %s %s", self._endpoint, type(error).__name__, text)
        finally:
            self._payload = None

    def __repr__(self) -> str:
        return f"<Cancellation of {self._endpoint}{'' if self._thread is None else ' called'}>"
