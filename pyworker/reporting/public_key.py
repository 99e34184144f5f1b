"""Fetches the autoscaler's public key, and again whenever it may have been rotated."""

from __future__ import annotations

import logging
from collections.abc import Callable

from pyworker.errors import AutoscalerError
from pyworker.reporting.autoscaler_client import AutoscalerClient

logger = logging.getLogger(__name__)

_MIN_PAUSE = 0.5
_MAX_PAUSE = 30.0


class KeyFetcher:
    """Fetches the public key until it gets one. One thread calls `fetch_once`.

    set_key: takes the PEM and returns whether the key is new; raises ValueError if it is no PEM.
    on_new_key: called after a new key was set. wake: makes the next `fetch_once` due immediately.
    """

    def __init__(
        self,
        client: AutoscalerClient,
        set_key: Callable[[str], bool],
        *,
        on_new_key: Callable[[], None] = lambda: None,
        wake: Callable[[], None] = lambda: None,
    ) -> None:
        self._client = client
        self._set_key = set_key
        self._on_new_key = on_new_key
        self._wake = wake
        self._pause = 0.0

    def fetch_once(self) -> float | None:
        """Try once. Returns the seconds until the next try, or None if the key was fetched."""
        try:
            is_new = self._set_key(self._client.fetch_public_key())
        except (AutoscalerError, ValueError, IndexError, TypeError) as error:
            self._pause = min(max(2 * self._pause, _MIN_PAUSE), _MAX_PAUSE)
            logger.warning(
                "the autoscaler's public key cannot be fetched (%s); next try in %.1f s", error, self._pause
            )
            return self._pause
        self._pause = 0.0
        if is_new:
            logger.info("fetched the autoscaler's public key")
            self._on_new_key()
        return None

    def retry(self) -> None:
        """The autoscaler accepts reports: do not wait out the pause after a failure. From any thread."""
        if self._pause:
            self._wake()
