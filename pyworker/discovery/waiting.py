"""The worker that stands in until the model server is known: it listens, reports that it loads, responds 503.

Once the server is known, the process ends, and gunicorn's master forks the next one, which makes the app of
the worker that was found. Nothing is kept between the two: the next process looks again, and finds the same.
"""

from __future__ import annotations

import logging
import os
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NoReturn

import flask
import requests

from pyworker.backend import Backend
from pyworker.config import Settings
from pyworker.data_types import ApiPayload, EndpointHandler
from pyworker.discovery.survey import Finding, Survey
from pyworker.errors import ConfigError, NotReady
from pyworker.lifecycle.state import Cause, ModelLifecycle
from pyworker.registry import load_worker
from pyworker.runtime.log_limit import LogLimit
from pyworker.runtime.services import Loop

logger = logging.getLogger(__name__)

#: The value of BACKEND, and the folder under workers/.
AUTO = "auto"
#: Seconds between two looks.
INTERVAL = 2.0
# Seconds between two log lines that say the same.
_SAME_LINE = 60.0
# Seconds; the warning about a model that loads for long would name a log and phrases that nobody knows yet.
_NEVER = 10_000_000.0
_ANY_URL = "http://127.0.0.1:18000"


def choose(settings: Settings) -> tuple[str, Settings]:
    """Look once. Returns the worker that fits and its settings, or `AUTO` and those of the stand-in."""
    finding = _servable(Survey(settings).look())
    if finding.worker is None:
        return AUTO, replace(settings, model_loading_warn_after=_NEVER)
    logger.info("BACKEND=auto: the worker is %s, since %s", finding.worker, finding.reason)
    return finding.worker, finding.applied_to(settings)


def _servable(finding: Finding) -> Finding:
    """The same, unless there is no such worker here."""
    if finding.worker is None:
        return finding
    try:
        load_worker(finding.worker)
    except ConfigError as error:
        return Finding(None, f"{finding.reason}, but {error}", is_ambiguous=True)
    return finding


def end_process() -> None:
    """As gunicorn's master would end it: the last report is sent, and another process follows."""
    os.kill(os.getpid(), signal.SIGTERM)


class Watch:
    """Looks for the model server until it is known. `step` belongs to one thread.

    patience: seconds after which an ambiguous situation is reported as an error. on_found: called once the
    worker is known, and also if an error that was reported is over, since only a new process forgets it.
    """

    def __init__(
        self,
        survey: Survey,
        lifecycle: ModelLifecycle,
        *,
        patience: float,
        on_found: Callable[[], None] = end_process,
    ) -> None:
        self._survey = survey
        self._lifecycle = lifecycle
        self._patience = patience
        self._on_found = on_found
        self._limit = LogLimit(_SAME_LINE)
        # Set by `stop`, from any thread.
        self._is_stopped = False
        # Since when the situation has been ambiguous.
        self._since: float | None = None

    def step(self, now: float) -> float | None:
        """Look once. Returns seconds until the next step, None once the worker is known. now: monotonic."""
        finding = _servable(self._survey.look())
        if self._is_stopped:
            return None  # what was aborted says nothing
        if finding.worker is not None:
            self._on_found()
            return None
        suffix = self._limit.suffix(finding.reason)
        if suffix is not None:
            logger.info("BACKEND=auto waits: %s%s", finding.reason, suffix)
        if finding.is_ambiguous:
            self._since = now if self._since is None else self._since
            if now - self._since >= self._patience:
                self._lifecycle.failed(Cause.LOG, f"BACKEND=auto finds no worker: {finding.reason}")
        elif self._since is not None:
            if now - self._since >= self._patience:
                self._on_found()
                return None
            self._since = None
        return INTERVAL

    def stop(self) -> None:
        """Make a running step return soon."""
        self._is_stopped = True
        self._survey.close()


class WaitingBackend(Backend):
    """A backend without a model server that is known: nothing is followed or probed."""

    knows_model_server = False

    def __init__(self, settings: Settings) -> None:
        unread = replace(settings, model_log=None, model_health_endpoint=None, model_readiness=None)
        url = settings.model_server_url or _ANY_URL
        super().__init__(url, None, benchmark_handler=_NoHandler(), settings=unread)
        self._sought = settings

    def require_loaded_sign(self) -> None:
        """Nothing can tell, and nothing has to."""

    def require_readiness_source(self) -> None:
        """Nothing can tell, and nothing has to."""

    def loops(self, lifecycle: ModelLifecycle) -> Sequence[Loop]:
        """The search."""
        watch = Watch(Survey(self._sought), lifecycle, patience=self._sought.model_ready_timeout)
        return [Loop("pyworker-auto", lambda: watch.step(time.monotonic()), on_stop=watch.stop)]


@dataclass
class _Nothing(ApiPayload):
    @classmethod
    def for_test(cls) -> _Nothing:
        return cls()

    def count_workload(self) -> float:
        return 0.0


class _NoHandler(EndpointHandler[_Nothing]):
    """For a benchmark that never runs."""

    @property
    def endpoint(self) -> str:
        return "/"

    @classmethod
    def payload_cls(cls) -> type[_Nothing]:
        return _Nothing

    def make_benchmark_payload(self) -> _Nothing:
        return _Nothing()

    def generate_client_response(
        self,
        client_request: flask.Request,  # noqa: ARG002
        model_response: requests.Response,  # noqa: ARG002
    ) -> NoReturn:
        raise _not_known()


def create_backend(settings: Settings) -> Backend:
    """Of the stand-in."""
    return WaitingBackend(settings)


def create_blueprint(_backend: Backend) -> flask.Blueprint:
    """503 for every route that some worker may have."""
    blueprint = flask.Blueprint(AUTO, __name__)
    for rule in ("/", "/<path:path>"):
        blueprint.add_url_rule(rule, "wait", _refuse, methods=["GET", "POST"])
    return blueprint


def _refuse(**_path: str) -> NoReturn:
    raise _not_known()


def _not_known() -> NotReady:
    return NotReady("the worker is loading: its model server is not known yet")
