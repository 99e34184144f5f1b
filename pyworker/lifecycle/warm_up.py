"""Brings a loaded model to ready: `prepare` of the payloads, benchmark (or its stored result), health."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from pyworker.config import Settings
from pyworker.data_types import ApiPayload
from pyworker.lifecycle.benchmark import Benchmark, BenchmarkFailed
from pyworker.lifecycle.benchmark_file import load_result, store_result
from pyworker.lifecycle.probe import HealthProbe
from pyworker.lifecycle.state import Cause, ModelLifecycle
from pyworker.upstream.client import ModelClient

logger = logging.getLogger(__name__)

_FIRST_PAUSE = 5.0
_MAX_PAUSE = 120.0
_HEALTH_PAUSE = 1.0


class Readiness:
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
        self._preparation: _Preparation | None = None
        self._about = about
        self._stopping = threading.Event()

    @property
    def _result_file(self) -> Path:
        return self._settings.benchmark_file

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
            preparation.abandon()
        self._benchmark.abort()
        self._lifecycle.close()

    def _ready_throughput(self) -> float:
        """Everything between loaded and ready. Raises `BenchmarkFailed`, whatever the cause."""
        try:
            self._prepare()
            throughput = self._throughput()
            self._wait_for_health()
        except BenchmarkFailed:
            raise
        except Exception as error:
            logger.exception("the benchmark could not be run")
            raise BenchmarkFailed(
                f"the benchmark could not be run: {type(error).__name__}: {error}"
            ) from error
        return throughput

    def _prepare(self) -> None:
        while self._unprepared:
            payload_class = self._unprepared[0]
            # A call that is stuck is waited for again, not repeated: that would be stuck as well.
            preparation = self._preparation or _Preparation(payload_class, self._settings)
            self._preparation = preparation
            if self._stopping.is_set():
                preparation.abandon()
            limit = self._settings.model_ready_timeout
            if not preparation.wait(limit):
                raise BenchmarkFailed(f"{payload_class.__name__}.prepare did not end within {limit:g} s")
            self._preparation = None
            if preparation.error is not None:
                error = preparation.error
                logger.error("%s.prepare failed", payload_class.__name__, exc_info=error)
                raise BenchmarkFailed(f"{payload_class.__name__}.prepare failed: {error}") from error
            self._unprepared.pop(0)

    def _is_due(self, epoch: int) -> bool:
        status = self._lifecycle.status
        return not self._stopping.is_set() and status.epoch == epoch and status.awaits_benchmark

    def _throughput(self) -> float:
        stored = load_result(self._result_file, self._about)
        if stored is not None:
            logger.info("benchmark result %.1f workload/s taken from %s", stored, self._result_file)
            self._wait_for_port()
            return stored
        measured = self._benchmark.run()
        store_result(self._result_file, measured, self._about)
        return measured

    def _wait_for_port(self) -> None:
        self._wait_until_no(self._client.connection_problem)

    def _wait_for_health(self) -> None:
        if self._probe is not None:
            self._wait_until_no(self._probe.problem)

    def _wait_until_no(self, problem_now: Callable[[], str]) -> None:
        limit = self._settings.model_ready_timeout
        deadline = time.monotonic() + limit
        while problem := problem_now():
            if time.monotonic() >= deadline or self._stopping.wait(_HEALTH_PAUSE):
                raise BenchmarkFailed(f"not healthy within {limit:g} s of being loaded: {problem}")

    def _fail(self, message: str, epoch: int, pause: float) -> None:
        if self._stopping.is_set():
            return
        logger.error("%s; next try in %.0f s", message, pause)
        self._lifecycle.failed(Cause.BENCHMARK, message, epoch=epoch)


class _Preparation:
    """An author's `prepare` on its own thread, as it may block in a download.

    It delays neither the benchmark thread's end nor that of the process.
    """

    def __init__(self, payload_class: type[ApiPayload], settings: Settings) -> None:
        self._payload_class = payload_class
        self._settings = settings
        self._is_done = False
        #: Why it failed, once it has.
        self.error: BaseException | None = None
        # Set once it is done or abandoned.
        self._over = threading.Event()
        threading.Thread(target=self._run, name="pyworker-prepare", daemon=True).start()

    def wait(self, seconds: float) -> bool:
        """Wait until it is done (True), the time is up, or `abandon` is called."""
        self._over.wait(seconds)
        return self._is_done

    def abandon(self) -> None:
        """Wake the waiting thread: the worker shuts down."""
        self._over.set()

    def _run(self) -> None:
        try:
            self._payload_class.prepare(self._settings)
        except BaseException as error:  # noqa: BLE001 - the code of an author may raise SystemExit, too
            self.error = error
        finally:
            self._is_done = True
            self._over.set()
