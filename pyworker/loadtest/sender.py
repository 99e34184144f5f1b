"""Sends one request and records its outcome."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Mapping

from pyworker.client import ClientError
from pyworker.loadtest.measurement import Measurement
from pyworker.loadtest.payloads import Payloads, Prepared
from pyworker.loadtest.record import Failure, Record, failure_of_error, failure_of_status
from pyworker.loadtest.targets import Called


class Cancelling:
    """Which streams are broken off: a share of all, each after a time of its own. Any thread may ask."""

    def __init__(self, share: float, after: float, seed: int | None) -> None:
        """after: seconds on average, distributed exponentially, as patience is."""
        self._share = share
        self._after = after
        # Its own lock guards each number that it makes.
        self._random = random.Random(seed)

    def end_of(self, started: float) -> float:
        """The monotonic moment; never for most."""
        if self._random.random() >= self._share:
            return math.inf
        return started + self._random.expovariate(1 / self._after)


class Sender:
    """Any thread may send.

    first: the number of the first request's payload, so that the parts of a test do not all send the same.
    """

    def __init__(
        self,
        called: Called,
        payloads: Payloads,
        measurement: Measurement,
        *,
        stream: bool,
        first: int = 0,
        cancelling: Cancelling | None = None,
    ) -> None:
        self._client = called.client
        self._route = called.route
        self._query = called.query
        self._for_model = called.for_model
        self._payloads = payloads
        self._first = first
        self._measurement = measurement
        self._cancelling = cancelling or Cancelling(0.0, 0.0, None)
        self._once = self._stream if stream else self._whole

    def send(self, number: int, due: float) -> None:
        """Never raises: a request that does not end would keep the test from ending."""
        prepared = self._payloads.of(self._first + number)
        record = Record(due, time.monotonic(), prepared.workload)
        self._measurement.started()
        try:
            record.failure = self._once(prepared, record)
        except ClientError as error:
            record.failure = failure_of_error(error, record.trace, self._hidden(prepared))
        except Exception as error:  # noqa: BLE001
            record.failure = Failure("other", f"{type(error).__name__}: {error}")
        record.ended = time.monotonic()
        self._measurement.ended(record)

    def _fields(self, prepared: Prepared) -> Mapping[str, object]:
        if self._for_model and prepared.for_model is not None:
            return prepared.for_model
        return prepared.fields

    def _hidden(self, prepared: Prepared) -> Mapping[str, object]:
        """What no report shows, though a response or an error may repeat it."""
        return {"payload": self._fields(prepared), "query": self._query}

    def _whole(self, prepared: Prepared, record: Record) -> Failure | None:
        fields = self._fields(prepared)
        response = self._client.call(self._route, fields, prepared.workload, trace=record.trace)
        text = "" if response.ok else response.content.decode("utf-8", "replace")
        return failure_of_status(response.status_code, text, self._hidden(prepared))

    def _stream(self, prepared: Prepared, record: Record) -> None:
        fields = self._fields(prepared)
        items = self._client.stream(self._route, fields, prepared.workload, trace=record.trace)
        end = self._cancelling.end_of(record.started)
        last = 0.0
        for _ in items:
            now = time.monotonic()
            if record.first_token_at is None:
                record.first_token_at = now
            else:
                record.gaps.append(now - last)
            last = now
            record.tokens += 1
            if now > end:
                record.cancelled = True
                items.close()  # closes the connection
