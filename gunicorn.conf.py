"""How gunicorn runs a worker: `gunicorn -c gunicorn.conf.py 'pyworker:create_app("hello_world")'`.

Every value comes from the environment through `pyworker.config.Settings`.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import logging
import os
import signal
import ssl
import sys
import time
import traceback
from collections.abc import Callable
from types import FrameType
from typing import TYPE_CHECKING, Any, NoReturn

from pyworker.black_box.folder import BoxFolder
from pyworker.black_box.machine import killed_for_memory
from pyworker.config import (
    ONE_PROCESS,
    RESERVED_THREADS,
    Settings,
    most_connections,
    raise_descriptor_limit,
)
from pyworker.downstream.tls import CertificateFiles, ServerContext
from pyworker.errors import ConfigError
from pyworker.instance.beacon import INTERVAL, Beacon, Failure
from pyworker.runtime import allocator
from pyworker.runtime.redaction import hiding_only
from pyworker.runtime.signals import REFUSED_SIGNALS
from pyworker.telemetry.log_format import FORMATTERS

if TYPE_CHECKING:
    from gunicorn.arbiter import Arbiter
    from gunicorn.config import Config

    from pyworker.downstream.gunicorn_worker import HardenedThreadWorker

try:
    _settings = Settings.from_env()
    _settings.require_identity()
    _certificate = CertificateFiles(_settings.ssl_certfile, _settings.ssl_keyfile)
    _tls = ServerContext(_certificate) if _settings.use_ssl else None
except ConfigError as error:
    sys.exit(f"pyworker: {error}")

_descriptors = raise_descriptor_limit()
_box = BoxFolder(_settings.state_dir)
# By process: its exit code, or the negative number of its signal.
_ends: dict[int, int] = {}

bind = _settings.bind
proc_name = "pyworker"

# One process, which holds the queue, the replay window and the ledger.
workers = _settings.workers
worker_class = "pyworker.downstream.gunicorn_worker.HardenedThreadWorker"
# Each request in hand holds a thread, also while it is queued. Threads are made when needed.
threads = _settings.threads
# An idle or slow connection holds no thread, so there may be many more connections than threads. At the limit
# the connection that has been idle longest is closed. At most a quarter of the descriptors.
worker_connections = min(max(4096, threads + RESERVED_THREADS), most_connections(_descriptors))
backlog = 1024
keepalive = 60
max_requests = 0
reload = False
preload_app = False

# The main loop's heartbeat, not a limit for requests.
timeout = 60
# The master kills the process then; the worker aborts what is left before that.
graceful_timeout = int(_settings.drain_timeout) + 10

# The strict parser; no proxy in front of the worker may rewrite paths.
http_parser = "python"
forwarded_allow_ips = ""
limit_request_line = 8190
control_socket_disable = True

if _tls is not None:
    # These make gunicorn use TLS; the context is ours.
    certfile = str(_settings.ssl_certfile)
    keyfile = str(_settings.ssl_keyfile)


def _formatter() -> logging.Formatter:
    """A function, since gunicorn prints its configuration, which must not hold the secrets."""
    return FORMATTERS[_settings.log_format](hiding_only(_settings.secrets))


logconfig_dict: dict[str, Any] = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"generic": {"()": _formatter}},
    "handlers": {"console": {"class": "logging.StreamHandler", "formatter": "generic", "stream": sys.stderr}},
    "root": {"level": _settings.log_level, "handlers": ["console"]},
    "loggers": {
        "gunicorn.error": {"level": _settings.log_level, "handlers": [], "propagate": True},
        "gunicorn.access": {"level": "WARNING", "handlers": [], "propagate": False},
        # Its debug lines contain URLs and header fields.
        "urllib3": {"level": "WARNING"},
    },
}


def ssl_context(_config: Config, default: Callable[[], ssl.SSLContext]) -> ssl.SSLContext:
    """Called for each connection."""
    return default() if _tls is None else _tls.current()


def on_starting(server: Arbiter) -> None:
    """Refuse more than one process, by the command line or by a signal."""
    if server.num_workers != 1:
        sys.exit(f"pyworker: {ONE_PROCESS}")
    kept = _box.conclude_left("the worker ended, and with it all that had started it")
    if kept is not None:
        logging.getLogger("pyworker").warning(
            "the last run ended unexpectedly; python -m pyworker.doctor --black-box tells what is known (%s)",
            kept,
        )
    reap = server.reap_workers
    server.reap_workers = functools.partial(_note_ends_and, reap, server)
    for number in REFUSED_SIGNALS:
        # The arbiter looks up its handlers by name, and calls them from its main loop.
        name = signal.Signals(number).name
        setattr(server, f"handle_{name.removeprefix('SIG').lower()}", functools.partial(_refuse, name))
    # Here, since logging is set up only now.
    if _settings.threads_refused:
        logging.getLogger("pyworker").warning(
            "the limit of %d open files allows %d connections and %d threads, not the %d of WORKER_THREADS: "
            "raise it (ulimit -Hn) for more requests at the same time",
            _descriptors,
            worker_connections,
            threads,
            threads + _settings.threads_refused,
        )
    if _tls is not None:
        _tls.announce()


def _refuse(name: str) -> None:
    logging.getLogger("pyworker").warning(
        "%s is refused: %s. To start anew, end this process with SIGTERM and start it again",
        name,
        ONE_PROCESS,
    )


def _note_ends_and(reap: Callable[[], None], server: Arbiter) -> None:
    """Remember how workers ended, which gunicorn does not tell `child_exit`."""
    for pid in list(server.WORKERS):
        with contextlib.suppress(ChildProcessError):
            ended = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            if ended is not None:
                is_exit = ended.si_code == os.CLD_EXITED
                _ends[pid] = ended.si_status if is_exit else -ended.si_status
    reap()


def child_exit(_server: Arbiter, worker: HardenedThreadWorker) -> None:
    """Keep what is known of a worker that ended and should not have. Called in the master."""
    status = _ends.pop(int(worker.pid), None)
    if status == 0:
        _box.forget()
        return
    if status is None:  # it ended just when the others were looked at
        what = "the worker process ended"
        kept = _box.conclude_left(what)
    else:
        how = f"signal {-status}" if status < 0 else f"exit code {status}"
        stuck = f": its main thread stood still for {timeout} s" if worker.aborted else ""
        what = f"the worker process was ended by {how}{stuck}"
        killed = killed_for_memory()
        more = {"status": status, "stuck": worker.aborted, "killed_for_memory_since": killed}
        kept = _box.conclude(what, more=more)
    if kept is not None:
        advice = "python -m pyworker.doctor --black-box tells more"
        logging.getLogger("pyworker").error("%s; %s (%s)", what, advice, kept)


def when_ready(server: Arbiter) -> None:
    """Before the first worker process."""
    # It shares the memory of this process as long as nobody writes to it, and its garbage collector would
    # write to every object. Once, since what is frozen is never collected.
    gc.freeze()
    _forward_second_stop(server)


def _forward_second_stop(server: Arbiter) -> None:
    """It hurries the drain of the worker: a master that ends already ignores it."""
    received = 0

    def on_terminate(number: int, frame: FrameType | None) -> None:
        nonlocal received
        received += 1
        server.signal(number, frame)
        if received > 1:
            for pid in list(server.WORKERS):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, number)

    signal.signal(signal.SIGTERM, on_terminate)


def post_fork(_server: Arbiter, worker: HardenedThreadWorker) -> None:
    """In the new process: make the app, hand it to the gunicorn worker, and start its threads."""
    allocator.tune()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT):
        # Until gunicorn installs the worker's handlers, those of the master would ignore these.
        signal.signal(number, signal.SIG_DFL)
    for number in REFUSED_SIGNALS:
        # A closing terminal sends SIGHUP to every process of its group, not only to the master.
        signal.signal(number, signal.SIG_IGN)
    try:
        # Here, since the master reads this file too and must not hold the memory of the app.
        from pyworker.app import CALLBACKS, worker_of

        application: Any = worker.app
        app = application.wsgi()
        worker.pyworker, worker.callback_app = worker_of(app), app.extensions[CALLBACKS]
        worker.pyworker.check_can_serve()
    except ConfigError as error:
        logging.getLogger("pyworker").error("cannot start: %s", error)
        # gunicorn's status for an app that does not load: the master ends instead of retrying for ever.
        sys.exit(4)
    except (Exception, SystemExit) as error:  # noqa: BLE001  a worker package may do anything
        _report_until_ended(worker, error)
    if _settings.cpu_affinity == "auto":
        worker.pyworker.keep_to_one_processor()
    worker.pyworker.start()


def _report_until_ended(worker: HardenedThreadWorker, error: BaseException) -> NoReturn:
    """The worker package is broken: report why to the autoscaler until this process is ended."""
    from pyworker.contract.places import place_of_error

    place = place_of_error(error)
    reason = " ".join(f"cannot start: {type(error).__name__}: {error}{place and f' ({place})'}".split())
    logger = logging.getLogger("pyworker")
    logger.error("the worker package does not load", exc_info=error)
    if _settings.unsecured:  # for development: there is nobody to tell
        logger.error("%s", reason)
        sys.exit(4)
    logger.error("%s; reported every %.0f s until this process is ended", reason, INTERVAL)
    with contextlib.suppress(OSError):
        _box.keep(
            "start",
            {"at": time.time(), "what": reason, "own_lines": traceback.format_tb(error.__traceback__)},
        )
    failure = Failure(_settings.container_id, _settings.master_token, _settings.public_url or "", reason)

    def is_wanted() -> bool:
        worker.notify()
        return os.getppid() == worker.ppid

    ended_by = Beacon(_settings.report_addrs, failure, logger.warning).report_until_ended(is_wanted)
    # Status 4 as above; but a master that is ending after a SIGTERM would take it for a failure.
    sys.exit(0 if ended_by == signal.SIGTERM else 4)


def worker_exit(_server: Arbiter, worker: HardenedThreadWorker) -> None:
    """Join the threads and send the last report. Also called in the master, where nothing was started."""
    if worker.pyworker is not None:
        worker.pyworker.close()
