"""Serves one worker as on an instance: everything from an empty machine to the report of a crash.

Two programs end up here, `start_server.sh` and `python -m workers.NAME.server`; a `Way` says what differs.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

from pyworker.config import Settings
from pyworker.config.parsers import VariableReader, base_url, boolean, seconds
from pyworker.errors import ConfigError
from pyworker.instance import certificate, environment, lock, logs, ports
from pyworker.instance.beacon import INTERVAL, Beacon, addresses_of, failure_of
from pyworker.instance.children import FORWARDED, Children, exit_on_signals, handle_signals, signals_held
from pyworker.instance.output import Output, StartError
from pyworker.instance.update import update

_DEFAULTS = {
    "WORKER_PORT": "3000",
    "USE_SSL": "true",
    "REPORT_ADDR": "https://run.vast.ai",
    "WORKSPACE_DIR": "/workspace",
}
#: How much longer than the drain timeout the worker of an earlier start may take to end, in seconds.
_LOCK_MARGIN = 15.0


@dataclass(frozen=True)
class Way:
    """A way to start a worker.

    program: its name in messages; python: what runs the worker; owns_environment: whether this start keeps
    .venv and the version of the checkout; defaults: values of settings that are not set.
    """

    program: str
    python: str
    owns_environment: bool
    defaults: Mapping[str, str] = field(default_factory=dict[str, str])


SCRIPT = Way("start_server.sh", environment.PYTHON, owns_environment=True)


def module_way(worker: str) -> Way:
    """`python -m workers.NAME.server`, run by an instance's bootstrap in an environment that it has made.

    A supervisor kills the bootstrap 10 s after SIGTERM, and expects the port to listen within 60 s.
    """
    defaults = {"BACKEND": worker, "DRAIN_TIMEOUT": "7", "CERTIFICATE_TIMEOUT": "20"}
    package = worker if "." in worker else f"workers.{worker}"
    return Way(f"{package}.server", sys.executable, owns_environment=False, defaults=defaults)


class Launcher:
    """One start on an instance. For the main thread of a process without others."""

    def __init__(self, environ: Mapping[str, str], way: Way = SCRIPT) -> None:
        given = {name: text for name, text in environ.items() if text}
        self._way = way
        self._environ = {**_DEFAULTS, **way.defaults, **given}
        self._workspace = Path(self._environ["WORKSPACE_DIR"])
        self._environ.setdefault("PYWORKER_STATE_DIR", str(self._workspace))
        self._debug_log = self._workspace / "debug.log"
        self._worker_log = self._workspace / "pyworker.log"
        self._lock_file = self._workspace / ".pyworker.lock"
        self._output = Output(way.program)
        self._children = Children(self._output, self._environ, self._debug_log)

    def run(self) -> int:
        """Serve until a signal ends it; the exit status."""
        exit_on_signals()
        try:
            return self._serve(self._prepare().backend or "")
        except StartError as error:
            self._output.note(*error.lines)
            if error.reported:
                self._report(" ".join(error.lines))
        except Exception as error:  # noqa: BLE001  a full disk, for one
            reason = f"the start has failed: {type(error).__name__}: {error}"
            self._output.note(reason)
            self._report(reason)
        finally:
            self._children.stop_all()
            self._output.end_line()
        return 1

    def _prepare(self) -> Settings:
        """Everything before the worker runs; raises `StartError`."""
        self._open_workspace()
        settings, problems = self._read_settings()
        self._take_lock((settings or Settings).drain_timeout)
        for log in (self._debug_log, self._worker_log):
            logs.set_aside(log, self._output, logs.LARGE)
        if settings is None or problems:
            raise StartError(*problems)
        ports.require_free(settings.worker_host, {"WORKER_PORT": self._environ["WORKER_PORT"]})
        if self._rotate_model_log:
            # Now, since what the model logs during the installation, which takes minutes, is for this worker.
            self._set_model_log_aside(settings.model_log)
        if self._way.owns_environment:
            self._prepare_environment(settings.update_flag)
        elif settings.update_flag.exists():
            kept = f"{settings.update_flag} asks for an update, which is left to what made this environment"
            self._output.note(kept)
        if settings.use_ssl:
            self._require_certificate(settings)
        return settings

    def _open_workspace(self) -> None:
        try:
            self._workspace.mkdir(parents=True, exist_ok=True)
            if logs.is_recorded(self._worker_log):
                # Lines would come twice; and what records them ends with SIGTERM, before the worker does.
                self._worker_log = self._workspace / "worker.log"
            self._worker_log.touch()
            if not logs.is_recorded(self._debug_log):
                self._output.copy_to(self._debug_log)
            self._lock = os.open(self._lock_file, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            fault = f"WORKSPACE_DIR={self._workspace} cannot be used ({error.strerror})"
            raise StartError(f"{fault}: set it to a folder that can be written") from error

    def _read_settings(self) -> tuple[Settings | None, tuple[str, ...]]:
        """The settings unless a value is invalid, and what is wrong with them."""
        reader = VariableReader(self._environ)
        self._rotate_model_log = reader.get("ROTATE_MODEL_LOG", False, boolean)
        self._console = reader.get("CONSOLE_URL", "https://console.vast.ai", base_url)
        self._certificate_seconds = reader.get("CERTIFICATE_TIMEOUT", 120.0, seconds)
        try:
            settings = Settings.from_env(self._environ)
        except ConfigError as error:
            return None, (*error.problems, *reader.problems)
        return settings, (*reader.problems, *self._missing(settings))

    def _missing(self, settings: Settings) -> Iterator[str]:
        """A line for each setting that an instance needs and does not have."""
        workers = (environment.ROOT / "workers").glob("*/server.py")
        names = " ".join(sorted(path.parent.name for path in workers))
        if settings.backend is None:
            yield f"BACKEND is not set: set it to the name of a worker (here: {names})"
        elif not environment.WORKER_NAME.fullmatch(settings.backend):
            advice = f"set it to one of {names}, or to the dotted path of a package"
            yield f"BACKEND is not a worker's name: {advice}"
        if settings.unsecured:
            return
        if settings.container_id == 0:
            yield "CONTAINER_ID is not set to a number: set it to the integer id of this instance"
        if settings.public_url is None and settings.check_url:
            port = settings.worker_port
            if "PUBLIC_IPADDR" not in self._environ:
                yield "PUBLIC_IPADDR is not set: set it to the public address of this instance"
            if f"VAST_TCP_PORT_{port}" not in self._environ:
                yield f"VAST_TCP_PORT_{port} is not set: set it to the public port of port {port}"

    def _take_lock(self, drain_timeout: float) -> None:
        """One start at a time. The lock lasts as long as this process and its worker."""
        try:
            owner = lock.take(self._lock, drain_timeout + _LOCK_MARGIN, self._output.say)
        except lock.NoLocks as error:
            self._output.note(
                f"{self._lock_file} cannot be locked ({error}): only the port keeps a second start away.",
                "Set WORKSPACE_DIR to a folder of a local file system.",
            )
            return
        if owner:
            port = self._environ["WORKER_PORT"]
            listening = ports.described(ports.holders(int(port))) if ports.is_port(port) else ""
            holders = f"{owner} has {self._lock_file}, and {listening or 'no process yet'} listens on"
            advice = f"port {port}. End that first, then start again."
            # The worker of the other start is healthy.
            raise StartError(f"this instance is started already: {holders}", advice, reported=False)
        self._children.inherited = (self._lock,)

    def _set_model_log_aside(self, log: Path | None) -> None:
        if log is None:
            self._output.note("ROTATE_MODEL_LOG=true has no effect without MODEL_LOG: set MODEL_LOG, too")
        else:
            logs.set_aside(log, self._output)

    def _prepare_environment(self, flag: Path) -> None:
        if flag.exists() and update(flag, self._workspace, self._children):
            self._output.say("The new version takes over.")
            # It takes the lock itself, and keeps what the model has logged since this start.
            environ = {**self._environ, "ROTATE_MODEL_LOG": "false"}
            os.execve("/bin/sh", ["sh", "./start_server.sh"], environ)
        environment.prepare(self._children)

    def _require_certificate(self, settings: Settings) -> None:
        if shutil.which("openssl") is None:
            # A bare system also lacks the root certificates that the TLS of the console needs.
            environment.install_packages(self._children, "openssl", "ca-certificates")
        if shutil.which("openssl") is None:
            raise StartError(
                "the command openssl is missing, which USE_SSL=true needs. Install it and start again:",
                "    apt-get update && apt-get install -y openssl ca-certificates",
            )
        try:
            certificate.require_certificate(
                settings.ssl_keyfile,
                settings.ssl_certfile,
                self._environ.get("PYWORKER_PUBLIC_URL") or self._environ.get("PUBLIC_IPADDR", ""),
                lambda request: certificate.ask_console(self._console, str(settings.container_id), request),
                self._certificate_seconds,
                self._output.say,
            )
        except certificate.NotSigned as error:
            raise StartError(f"there is no certificate for USE_SSL=true: {error}") from error

    def _serve(self, backend: str) -> int:
        """Run the worker; the exit status. If it ends by itself, report why until a signal ends this."""
        begin = self._worker_log.stat().st_size
        command = (self._way.python, "-m", *environment.gunicorn(backend))
        end_requested = False
        with logs.copied_to(self._worker_log) as output:
            with signals_held():
                worker = self._children.start("The worker", *command, stdout=output, stderr=output)

                def forward(number: int, _frame: FrameType | None) -> None:
                    nonlocal end_requested
                    end_requested |= number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT)
                    worker.send_signal(number)

                handle_signals(FORWARDED, forward)
            status = self._children.wait("The worker")
        if status == 0 or end_requested:
            return status
        reason = logs.why_it_ended(status, self._worker_log, begin)
        how = f"this is reported every {INTERVAL:.0f} s until process {os.getpid()} is ended"
        self._output.note(reason, how)
        handle_signals(FORWARDED, signal.SIG_DFL)
        self._report(reason, Beacon.report_until_ended)
        return 1

    def _report(self, reason: str, how: Callable[[Beacon], object] = Beacon.report_once) -> None:
        try:
            failure = failure_of(self._environ, reason)
        except ValueError as error:
            self._output.note(f"the failure cannot be reported: {error}")
        else:
            how(Beacon(addresses_of(self._environ), failure, self._output.note))


def main(arguments: Sequence[str], environ: Mapping[str, str]) -> int:
    """The program; its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m pyworker.instance.launcher",
        description="What start_server.sh ends in; with WORKER, what python -m workers.WORKER.server does on "
        "an instance. Everything else is set by the environment.",
    )
    parser.add_argument("worker", nargs="?", metavar="WORKER")
    worker = parser.parse_args(arguments).worker
    return Launcher(environ, SCRIPT if worker is None else module_way(worker)).run()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], os.environ))
