"""Sends one request and records its outcome."""

from __future__ import annotations

import time

from pyworker.client import Client, ClientError
from pyworker.loadtest.measurement import Measurement
from pyworker.loadtest.payloads import Payloads, Prepared
from pyworker.loadtest.record import Failure, Record, failure_of_error, failure_of_status


class Sender:
    """Any thread may send."""

    def __init__(
        self, client: Client, payloads: Payloads, route: str, measurement: Measurement, *, stream: bool
    ) -> None:
        self._client = client
        self._payloads = payloads
        self._route = route
        self._measurement = measurement
        self._once = self._stream if stream else self._whole

    def send(self, number: int, due: float) -> None:
        """Never raises: a request that does not end would keep the test from ending."""
        prepared = self._payloads.of(number)
        record = Record(due, time.monotonic(), prepared.workload)
        self._measurement.started()
        try:
            record.failure = self._once(prepared, record)
        except ClientError as error:
            record.failure = failure_of_error(error, record.trace, prepared.fields)
        except Exception as error:  # noqa: BLE001
            record.failure = Failure("other", f"{type(error).__name__}: {error}")
        record.ended = time.monotonic()
        self._measurement.ended(record)

    def _whole(self, prepared: Prepared, record: Record) -> Failure | None:
        response = self._client.call(self._route, prepared.fields, prepared.workload, trace=record.trace)
        text = "" if response.ok else response.content.decode("utf-8", "replace")
        return failure_of_status(response.status_code, text, prepared.fields)

    def _stream(self, prepared: Prepared, record: Record) -> None:
        items = self._client.stream(self._route, prepared.fields, prepared.workload, trace=record.trace)
        last = 0.0
        for _ in items:
            now = time.monotonic()
            if record.first_token_at is None:
                record.first_token_at = now
            else:
                record.gaps.append(now - last)
            last = now
            record.tokens += 1
