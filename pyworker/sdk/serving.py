"""gunicorn in this process: as `gunicorn -c gunicorn.conf.py`, but the app is made by an object at hand."""

from __future__ import annotations

import logging
import os
import sys
import threading
from collections.abc import Callable
from typing import Any, NoReturn

import flask
from gunicorn.app.base import Application
from gunicorn.arbiter import Arbiter

from pyworker.config import raw_environment, set_instance_defaults
from pyworker.config.parsers import url_host
from pyworker.errors import ConfigError
from pyworker.instance.beacon import Beacon, addresses_of, failure_of
from pyworker.server import config_file

logger = logging.getLogger(__name__)


class _Gunicorn(Application):
    """host: in place of WORKER_HOST."""

    def __init__(self, make_app: Callable[[], flask.Flask], host: str | None) -> None:
        self._make_app = make_app
        self._host = host
        super().__init__()

    def load_config(self) -> None:
        """As by `-c`; the command line is the program's."""
        self.load_config_from_file(str(config_file()))
        if self._host is not None:
            self.cfg.set("bind", f"{url_host(self._host)}:{self.cfg.bind[0].rpartition(':')[2]}")

    def load(self) -> Any:
        """In the worker process. Raises `ConfigError`, after that was reported."""
        # Not above: the master has no use for the memory of the app.
        from pyworker.app import worker_of

        try:
            app = self._make_app()
            worker_of(app).backend.require_readiness_source()
        except ConfigError as error:
            _report(f"cannot start: {error}")
            raise
        return app


def serve(make_app: Callable[[], flask.Flask], host: str | None = None) -> NoReturn:
    """Serve until a signal ends it; raises SystemExit with gunicorn's status.

    make_app: called in the worker process, which is forked. host: in place of WORKER_HOST.
    """
    if threading.current_thread() is not threading.main_thread():
        raise ConfigError("Worker.run() handles signals: call it on the main thread")
    _warn_of_what_a_fork_loses()
    set_instance_defaults()
    master = os.getpid()
    try:
        _Gunicorn(make_app, host).run()
    except SystemExit as ended:
        if os.getpid() == master:
            if isinstance(ended.code, str):  # of gunicorn.conf.py, whose settings are not valid
                _report(ended.code)
            elif ended.code not in (0, Arbiter.APP_LOAD_ERROR):
                _report(f"the worker has ended with status {ended.code}; its log says why")
            raise
        # The worker process has ended; what the program does after `run` is for the first process alone.
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        os._exit(ended.code if isinstance(ended.code, int) else 1)
    sys.exit(0)


def _report(reason: str) -> None:
    """Tell the autoscaler, if this is an instance: its supervisor only starts the program again."""
    environ = raw_environment()
    try:
        failure = failure_of(environ, " ".join(reason.split()))
    except ValueError:
        return
    Beacon(addresses_of(environ), failure, logger.warning).report_once()


def _warn_of_what_a_fork_loses() -> None:
    names = [thread.name for thread in threading.enumerate() if thread is not threading.current_thread()]
    if names:
        logger.warning(
            "threads that were started before Worker.run() go on in this process, and do not exist in "
            "the one that serves: %s",
            ", ".join(names[:5]),
        )
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        raise ConfigError(
            "the program has used CUDA before Worker.run(), and CUDA does not work in the process that "
            "serves, which is forked: load the model in WorkerConfig.lifecycle or at the first request"
        )
