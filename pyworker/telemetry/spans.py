"""The export of requests as spans of OpenTelemetry, on a thread of its own."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Sequence
from typing import Protocol

from pyworker.runtime.log_limit import LogLimit
from pyworker.telemetry.record import RequestRecord

logger = logging.getLogger(__name__)

_PACKAGES = "opentelemetry-sdk opentelemetry-exporter-otlp-proto-http"
_BATCH = 300
# Requests that wait for an export; of more than that the oldest are lost.
_MAX_WAITING = 10_000


class Exporter(Protocol):
    """Where spans go. Used by one thread at a time."""

    def send(self, records: Sequence[RequestRecord]) -> bool:
        """Export the spans of these; False if they were not accepted. Takes a few seconds at most."""
        ...

    def close(self) -> None:
        """Nothing is sent any more."""
        ...


class SpanExport:
    """Exports in batches what the recorder tells. A batch that is not accepted is lost.

    `take` may be called from any thread; `step` belongs to one, and `close` comes after its end.
    """

    def __init__(self, exporter: Exporter, wake: Callable[[], None]) -> None:
        """wake: makes the next `step` due."""
        self._exporter = exporter
        self._wake = wake
        # A bounded deque: appending and taking from it are atomic.
        self._waiting: deque[RequestRecord] = deque(maxlen=_MAX_WAITING)
        self._is_failing = False
        self._lines = LogLimit()

    def take(self, records: Sequence[RequestRecord]) -> None:
        """A sink of the recorder."""
        self._waiting.extend(record for record in records if record.trace is not None)
        if self._waiting:
            self._wake()

    def step(self) -> float | None:
        """Export one batch; returns the seconds until the next."""
        self._export(_BATCH)
        return 0.0 if self._waiting else None

    def close(self) -> None:
        """Export what is left in one batch, unless the last one was not accepted."""
        if not self._is_failing:
            self._export(_MAX_WAITING)
        self._exporter.close()

    def _export(self, most: int) -> None:
        batch = [self._waiting.popleft() for _ in range(min(len(self._waiting), most))]
        if not batch:
            return
        self._is_failing = not self._exporter.send(batch)
        if self._is_failing and (more := self._lines.suffix("export")) is not None:
            logger.warning("OpenTelemetry has not accepted the spans of %d requests%s", len(batch), more)

    def __repr__(self) -> str:
        return f"<SpanExport [{len(self._waiting)} waiting]>"


def span_export(endpoint: str, version: str, instance: str, wake: Callable[[], None]) -> SpanExport | None:
    """The export to this base URL; None, and a line in the log, if the packages for it are missing.

    version, instance: of this worker.
    """
    try:
        # Here, so that nobody pays for it who does not use it.
        from pyworker.telemetry.otel import OtelExporter
    except ImportError as error:
        logger.warning(
            "OTEL_EXPORTER_OTLP_ENDPOINT is set, but no spans are exported (%s): pip install %s",
            error,
            _PACKAGES,
        )
        return None
    return SpanExport(OtelExporter(endpoint, version, instance), wake)
