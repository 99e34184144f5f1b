"""One running worker: the parts of the package wired together for one backend."""

from __future__ import annotations

import logging
import time

from pyworker.auth import SignatureVerifier
from pyworker.autoscaler_client import AutoscalerClient
from pyworker.backend import Backend
from pyworker.benchmark import Benchmark, ServingCheck
from pyworker.benchmark_file import describe
from pyworker.body import BodyReader
from pyworker.callbacks import Callbacks
from pyworker.config import Settings
from pyworker.data_types import AuthData, LogAction
from pyworker.disconnect import DisconnectWatcher
from pyworker.drain import Drain
from pyworker.health import Check, HealthMonitor
from pyworker.healthcheck import SharedHealth
from pyworker.journal import Journal, JournalKeeper
from pyworker.lifecycle import ModelLifecycle, ModelState
from pyworker.loading import LoadingWatch
from pyworker.log_effects import LogEffects
from pyworker.log_tail import LogTailer
from pyworker.memory import LoadedMark, ModelMemory
from pyworker.metrics import Metrics
from pyworker.pipeline import Pipeline
from pyworker.probe import HealthProbe
from pyworker.public_key import KeyFetcher
from pyworker.readiness import Readiness
from pyworker.reporter import MIN_INTERVAL, Reporter
from pyworker.reports import Identity, ModelFigures
from pyworker.runtime import Loop, Runtime
from pyworker.sessions import Sessions
from pyworker.suspicion import FailureStreak

logger = logging.getLogger(__name__)

_TAIL_INTERVAL = 0.2
# Asked by clients where no health endpoint is configured.
_DEFAULT_HEALTH = "/healthcheck"


class Worker:
    """The ledger, the model's state, the pipeline and the threads. Thread-safe through its parts.

    Made by `create_app`; `app.extensions["pyworker"]` is one. Nothing runs until `start()`.
    """

    def __init__(self, backend: Backend, settings: Settings) -> None:
        self.backend = backend
        self.settings = settings
        self.lifecycle = ModelLifecycle(on_change=self._state_changed)
        self._journal = Journal()
        self.metrics = Metrics(self._journal.append, on_change=self._ledger_changed)
        self._journal_keeper = JournalKeeper(
            self._journal, settings.unsent_file, on_survivors=self.metrics.touch
        )
        self.verifier = SignatureVerifier(
            settings.public_url if settings.check_url else None,
            now=time.monotonic,
            on_stale_key=self._key_is_stale,
            unsecured=settings.unsecured,
        )
        self.watcher = DisconnectWatcher()
        self._callbacks = Callbacks(backend.client, on_add=self._callback_is_due)
        self.sessions = Sessions(
            self.metrics,
            backend.max_sessions,
            on_create=self._session_created,
            on_close=self._callbacks.add,
        )
        self.pipeline = Pipeline(
            verifier=self.verifier,
            lifecycle=self.lifecycle,
            metrics=self.metrics,
            sessions=self.sessions,
            client=backend.client,
            watcher=self.watcher,
            bodies=BodyReader(
                settings.max_body_bytes,
                check=self._check_signature,
                max_unsigned=max(1, settings.threads // 16),
            ),
            max_in_hand=settings.max_in_hand,
            streak=FailureStreak(self._requests_fail),
        )
        backend.attach(self.pipeline)
        self._key_client = AutoscalerClient(settings.report_addrs)
        self._report_client = AutoscalerClient(settings.report_addrs)
        self._reporter = Reporter(
            self._report_client,
            self.metrics,
            self._journal,
            Identity(settings.container_id, settings.master_token, settings.public_url or ""),
            self._figures,
            on_accepted=self._report_accepted,
        )
        self._probe = None if backend.health_url is None else self._new_probe(backend.health_url)
        self.shared_health = SharedHealth(
            self._new_probe(backend.health_url or backend.session.absolute(_DEFAULT_HEALTH))
        )
        self._tailer = (
            None
            if backend.model_log_file is None
            else LogTailer(backend.model_log_file, backend.log_actions, self._log_said)
        )
        self._about = describe(backend.benchmark_handler)
        benchmark = self._make_benchmark()
        self._readiness = self._make_readiness(benchmark)
        self._check: Check = self._probe or ServingCheck(backend.client, benchmark)
        self._health = HealthMonitor(
            self._check,
            self.lifecycle,
            settings.health_failures,
            regular=self._probe is not None,
            tells_loaded=settings.model_readiness.by_health and self._probe is not None,
        )
        self._loading = self._make_loading_watch()
        self._memory = self._make_memory()
        self._log_effects = LogEffects(
            self.lifecycle,
            settings.model_readiness,
            has_health=self._probe is not None,
            monitor=self._health,
            wake=self._check_now,
            loading=self._loading,
            memory=self._memory,
        )
        self._report_loop = Loop(
            "pyworker-report",
            lambda: self._reporter.report_once(time.monotonic()),
            hold=MIN_INTERVAL,
            on_end=self._reporter.flush,
        )
        self._callback_loop = Loop("pyworker-callbacks", self._callbacks.step, on_end=self._callbacks.flush)
        self._session_loop = Loop(
            "pyworker-sessions", self.sessions.expire_once, on_stop=self.sessions.close_all
        )
        self._key_fetcher = KeyFetcher(
            self._key_client, self.verifier.set_public_key, on_new_key=self.metrics.touch
        )
        self._key_loop = Loop("pyworker-pubkey", self._key_fetcher.fetch_once)
        self._health_loop = Loop("pyworker-health", self._health.step, on_stop=self._end_checks)
        self._loading_loop = Loop("pyworker-loading", self._loading_step)
        self._drain = Drain(self.lifecycle, self.pipeline.open_exchanges, settings.drain_timeout)
        self.runtime = Runtime(self._loops())

    def check_can_serve(self) -> None:
        """Raise `ConfigError` where a server with these settings could not do its work."""
        self.settings.require_identity()
        self.settings.require_certificate()
        self.backend.require_readiness_source()
        if self.settings.unsecured:
            logger.warning("UNSECURED=true: signatures are not checked; anybody may use this worker")
        elif not self.settings.check_url:
            logger.warning("CHECK_URL=false: a signature made for another worker opens this one too")

    def start(self) -> None:
        """Start every thread; the first takes up what an earlier process left."""
        self.runtime.start()

    def drain(self) -> None:
        """Take no new requests; those in hand go on. The change is reported at once."""
        self.lifecycle.drain()
        self.shared_health.close()

    def hurry(self) -> None:
        """Cut the requests in hand now instead of when the time of the drain is up."""
        self._drain.hurry()

    def close(self) -> None:
        """Stop every thread, report what is left, close every connection. Idempotent."""
        self.shared_health.close()
        self.runtime.stop()
        self._journal.close()
        self.backend.client.close()
        self._callbacks.close()
        self._key_client.close()
        self._report_client.close()

    def _new_probe(self, url: str) -> HealthProbe:
        return HealthProbe(url, self.settings.model_api_key, ca_file=self.settings.model_ca_file)

    # -- wiring ------------------------------------------------------------------------------------------

    def _make_benchmark(self) -> Benchmark:
        backend = self.backend
        return Benchmark(
            backend.benchmark_handler,
            backend.client,
            concurrency=backend.benchmark_concurrency,
            timeout=backend.benchmark_timeout,
            ready_timeout=self.settings.model_ready_timeout,
        )

    def _make_readiness(self, benchmark: Benchmark) -> Readiness:
        return Readiness(
            settings=self.settings,
            lifecycle=self.lifecycle,
            benchmark=benchmark,
            client=self.backend.client,
            probe=self._probe,
            payload_classes=[handler.payload_cls() for handler in self.backend.handlers],
            about=self._about,
        )

    def _make_loading_watch(self) -> LoadingWatch:
        tailer = self._tailer
        return LoadingWatch(
            self.lifecycle,
            warn_after=self.settings.model_loading_warn_after,
            source=self.settings.model_readiness,
            log_actions=self.backend.log_actions,
            glance=lambda: None if tailer is None else tailer.glance,
            probe=self._probe,
        )

    def _make_memory(self) -> ModelMemory:
        tailer = self._tailer
        model_server = self.backend.client.base_url.rpartition("@")[2]  # without a password
        about = {"worker": self._about["worker"], "model_server": model_server}
        return ModelMemory(
            LoadedMark(self.settings.loaded_file, about),
            self.lifecycle,
            check=self._check.problem,
            is_current=lambda: tailer is None or tailer.is_current,
        )

    def _loops(self) -> list[Loop]:
        """In the order in which they are stopped: the report comes last and carries what the others left."""
        loops = [
            Loop("pyworker-journal", self._journal_keeper.step),
            self._health_loop,
            Loop("pyworker-drain", self._drain.step, on_stop=self._drain.stop),
            self._session_loop,
            self._callback_loop,
            self._loading_loop,
            Loop("pyworker-benchmark", self._readiness.step, on_stop=self._readiness.stop),
            Loop("pyworker-disconnect", self.watcher.step, on_stop=self.watcher.stop),
            self._report_loop,
        ]
        if not self.settings.unsecured:
            loops.insert(0, self._key_loop)
        tailer = self._tailer
        if tailer is not None:
            loops.insert(0, Loop("pyworker-tail", lambda: _tail_step(tailer), on_end=tailer.close))
        return loops

    def _log_said(self, action: LogAction, line: str) -> None:
        tailer = self._tailer
        self._log_effects.take(action, line, tailer is not None and tailer.is_old)

    def _requests_fail(self, reason: str) -> None:
        if self.lifecycle.state is ModelState.READY and self._health.suspect(reason):
            logger.warning("%s; a check of the model server decides", reason)
            self._check_now()

    def _check_now(self) -> None:
        self._health_loop.wake()

    def _end_checks(self) -> None:
        # A check by a request of the benchmark is ended with the readiness.
        if self._probe is not None:
            self._probe.close()

    def _loading_step(self) -> float | None:
        pauses = [self._memory.step(), self._loading.step(time.monotonic())]
        return min((pause for pause in pauses if pause is not None), default=None)

    def _report_accepted(self) -> None:
        if not self.verifier.has_key:
            self._key_loop.wake()  # the autoscaler is back, no pause is called for any more

    def _figures(self) -> ModelFigures:
        status = self.lifecycle.status
        # Without the key every request would be refused.
        is_ready = status.state is ModelState.READY and self.verifier.has_key
        return ModelFigures(status.throughput if is_ready else 0.0, status.error_msg)

    def _state_changed(self) -> None:
        self.metrics.touch()
        self._loading_loop.wake()

    def _ledger_changed(self) -> None:
        self._report_loop.wake()

    def _check_signature(self, auth_data: AuthData) -> None:
        """Also good is what opened a session that is still open, whatever became of the key since."""
        if not self.sessions.knows(auth_data):
            self.verifier.check(auth_data)

    def _session_created(self) -> None:
        self._session_loop.wake()

    def _callback_is_due(self) -> None:
        self._callback_loop.wake()

    def _key_is_stale(self) -> None:
        self._key_loop.wake()

    def __repr__(self) -> str:
        return f"<Worker {self.lifecycle!r} {self.metrics!r}>"


def _tail_step(tailer: LogTailer) -> float:
    return 0.0 if tailer.tail_once(time.monotonic()) else _TAIL_INTERVAL
