"""One running worker: the parts of the package wired together for one backend."""

from __future__ import annotations

import logging
import time

from pyworker.backend import Backend
from pyworker.config import Settings
from pyworker.data_types import AuthData
from pyworker.lifecycle.benchmark import Benchmark
from pyworker.lifecycle.benchmark_file import describe
from pyworker.lifecycle.health import HealthMonitor
from pyworker.lifecycle.healthcheck import SharedHealth
from pyworker.lifecycle.loaded_mark import LoadedMark, ModelMemory
from pyworker.lifecycle.loading_watch import LoadingWatch
from pyworker.lifecycle.log_events import LogEffects
from pyworker.lifecycle.log_tail import LogTailer
from pyworker.lifecycle.old_lines import OldLines
from pyworker.lifecycle.probe import HealthProbe
from pyworker.lifecycle.state import ModelLifecycle, ModelState
from pyworker.lifecycle.suspicion import FailureStreak
from pyworker.lifecycle.throughput_watch import Load, ThroughputWatch
from pyworker.lifecycle.warm_up import WarmUp
from pyworker.proxy.auth import SignatureVerifier
from pyworker.proxy.body import BodyReader
from pyworker.proxy.disconnect import DisconnectWatcher
from pyworker.proxy.door import Door
from pyworker.proxy.open_exchanges import SHUTDOWN
from pyworker.proxy.pipeline import Pipeline
from pyworker.proxy.reception import Reception
from pyworker.reporting.autoscaler_client import AutoscalerClient
from pyworker.reporting.journal import Journal, JournalKeeper
from pyworker.reporting.ledger import Ledger
from pyworker.reporting.public_key import KeyFetcher
from pyworker.reporting.reporter import MIN_INTERVAL, Reporter
from pyworker.reporting.wire import Identity, ModelFigures
from pyworker.runtime.services import Loop, Runtime, Wake
from pyworker.sessions.callbacks import Callbacks
from pyworker.sessions.store import Sessions

logger = logging.getLogger(__name__)

# What /healthcheck asks if no health endpoint is configured.
_DEFAULT_HEALTH = "/healthcheck"


class Worker:
    """The composition: ledger, model state, pipeline and background threads. Thread-safe through its parts.

    Made by `create_app`; `app.extensions["pyworker"]` is one. No thread runs before `start()`.
    """

    def __init__(self, backend: Backend, settings: Settings) -> None:
        self.backend = backend
        self.settings = settings
        client = backend.client
        # Each makes the next step of the loop with this name due immediately.
        wake_report, wake_key, wake_callbacks, wake_sessions, wake_health, wake_loading = (
            Wake() for _ in range(6)
        )

        # -- what is counted, and what a report says
        self._journal = Journal()
        self.ledger = Ledger(self._journal.append, on_change=wake_report)
        journal_keeper = JournalKeeper(self._journal, settings.unsent_file, on_survivors=self.ledger.touch)
        self.lifecycle = ModelLifecycle(self.ledger.touch, wake_loading)
        self.verifier = SignatureVerifier(
            settings.public_url if settings.check_url else None,
            now=time.monotonic,
            on_stale_key=wake_key,
            unsecured=settings.unsecured,
        )
        # Two clients: a slow request for the key must not delay a report.
        self._key_client = AutoscalerClient(settings.report_addrs)
        self._report_client = AutoscalerClient(settings.report_addrs)
        key_fetcher = KeyFetcher(
            self._key_client, self.verifier.set_public_key, on_new_key=self.ledger.touch, wake=wake_key
        )
        reporter = Reporter(
            self._report_client,
            self.ledger,
            self._journal,
            Identity(settings.container_id, settings.master_token, settings.public_url or ""),
            self._figures,
            on_accepted=key_fetcher.retry,
        )

        # -- whether the model is loaded and healthy
        benchmark = Benchmark(
            backend.benchmark_handler,
            client,
            concurrency=backend.benchmark_concurrency,
            timeout=backend.benchmark_timeout,
            ready_timeout=settings.model_ready_timeout,
        )
        self._probe = None if backend.health_url is None else self._new_probe(backend.health_url)
        has_health = self._probe is not None
        check = benchmark.problem if self._probe is None else self._probe.problem
        loaded_by = self._probe.name if self._probe and backend.readiness.by_health else ""
        health = HealthMonitor(
            check,
            self.lifecycle,
            settings.health_failures,
            regular=has_health,
            loaded_by=loaded_by,
            wake=wake_health,
        )
        self.shared_health = SharedHealth(
            self._new_probe(backend.health_url or backend.session.absolute(_DEFAULT_HEALTH))
        )
        about = describe(backend.benchmark_handler)
        self._warm_up = WarmUp(
            settings=settings,
            lifecycle=self.lifecycle,
            benchmark=benchmark,
            client=client,
            probe=self._probe,
            payload_classes=[handler.payload_cls() for handler in backend.handlers],
            about=about,
        )
        tailer = None
        if backend.model_log_file is not None:
            tailer = LogTailer(
                backend.model_log_file,
                backend.log_actions,
                lambda action, line, is_old: log_effects.take(action, line, is_old),
            )
        loading = LoadingWatch(
            self.lifecycle,
            warn_after=settings.model_loading_warn_after,
            source=backend.readiness,
            log_actions=backend.log_actions,
            tailer=tailer,
            probe=self._probe,
        )
        model_server = client.base_url.rpartition("@")[2]  # without a password
        memory = ModelMemory(
            LoadedMark(settings.loaded_file, {"worker": about["worker"], "model_server": model_server}),
            self.lifecycle,
            check=check,
            is_current=lambda: tailer is None or tailer.is_current,
        )
        old_lines = OldLines(
            self.lifecycle,
            check=client.connection_problem if self._probe is None else check,
            check_strictly=check,
            tailer=tailer,
            wake=wake_loading,
        )
        log_effects = LogEffects(
            self.lifecycle,
            backend.readiness,
            has_health=has_health,
            monitor=health,
            loading=loading,
            memory=memory,
            old_lines=old_lines,
        )

        throughput = ThroughputWatch(
            lambda: Load(self.ledger.served, self.ledger.in_hand()[1]),
            lambda: self._figures().max_perf,
            backend.benchmark_concurrency,
        )

        # -- the path of a request
        self.watcher = DisconnectWatcher()
        self._callbacks = Callbacks(client, on_add=wake_callbacks)
        self.sessions = Sessions(
            self.ledger, backend.max_sessions, on_create=wake_sessions, on_close=self._callbacks.add
        )
        bodies = BodyReader(
            settings.max_body_bytes,
            check=self._check_signature,
            max_unsigned=max(1, settings.threads // 16),
        )
        self.pipeline = Pipeline(
            reception=Reception(
                self.verifier, bodies, Door(settings.openai_api_key_digests), self.sessions.extend
            ),
            verifier=self.verifier,
            lifecycle=self.lifecycle,
            ledger=self.ledger,
            client=client,
            watcher=self.watcher,
            max_in_hand=settings.max_in_hand,
            streak=FailureStreak(health.requests_failed),
        )

        # -- the background threads, in the order in which they are stopped: the last report carries what
        # the other threads left
        loops = [
            Loop("pyworker-journal", journal_keeper.step),
            Loop("pyworker-health", health.step, wake=wake_health),
            Loop("pyworker-sessions", self.sessions.expire_once, wake=wake_sessions),
            Loop(
                "pyworker-callbacks",
                self._callbacks.step,
                wake=wake_callbacks,
                on_end=self._callbacks.flush,
            ),
            Loop(
                "pyworker-loading",
                # Lines of the log first: the memory may have to ask the model server for more.
                lambda: _earlier(old_lines.step(now := time.monotonic()), memory.step(), loading.step(now)),
                wake=wake_loading,
            ),
            Loop("pyworker-benchmark", self._warm_up.step),
            Loop("pyworker-throughput", lambda: throughput.step(time.monotonic())),
            Loop("pyworker-disconnect", self.watcher.step),
            Loop(
                "pyworker-report",
                lambda: reporter.report_once(time.monotonic()),
                wake=wake_report,
                hold=MIN_INTERVAL,
                on_end=reporter.flush,
            ),
        ]
        if not settings.unsecured:
            loops.insert(0, Loop("pyworker-pubkey", key_fetcher.fetch_once, wake=wake_key))
        if tailer is not None:
            loops.insert(0, Loop("pyworker-tail", tailer.step, on_end=tailer.close))
        self.runtime = Runtime([*backend.loops(self.lifecycle), *loops])

    def _new_probe(self, url: str) -> HealthProbe:
        return HealthProbe(
            url,
            self.settings.model_api_key,
            ca_file=self.settings.model_ca_file,
            timeout=self.backend.health_timeout,
        )

    def _figures(self) -> ModelFigures:
        status = self.lifecycle.status
        # Without the key every request would be refused.
        is_ready = status.state is ModelState.READY and self.verifier.has_key
        return ModelFigures(status.throughput if is_ready else 0.0, status.error_msg)

    def _check_signature(self, auth_data: AuthData) -> None:
        """As the verifier; auth_data that opened a session is good until the session ends."""
        if not self.sessions.knows(auth_data):
            self.verifier.check(auth_data)

    # -- from start to shutdown --------------------------------------------------------------------------

    def check_can_serve(self) -> None:
        """Raise `ConfigError` if a server could not work with these settings."""
        self.settings.require_identity()
        self.backend.require_readiness_source()
        if self.settings.unsecured:
            logger.warning("UNSECURED=true: signatures are not checked; any client may use this worker")
        elif not self.settings.check_url:
            logger.warning("CHECK_URL=false: a signature made for another worker opens this one too")

    def start(self) -> None:
        """Start the background threads. The journal's takes over what an earlier process left."""
        self.runtime.start()

    def drain(self) -> None:
        """Shutdown, 1: refuse new requests. Those in hand have `drain_timeout` seconds to end."""
        logger.info("draining: requests in hand have %g s", self.settings.drain_timeout)
        self.lifecycle.drain()
        self.shared_health.close()

    def abort_requests(self, reason: str) -> None:
        """Shutdown, 2, if the time is over: abort the requests in hand, and all that come later."""
        count = self.pipeline.open_exchanges.abort(SHUTDOWN)
        logger.warning("%s: aborted %d requests", reason, count)

    def close(self) -> None:
        """Shutdown, 3: stop the threads, send the last callbacks and reports, close everything.
        Idempotent.
        """
        self.shared_health.close()
        # The last callbacks and the last report are about these, too.
        self.sessions.close_all()
        self.runtime.stop(self._unblock)
        self._journal.close()
        self.backend.client.close()
        self._callbacks.close()
        self._key_client.close()
        self._report_client.close()

    def _unblock(self) -> None:
        """End what a background thread may be blocked in."""
        if self._probe is not None:
            self._probe.close()
        self._warm_up.stop()
        self.watcher.stop()

    def __repr__(self) -> str:
        return f"<Worker {self.lifecycle!r} {self.ledger!r}>"


def _earlier(*pauses: float | None) -> float | None:
    return min((pause for pause in pauses if pause is not None), default=None)
