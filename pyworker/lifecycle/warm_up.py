"""Brings a loaded model to ready: `prepare` of the payloads, benchmark (or its stored result), health."""

from __future__ import annotations

import concurrent.futures
import contextlib
import functools
import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence

from pyworker.config import Settings
from pyworker.data_types import ApiPayload
from pyworker.lifecycle import parallel
from pyworker.lifecycle.benchmark import Benchmark, BenchmarkFailed
from pyworker.lifecycle.benchmark_file import load_result, store_result
from pyworker.lifecycle.probe import HealthProbe
from pyworker.lifecycle.state import Cause, ModelLifecycle
from pyworker.upstream.client import ModelClient

logger = logging.getLogger(__name__)

_FIRST_PAUSE = 5.0
_MAX_PAUSE = 120.0
_HEALTH_PAUSE = 1.0


class WarmUp:
    """Brings the model to ready each time it was loaded. `step` belongs to one thread.

    about: what the benchmark measures, for the file with its result.
    """

    def __init__(
        self,
        *,
        settings: Settings,
        lifecycle: ModelLifecycle,
        benchmark: Benchmark,
        client: ModelClient,
        probe: HealthProbe | None,
        payload_classes: Sequence[type[ApiPayload]],
        about: Mapping[str, str],
    ) -> None:
        self._settings = settings
        self._lifecycle = lifecycle
        self._benchmark = benchmark
        self._client = client
        self._probe = probe
        self._unprepared = list(dict.fromkeys(payload_classes))
        self._preparation: concurrent.futures.Future[None] | None = None
        self._about = about
        self._stopping = threading.Event()
        #: What it waits for besides the benchmark, in words; empty for nothing. Written by its own thread.
        self.waits_for = ""

    def step(self) -> float:
        """Wait until the model is loaded, then try until it is ready or loaded again."""
        with contextlib.suppress(BenchmarkFailed):
            self._prepare()  # while the model loads; if that fails, it is tried again below
        epoch = self._lifecycle.wait_for_benchmark()
        pause = _FIRST_PAUSE
        while epoch is not None and self._is_due(epoch):
            try:
                throughput = self._ready_throughput()
            except BenchmarkFailed as error:
                self._fail(str(error), epoch, pause)
                self.waits_for = f"the next try of the benchmark, {pause:.0f} s after the last one"
                self._lifecycle.wait_while(lambda status: status.epoch == epoch, timeout=pause)
                pause = min(2 * pause, _MAX_PAUSE)
            else:
                if self._lifecycle.benchmarked(throughput, epoch=epoch):
                    logger.info("the worker is ready: %.1f workload/s", throughput)
                break
        return 0.0

    def stop(self) -> None:
        """Make a running `step` return soon."""
        self._stopping.set()
        preparation = self._preparation
        if preparation is not None:
            preparation.cancel()
        self._benchmark.abort()
        self._lifecycle.close()

    def _ready_throughput(self) -> float:
        """Everything between loaded and ready. Raises `BenchmarkFailed`, whatever the cause."""
        try:
            self._prepare()
            throughput = self._throughput()
            if self._probe is not None:
                self._wait_until_no(self._probe.problem)
        except BenchmarkFailed:
            raise
        except Exception as error:
            logger.exception("the benchmark could not be run")
            raise BenchmarkFailed(
                f"the benchmark could not be run: {type(error).__name__}: {error}"
            ) from error
        finally:
            self.waits_for = ""
        return throughput

    def _prepare(self) -> None:
        limit = self._settings.model_ready_timeout
        while self._unprepared:
            payload_class = self._unprepared[0]
            self.waits_for = name = f"{payload_class.__name__}.prepare"
            # A call that is stuck is waited for again, not repeated: that would be stuck as well.
            if self._preparation is None:
                call = functools.partial(payload_class.prepare, self._settings)
                self._preparation, _ = parallel.start(call, "pyworker-prepare")
            if self._stopping.is_set():
                self._preparation.cancel()
            try:
                error = self._preparation.exception(limit)
            except (concurrent.futures.TimeoutError, concurrent.futures.CancelledError):
                raise BenchmarkFailed(f"{name} did not end within {limit:g} s") from None
            self._preparation = None
            if error is not None:
                logger.error("%s failed", name, exc_info=error)
                raise BenchmarkFailed(f"{name} failed: {error}") from error
            self._unprepared.pop(0)
            self.waits_for = ""

    def _is_due(self, epoch: int) -> bool:
        status = self._lifecycle.status
        return not self._stopping.is_set() and status.epoch == epoch and status.awaits_benchmark

    def _throughput(self) -> float:
        file = self._settings.benchmark_file
        about = {**self._about, "requests": self._benchmark.fingerprint()}
        stored = load_result(file, about)
        if stored is not None:
            logger.info("benchmark result %.1f workload/s taken from %s", stored, file)
            self._wait_until_no(self._client.connection_problem)
            return stored
        measured = self._benchmark.run()
        store_result(file, measured, about)
        return measured

    def _wait_until_no(self, problem_now: Callable[[], str]) -> None:
        limit = self._settings.model_ready_timeout
        deadline = time.monotonic() + limit
        self.waits_for = what = "the health of the model server"
        while problem := problem_now():
            self.waits_for = f"{what}: {problem}"
            if time.monotonic() >= deadline or self._stopping.wait(_HEALTH_PAUSE):
                raise BenchmarkFailed(f"not healthy within {limit:g} s of being loaded: {problem}")

    def _fail(self, message: str, epoch: int, pause: float) -> None:
        if self._stopping.is_set():
            return
        logger.error("%s; next try in %.0f s", message, pause)
        self._lifecycle.failed(Cause.BENCHMARK, message, epoch=epoch)
