"""Measures the model's throughput, in workload per second."""

from __future__ import annotations

import functools
import logging
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pyworker.data_types import EndpointHandler
from pyworker.errors import ModelBroken, PyworkerError, RequestError
from pyworker.jobs import Job, JobCall, JobHandler
from pyworker.lifecycle.benchmark_subject import COMPARED, fingerprint
from pyworker.lifecycle.parallel import run_all
from pyworker.responses import iterate
from pyworker.runtime.redaction import redacted
from pyworker.runtime.sample import ResponseSample, Sampler, measured
from pyworker.upstream.call import Aborted, ModelCall
from pyworker.upstream.client import ModelClient
from pyworker.upstream.encoding import encode_payload

logger = logging.getLogger(__name__)

_EXCERPT = 200
_RETRY_PAUSE = 1.0


class BenchmarkFailed(PyworkerError):
    """There is no result; the message becomes the report's `error_msg`."""


@dataclass(frozen=True)
class Attempt:
    """One request of the benchmark. `problem` is empty if it succeeded.

    refused: the connection was refused; late: the request did not end within the timeout.
    """

    workload: float = 0.0
    problem: str = ""
    refused: bool = False
    late: bool = False


class Benchmark:
    """Warm-up and rounds on one handler. `run` belongs to one thread; any thread may call the rest.

    concurrency: parallel requests of a round; timeout: seconds for one request, and for the handler to make
    the payloads of a round; ready_timeout: seconds from "loaded" until the model server has to listen.
    """

    def __init__(
        self,
        handler: EndpointHandler[Any],
        client: ModelClient,
        *,
        concurrency: int,
        timeout: float,
        ready_timeout: float,
    ) -> None:
        self._handler = handler
        self._client = client
        self._concurrency = concurrency
        self._timeout = timeout
        self._ready_timeout = ready_timeout
        self._stopping = threading.Event()
        #: What it is doing, in words; empty if it is not running. Written by its own thread.
        self.progress = ""
        # Guards _calls, which `abort` aborts.
        self._lock = threading.Lock()
        self._calls: set[ModelCall] = set()

    def run(self) -> float:
        """Workload per second of the best round. Raises `BenchmarkFailed`."""
        try:
            return self._run()
        finally:
            self.progress = ""

    def _run(self) -> float:
        self.progress = "the first response of the model server"
        self._warm_up()
        logger.info(
            "benchmark of %s: %d rounds of %d requests",
            self._handler.endpoint,
            self._handler.benchmark_runs,
            self._concurrency,
        )
        return max(self._round(number) for number in range(1, self._handler.benchmark_runs + 1))

    def problem(self) -> str:
        """Connect, then send one request; empty if it succeeded, else why not.

        The check of a model server that has no health endpoint.
        """
        problem = self._client.connection_problem()
        if problem:
            return problem
        try:
            [attempt], elapsed = self._send_all(self._payloads(1))
        except BenchmarkFailed as error:
            return str(error)
        return attempt.problem and f"{self._handler.endpoint}: {_after(attempt, elapsed)}"

    def fingerprint(self) -> str:
        """Of what its requests have in common. Raises `BenchmarkFailed`."""
        return fingerprint(self._handler, self._payloads(COMPARED), self._concurrency)

    def abort(self) -> None:
        """Abort a running benchmark: `run` raises `BenchmarkFailed`."""
        self._stopping.set()
        with self._lock:
            calls = list(self._calls)
        _abort(calls)

    def _warm_up(self) -> None:
        """Send requests, which do not count, until the model server accepts a connection."""
        deadline = time.monotonic() + self._ready_timeout
        while True:
            [attempt], elapsed = self._send_all(self._payloads(1))
            if attempt.late:
                raise self._failed(f"the first request did not succeed ({_after(attempt, elapsed)})")
            if not attempt.refused:
                return
            if time.monotonic() >= deadline or self._stopping.wait(_RETRY_PAUSE):
                raise BenchmarkFailed(
                    f"the model server at {redacted(self._client.base_url)} did not listen within "
                    f"{self._ready_timeout:g} s of being loaded: {attempt.problem}"
                )

    def _round(self, number: int) -> float:
        self.progress = f"round {number} of {self._handler.benchmark_runs} of the benchmark"
        attempts, elapsed = self._send_all(self._payloads(self._concurrency))
        succeeded = [attempt for attempt in attempts if not attempt.problem]
        if not succeeded:
            raise self._failed(f"no request of round {number} succeeded ({_after(attempts[0], elapsed)})")
        throughput = sum(attempt.workload for attempt in succeeded) / elapsed
        logger.info(
            "benchmark round %d: %d of %d succeeded, %.1f workload/s in %.2f s",
            number,
            len(succeeded),
            len(attempts),
            throughput,
            elapsed,
        )
        if throughput <= 0:
            raise self._failed("its payloads have no workload")
        return throughput

    def _failed(self, what: str) -> BenchmarkFailed:
        return BenchmarkFailed(f"benchmark of {self._handler.endpoint}: {what}")

    def _payloads(self, count: int) -> Sequence[Any]:
        """Made by the handler. Its code may block, so that has a deadline too."""
        make = self._handler.make_benchmark_payload
        [made] = run_all([lambda: [make() for _ in range(count)]], self._timeout)
        if isinstance(made, BaseException):
            raise self._failed(f"make_benchmark_payload failed: {_brief(made)}") from made
        if made is None:
            raise self._failed(f"make_benchmark_payload took more than {self._timeout:g} s")
        return made

    def _send_all(self, payloads: Sequence[Any]) -> tuple[Sequence[Attempt], float]:
        """Send requests in parallel, abort those that are late; the attempts, and the seconds it took."""
        new_call = JobCall if isinstance(self._handler, JobHandler) else ModelCall
        calls: list[ModelCall] = [new_call() for _ in payloads]
        with self._lock:
            self._calls.update(calls)
        if self._stopping.is_set():  # it may have been set before the calls were known
            self.abort()
        attempts = [
            functools.partial(self._attempt, payload, call)
            for payload, call in zip(payloads, calls, strict=True)
        ]
        started = time.monotonic()
        try:
            results = run_all(attempts, self._timeout, functools.partial(_abort, calls))
        finally:
            with self._lock:
                self._calls.difference_update(calls)
        elapsed = max(time.monotonic() - started, 1e-6)
        return [self._judged(result) for result in results], elapsed

    def _judged(self, result: Attempt | BaseException | None) -> Attempt:
        if result is None:
            return Attempt(problem=f"no response in {self._timeout:g} s", late=True)
        if isinstance(result, BaseException):
            return Attempt(problem=_brief(result))
        return result

    def _attempt(self, payload: Any, call: ModelCall) -> Attempt:
        workload = float(payload.count_workload())
        started = time.monotonic()
        arrived: list[Sampler] = []
        try:
            if isinstance(self._handler, JobHandler):
                work = self._perform(self._handler, payload, call, arrived)
            else:
                work = self._forward(payload, call, arrived)
        except (Aborted, RequestError, ModelBroken) as error:
            if isinstance(error, Aborted) and self._stopping.is_set():
                return Attempt(workload, "aborted")
            if isinstance(error, Aborted) or time.monotonic() - started >= self._timeout:
                missing = "complete response" if arrived else "response"
                return Attempt(workload, f"no {missing} in {self._timeout:g} s", late=True)
            refused = isinstance(error, RequestError) and error.status == 502
            return Attempt(workload, str(error), refused)
        failure = _failure(self._handler, arrived[0].sample())
        return Attempt(workload if work is None else work, failure)

    def _forward(self, payload: Any, call: ModelCall, arrived: list[Sampler]) -> float | None:
        """The work done, if the response tells. The response goes into `arrived` as it comes."""
        body, content_type = encode_payload(self._handler, payload)
        response = self._client.forward(
            self._handler.endpoint,
            body,
            call,
            method=self._handler.method,
            content_type=content_type,
            timeout=self._timeout,
        )
        sampler = Sampler(response.status_code, response.headers.get("Content-Type", ""))
        arrived.append(sampler)
        with response:
            for piece in iterate(response):
                sampler.feed(piece)
        is_success = 200 <= response.status_code < 300
        return measured(self._handler.count_work, sampler.sample()) if is_success else None

    def _perform(
        self, handler: JobHandler[Any], payload: Any, call: ModelCall, arrived: list[Sampler]
    ) -> float | None:
        assert isinstance(call, JobCall)
        job = Job(self._client, call, self._timeout)
        call.begin()
        response = handler.run(payload, job)
        sampler = Sampler(response.status_code, response.content_type or "")
        sampler.feed(response.get_data())
        arrived.append(sampler)
        return job.work


def _abort(calls: Sequence[ModelCall]) -> None:
    for call in calls:
        call.abort()


def _failure(handler: EndpointHandler[Any], sample: ResponseSample) -> str:
    """Why this response does not count as work done; empty if it does."""
    excerpt = sample.beginning[:_EXCERPT].decode("utf-8", "replace")
    if not 200 <= sample.status < 300:
        return f"status {sample.status}: {excerpt}"
    if not sample.length:
        return f"status {sample.status} with an empty body"
    failure = handler.find_failure(sample)
    return failure and f"status {sample.status}, but {failure}: {excerpt}"


def _after(attempt: Attempt, elapsed: float) -> str:
    return f"{attempt.problem}, after {elapsed:.1f} s"


def _brief(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"
