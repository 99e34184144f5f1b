"""How much work the model does per second, and the file that remembers it."""

from __future__ import annotations

import contextlib
import logging
import math
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pyworker.connection import Aborted, ModelCall
from pyworker.data_types import EndpointHandler
from pyworker.errors import ModelBroken, PyworkerError, RequestError
from pyworker.model_client import ModelClient
from pyworker.redaction import redacted
from pyworker.responses import iterate

logger = logging.getLogger(__name__)

_EXCERPT = 200
_RETRY_PAUSE = 1.0


class BenchmarkFailed(PyworkerError):
    """No figure came out; the message goes into `error_msg`."""


@dataclass(frozen=True)
class Attempt:
    """One request of the benchmark. `problem` is empty where it succeeded; `refused`: nobody listened."""

    workload: float
    problem: str = ""
    refused: bool = False


class Benchmark:
    """Warm-up and rounds on one handler. `run` belongs to one thread; `abort` may come from any.

    concurrency: requests at once in a round; timeout: seconds for one request, ready_timeout: seconds a
    model server that says it is loaded may take until it listens.
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
        # Guards _calls: what `abort` has to end.
        self._lock = threading.Lock()
        self._calls: set[ModelCall] = set()

    def run(self) -> float:
        """Workload per second: the highest round. Raises `BenchmarkFailed`."""
        self._warm_up()
        logger.info(
            "benchmark of %s: %d rounds of %d requests",
            self._handler.endpoint,
            self._handler.benchmark_runs,
            self._concurrency,
        )
        rounds = range(1, self._handler.benchmark_runs + 1)
        with ThreadPoolExecutor(self._concurrency, thread_name_prefix="pyworker-benchmark") as pool:
            return max(self._round(number, pool) for number in rounds)

    def abort(self) -> None:
        """End a running benchmark; it raises `BenchmarkFailed` soon."""
        self._stopping.set()
        with self._lock:
            calls = list(self._calls)
        for call in calls:
            call.abort()

    def _warm_up(self) -> None:
        """One request that is not counted; waits for the port to listen."""
        deadline = time.monotonic() + self._ready_timeout
        while True:
            with ThreadPoolExecutor(1, thread_name_prefix="pyworker-benchmark") as pool:
                [attempt] = self._together([self._handler.make_benchmark_payload()], pool)
            if not attempt.refused:
                return
            if time.monotonic() >= deadline or self._stopping.wait(_RETRY_PAUSE):
                raise BenchmarkFailed(
                    f"the model server at {redacted(self._client.base_url)} did not listen within "
                    f"{self._ready_timeout:g} s of its log saying it is loaded: {attempt.problem}"
                )

    def _round(self, number: int, pool: ThreadPoolExecutor) -> float:
        payloads = [self._handler.make_benchmark_payload() for _ in range(self._concurrency)]
        started = time.monotonic()
        attempts = self._together(payloads, pool)
        elapsed = max(time.monotonic() - started, 1e-6)
        succeeded = [attempt for attempt in attempts if not attempt.problem]
        if not succeeded:
            raise BenchmarkFailed(
                f"benchmark of {self._handler.endpoint}: no request of round {number} succeeded "
                f"({attempts[0].problem}, after {elapsed:.1f} s)"
            )
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
            raise BenchmarkFailed(f"benchmark of {self._handler.endpoint}: its payloads have no workload")
        return throughput

    def _together(self, payloads: list[Any], pool: ThreadPoolExecutor) -> list[Attempt]:
        """Send these at once; whatever is not done in time is aborted."""
        calls = [ModelCall() for _ in payloads]
        with self._lock:
            self._calls.update(calls)
        try:
            futures = [pool.submit(self._attempt, *pair) for pair in zip(payloads, calls, strict=True)]
            wait(futures, timeout=0 if self._stopping.is_set() else self._timeout)
            for call in calls:
                call.abort()  # without effect on a call that is done
            return [future.result() for future in futures]
        finally:
            with self._lock:
                self._calls.difference_update(calls)

    def _attempt(self, payload: Any, call: ModelCall) -> Attempt:
        workload = float(payload.count_workload())
        started = time.monotonic()
        try:
            answer = self._client.post(
                self._handler.endpoint,
                self._handler.generate_payload_json(payload),
                call,
                timeout=self._timeout,
            )
            with answer:
                body = b"".join(iterate(answer))
        except Aborted:
            return Attempt(
                workload, "aborted" if self._stopping.is_set() else f"no answer in {self._timeout:g} s"
            )
        except (RequestError, ModelBroken) as error:
            late = call.aborted and time.monotonic() - started >= self._timeout
            problem = f"no whole answer in {self._timeout:g} s" if late else str(error)
            return Attempt(workload, problem, refused=isinstance(error, RequestError) and error.status == 502)
        if not 200 <= answer.status_code < 300:
            excerpt = body[:_EXCERPT].decode("utf-8", "replace")
            return Attempt(workload, f"status {answer.status_code}: {excerpt}")
        return Attempt(workload)


def load_result(path: Path) -> float | None:
    """The stored result in workload per second; None where there is none that makes sense."""
    try:
        result = float(path.read_text("utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        logger.warning("the benchmark result in %s is unreadable (%.200s); measuring again", path, error)
        return None
    if not (math.isfinite(result) and result > 0):
        logger.warning("the benchmark result in %s makes no sense (%s); measuring again", path, result)
        return None
    return result


def store_result(path: Path, result: float) -> None:
    """Write the result so that a crash leaves the old file or the new one; a failure is a warning."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}")
    try:
        temporary.write_text(f"{result!r}\n", "utf-8")
        temporary.replace(path)
    except OSError as error:
        logger.warning(
            "the benchmark result cannot be kept in %s (%s); a restart measures again", path, error
        )
        with contextlib.suppress(OSError):  # a read-only disk refuses this too
            temporary.unlink()
