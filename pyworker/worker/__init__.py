"""One running worker: the parts of the package wired together for one backend.

model  the parts that know whether the model is loaded and healthy, and how fast it is
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping

import pyworker
from pyworker.backend import Backend
from pyworker.config import Settings
from pyworker.data_types import AuthData
from pyworker.lifecycle.state import ModelState
from pyworker.lifecycle.suspicion import FailureStreak
from pyworker.lifecycle.throughput_watch import Load, ThroughputWatch
from pyworker.proxy.admission import AdmissionControl
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
from pyworker.runtime.affinity import Affinity
from pyworker.runtime.redaction import hiding_only
from pyworker.runtime.services import Loop, Runtime, Wake
from pyworker.sessions.callbacks import Callbacks
from pyworker.sessions.store import Sessions
from pyworker.telemetry.idle import IdleTime
from pyworker.telemetry.last_lines import OwnLines, WorkerLines
from pyworker.telemetry.metrics import Metrics
from pyworker.telemetry.recorder import Recorder
from pyworker.telemetry.request_lines import RequestLines
from pyworker.telemetry.spans import SpanExport, span_export
from pyworker.telemetry.window import Window
from pyworker.worker.model import ModelSide

logger = logging.getLogger(__name__)


class Worker:
    """The composition: ledger, model state, pipeline and background threads. Thread-safe through its parts.

    Made by `create_app`; `app.extensions["pyworker"]` is one. No thread runs before `start()`.
    """

    def __init__(self, backend: Backend, settings: Settings) -> None:
        self.backend = backend
        self.settings = settings
        client = backend.client
        # Each makes the next step of the loop with this name due immediately.
        wake_report, wake_key, wake_callbacks, wake_sessions = (Wake() for _ in range(4))

        #: What a report says of an error besides its message; set before the start.
        self.excerpt: Callable[[], str] = str

        # -- what is counted, and what a report says
        self.recorder = Recorder()
        self.window = Window(time.time)
        self.metrics = Metrics()
        self.recorder.tell(self.window.take)
        self.recorder.tell(self.metrics.take)
        self.recorder.tell(RequestLines(settings.log_requests).take)
        wake_spans = Wake()
        self._spans = _span_export(settings, wake_spans)
        if self._spans is not None:
            self.recorder.traces = True
            self.recorder.tell(self._spans.take)
        self._journal = Journal()
        self.ledger = Ledger(self._journal.append, on_change=wake_report)
        self.idle = IdleTime(self.ledger.busy_seconds)
        #: The server's connections by stage, once it runs.
        self.connections: Callable[[], Mapping[str, int]] = dict[str, int]
        journal_keeper = JournalKeeper(self._journal, settings.unsent_file, on_survivors=self.ledger.touch)
        self.model = model = ModelSide(backend, settings, on_change=self.ledger.touch)
        self.lifecycle = model.lifecycle
        #: What the logs said last.
        self.last_lines = WorkerLines(model.lines, OwnLines(hiding_only(settings.secrets)))
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
        self.reporter = Reporter(
            self._report_client,
            self.ledger,
            self._journal,
            Identity(settings.container_id, settings.master_token, settings.public_url or ""),
            self._figures,
            on_accepted=key_fetcher.retry,
        )

        # -- whether the model is loaded and healthy: model.py
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
        self.admission = AdmissionControl(self.verifier, self.lifecycle, self.ledger, settings.max_in_hand)
        self.pipeline = Pipeline(
            reception=Reception(
                self.verifier, bodies, Door(settings.openai_api_key_digests), self.sessions.extend
            ),
            verifier=self.verifier,
            admission=self.admission,
            client=client,
            watcher=self.watcher,
            streak=FailureStreak(model.health.requests_failed),
            recorder=self.recorder,
        )

        # -- the background threads, in the order in which they are stopped: the last report carries what
        # the other threads left
        loops = [
            *backend.loops(self.lifecycle),
            *model.loops(),
            Loop("pyworker-journal", journal_keeper.step),
            Loop("pyworker-sessions", self.sessions.expire_once, wake=wake_sessions),
            Loop(
                "pyworker-callbacks",
                self._callbacks.step,
                wake=wake_callbacks,
                on_end=self._callbacks.flush,
            ),
            Loop("pyworker-telemetry", self._tell, on_end=self.recorder.flush),
            Loop("pyworker-throughput", lambda: throughput.step(time.monotonic())),
            Loop("pyworker-disconnect", self.watcher.step),
            Loop(
                "pyworker-report",
                lambda: self.reporter.report_once(time.monotonic()),
                wake=wake_report,
                hold=MIN_INTERVAL,
                on_end=self.reporter.flush,
            ),
        ]
        if self._spans is not None:
            loops.insert(0, Loop("pyworker-spans", self._spans.step, wake=wake_spans))
        if not settings.unsecured:
            loops.insert(0, Loop("pyworker-pubkey", key_fetcher.fetch_once, wake=wake_key))
        self.runtime = Runtime(loops)

    def _figures(self) -> ModelFigures:
        status = self.lifecycle.status
        # Without the key every request would be refused.
        is_ready = status.state is ModelState.READY and self.verifier.has_key
        excerpt = self.excerpt() if status.error_msg else ""
        error = f"{status.error_msg} ({excerpt})" if excerpt else status.error_msg
        return ModelFigures(status.throughput if is_ready else 0.0, error)

    def _tell(self) -> float:
        self.idle.sample()
        return self.recorder.step()

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

    def keep_to_one_processor(self) -> None:
        """Have a thread keep this process on one processor while it is busy. Before the start."""
        affinity = Affinity(lambda: self.lifecycle.state is ModelState.READY)
        self.runtime.add(Loop("pyworker-affinity", affinity.step, on_end=affinity.close))

    def start(self) -> None:
        """Start the background threads. The journal's takes over what an earlier process left."""
        self.last_lines.own.attach()
        self.runtime.start()

    @property
    def is_started(self) -> bool:
        """Whether its threads run, or have run: without them nothing can become ready."""
        return self.runtime.is_started

    def drain(self) -> None:
        """Shutdown, 1: refuse new requests. Those in hand have `drain_timeout` seconds to end."""
        logger.info("draining: requests in hand have %g s", self.settings.drain_timeout)
        self.lifecycle.drain()
        self.model.close_shared()

    def abort_requests(self, reason: str) -> None:
        """Shutdown, 2, if the time is over: abort the requests in hand, and all that come later."""
        count = self.pipeline.open_exchanges.abort(SHUTDOWN)
        logger.warning("%s: aborted %d requests", reason, count)

    def close(self) -> None:
        """Shutdown, 3: stop the threads, send the last callbacks and reports, close everything.
        Idempotent.
        """
        self.model.close_shared()
        # The last callbacks and the last report are about these, too.
        self.sessions.close_all()
        self.runtime.stop(self._unblock)
        if self._spans is not None:
            self._spans.close()
        self._journal.close()
        self.backend.client.close()
        self._callbacks.close()
        self._key_client.close()
        self._report_client.close()
        self.last_lines.own.detach()

    def _unblock(self) -> None:
        """End what a background thread may be blocked in."""
        self.model.unblock()
        self.watcher.stop()

    def __repr__(self) -> str:
        return f"<Worker {self.lifecycle!r} {self.ledger!r}>"


def _span_export(settings: Settings, wake: Wake) -> SpanExport | None:
    if settings.otlp_endpoint is None:
        return None
    return span_export(settings.otlp_endpoint, pyworker.__version__, str(settings.container_id), wake)
