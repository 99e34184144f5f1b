"""One request and its response, measured."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Generator, Mapping
from typing import Protocol

from pyworker.client import ClientError, Trace
from pyworker.loadtest.answers import Answer
from pyworker.loadtest.measurement import Measurement
from pyworker.loadtest.payloads import Prepared
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


class Line(Protocol):
    """The way of a request to the target; raises `ClientError`."""

    def call(self, fields: Mapping[str, object], workload: float, trace: Trace) -> tuple[int, bytes]:
        """Status and body of the response."""
        ...

    def stream(self, fields: Mapping[str, object], workload: float, trace: Trace) -> Generator[str]:
        """The data of its events."""
        ...


class Direct:
    """Each request by itself. Any thread may use it."""

    def __init__(self, called: Called) -> None:
        self._client = called.client
        self._route = called.route

    def call(self, fields: Mapping[str, object], workload: float, trace: Trace) -> tuple[int, bytes]:
        response = self._client.call(self._route, fields, workload, trace=trace)
        return response.status_code, response.content

    def stream(self, fields: Mapping[str, object], workload: float, trace: Trace) -> Generator[str]:
        return self._client.stream(self._route, fields, workload, trace=trace)


class Exchange:
    """Any thread may perform requests."""

    def __init__(
        self, called: Called, measurement: Measurement, *, stream: bool, cancelling: Cancelling | None = None
    ) -> None:
        self._query = called.query
        self._for_model = called.for_model
        self._measurement = measurement
        self._cancelling = cancelling or Cancelling(0.0, 0.0, None)
        self._once = self._stream if stream else self._whole

    def fields(self, prepared: Prepared) -> Mapping[str, object]:
        """What the target gets."""
        if self._for_model and prepared.for_model is not None:
            return prepared.for_model
        return prepared.fields

    def perform(
        self, line: Line, fields: Mapping[str, object], record: Record, answer: Answer | None = None
    ) -> None:
        """Fills in the record and counts it. answer: gets what came, and fails the request if it has no text.

        Never raises: a request that does not end would keep the test from ending.
        """
        # What no report shows, though a response or an error may repeat it.
        hidden = {"payload": fields, "query": self._query}
        self._measurement.started()
        try:
            record.failure = self._once(line, fields, hidden, record, answer)
        except ClientError as error:
            record.failure = failure_of_error(error, record.trace, hidden)
        except Exception as error:  # noqa: BLE001
            record.failure = Failure("other", f"{type(error).__name__}: {error}")
        record.ended = record.ended or time.monotonic()
        if record.failure is None and answer is not None and not record.cancelled:
            record.failure = answer.fault
        self._measurement.ended(record)

    def _whole(
        self,
        line: Line,
        fields: Mapping[str, object],
        hidden: Mapping[str, object],
        record: Record,
        answer: Answer | None,
    ) -> Failure | None:
        status, content = line.call(fields, record.workload, record.trace)
        record.ended = time.monotonic()
        good = 200 <= status < 300
        text = content.decode("utf-8", "replace") if not good or answer is not None else ""
        if good and answer is not None:
            answer.hear(text)
        return failure_of_status(status, text, hidden)

    def _stream(
        self,
        line: Line,
        fields: Mapping[str, object],
        _hidden: Mapping[str, object],
        record: Record,
        answer: Answer | None,
    ) -> None:
        items = line.stream(fields, record.workload, record.trace)
        end = self._cancelling.end_of(record.started)
        last = 0.0
        for item in items:
            now = time.monotonic()
            if record.first_token_at is None:
                record.first_token_at = now
            else:
                record.gaps.append(now - last)
            last = now
            record.tokens += 1
            if answer is not None:
                answer.hear(item)
            if now > end:
                record.cancelled = True
                items.close()  # closes the connection
