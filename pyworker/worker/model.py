"""The parts that know whether the model is loaded and healthy, and how fast it is."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from pyworker.backend import Backend
from pyworker.config import Settings
from pyworker.lifecycle.benchmark import Benchmark
from pyworker.lifecycle.benchmark_subject import describe
from pyworker.lifecycle.health import HealthMonitor
from pyworker.lifecycle.healthcheck import SharedHealth
from pyworker.lifecycle.loaded_mark import LoadedMark, ModelMemory
from pyworker.lifecycle.loading_watch import LoadingWatch, loaded_patterns
from pyworker.lifecycle.log_events import LogEffects
from pyworker.lifecycle.log_tail import LogTailer
from pyworker.lifecycle.model_lines import ModelLines
from pyworker.lifecycle.old_lines import OldLines
from pyworker.lifecycle.phases import Phases
from pyworker.lifecycle.probe import HealthProbe
from pyworker.lifecycle.state import ModelLifecycle
from pyworker.lifecycle.warm_up import WarmUp
from pyworker.runtime.redaction import hiding
from pyworker.runtime.services import Loop, Wake

# What /healthcheck asks if no health endpoint is configured.
_DEFAULT_HEALTH = "/healthcheck"
# For all of the model server's metrics: seconds and bytes.
_METRICS_TIMEOUT = 5.0
_MAX_METRICS = 4 * 2**20


class ModelSide:
    """Log, probes, benchmark and the state machine that they drive. on_change: after each change of it."""

    def __init__(self, backend: Backend, settings: Settings, *, on_change: Callable[[], None]) -> None:
        client = backend.client
        # Each makes the next step of its loop due immediately.
        self._wake_health, self._wake_loading = wake_health, wake_loading = Wake(), Wake()
        self.phases = Phases()
        self.lifecycle = ModelLifecycle(
            on_change,
            wake_loading,
            lambda: self.phases.enter(self.lifecycle.state, self.lifecycle.status.error_msg),
        )

        def new_probe(url: str) -> HealthProbe:
            return HealthProbe(
                url,
                settings.model_api_key,
                ca_file=settings.model_ca_file,
                timeout=backend.health_timeout,
            )

        self.benchmark = Benchmark(
            backend.benchmark_handler,
            client,
            concurrency=backend.benchmark_concurrency,
            timeout=backend.benchmark_timeout,
            ready_timeout=settings.model_ready_timeout,
        )
        self._probe = None if backend.health_url is None else new_probe(backend.health_url)
        has_health = self._probe is not None
        check = self.benchmark.problem if self._probe is None else self._probe.problem
        loaded_by = self._probe.name if self._probe and backend.readiness.by_health else ""
        self.health = HealthMonitor(
            check,
            self.lifecycle,
            settings.health_failures,
            regular=has_health,
            loaded_by=loaded_by,
            wake=wake_health,
        )
        self.shared_health = SharedHealth(
            new_probe(backend.health_url or backend.session.absolute(_DEFAULT_HEALTH))
        )
        #: The model server's own metrics.
        self.engine_metrics = SharedHealth(
            HealthProbe(
                backend.session.absolute(settings.model_metrics_endpoint),
                settings.model_api_key,
                ca_file=settings.model_ca_file,
                timeout=_METRICS_TIMEOUT,
                max_body=_MAX_METRICS,
            )
        )
        about = describe(backend.benchmark_handler, backend.package)
        model_server = client.base_url.rpartition("@")[2]  # without a password
        mark = LoadedMark(settings.loaded_file, {"worker": about["worker"], "model_server": model_server})
        # Asked now, since it may be written soon.
        was_loaded = mark.is_there
        #: The lines of the model's log that may be shown.
        self.lines = ModelLines(
            hiding(settings.secrets),
            was_ready=lambda: was_loaded or self.phases.was_ready,
            trusts_old=lambda: not was_loaded and bool(loaded_patterns(backend.log_actions)),
        )
        self._warm_up = WarmUp(
            settings=settings,
            lifecycle=self.lifecycle,
            benchmark=self.benchmark,
            client=client,
            probe=self._probe,
            payload_classes=[handler.payload_cls() for handler in backend.handlers],
            about=about,
        )
        self._tailer = tailer = self._new_tailer(backend)
        self.loading = LoadingWatch(
            self.lifecycle,
            warn_after=settings.model_loading_warn_after,
            source=backend.readiness,
            log_actions=backend.log_actions,
            tailer=tailer,
            probe=self._probe,
            connect=client.connection_problem if backend.knows_model_server else None,
            unconfirmed=lambda: self._old_lines.loaded_line,
        )
        self._memory = ModelMemory(
            mark,
            self.lifecycle,
            check=check,
            # The log comes first: what is remembered may cost a request to be confirmed.
            is_current=lambda: self._old_lines.are_settled,
        )
        self._old_lines = OldLines(
            self.lifecycle,
            check=client.connection_problem if self._probe is None else check,
            check_strictly=check,
            tailer=tailer,
            wake=wake_loading,
        )
        self._log_effects = LogEffects(
            self.lifecycle,
            backend.readiness,
            has_health=has_health,
            monitor=self.health,
            loading=self.loading,
            memory=self._memory,
            old_lines=self._old_lines,
        )

    def _new_tailer(self, backend: Backend) -> LogTailer | None:
        if backend.model_log_file is None:
            return None
        return LogTailer(
            backend.model_log_file,
            backend.log_actions,
            lambda action, line, is_old: self._log_effects.take(action, line, is_old),
            show=self.lines.take,
            hide=self.lines.presentable,
        )

    def loops(self) -> Sequence[Loop]:
        """The background threads, in the order in which they are stopped."""
        loops = [
            Loop("pyworker-health", self.health.step, wake=self._wake_health),
            Loop("pyworker-loading", self._loading_step, wake=self._wake_loading),
            Loop("pyworker-benchmark", self._warm_up.step),
        ]
        if self._tailer is not None:
            loops.insert(0, Loop("pyworker-tail", self._tailer.step, on_end=self._tailer.close))
        return loops

    @property
    def warming_up(self) -> str:
        """What a loaded model waits for until it is ready, in words; empty if that is unknown."""
        return self.benchmark.progress or self._warm_up.waits_for

    def _loading_step(self) -> float | None:
        now = time.monotonic()
        # Lines of the log first: the memory may have to ask the model server for more.
        pauses = (self._old_lines.step(now), self._memory.step(), self.loading.step(now))
        return min((pause for pause in pauses if pause is not None), default=None)

    def close_shared(self) -> None:
        """Wake the clients that wait for a probe, and start no other. Idempotent."""
        self.shared_health.close()
        self.engine_metrics.close()

    def unblock(self) -> None:
        """End what a background thread may be blocked in."""
        if self._probe is not None:
            self._probe.close()
        self._warm_up.stop()

    def __repr__(self) -> str:
        return f"<ModelSide {self.lifecycle!r}>"
