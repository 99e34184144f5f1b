"""Reports why a worker cannot start, to every address that expects its reports.

The standard library alone is used, so that `python3 -I pyworker/instance/beacon.py` works if nothing is
installed: a failed installation is one of the things to report, an old version of Python another.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import os
import re
import signal
import socket
import ssl
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from urllib.parse import urlsplit

INTERVAL = 10.0
#: `reports` is its home, but cannot be imported by a file that runs by itself; a test compares the two.
PROTOCOL_VERSION = "1.1.0"

_ADDRESS = "https://run.vast.ai"
#: Seconds for each wait of a call, and for all of it.
_TIMEOUT = 5.0
_EXCHANGE = 8.0
_LOOK = 1.0
_LAST_WORDS = 1.0
_MAX_REASON = 1000
_ENDING = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT)


@dataclass(frozen=True)
class Failure:
    """Which worker cannot start, and why."""

    container_id: int
    master_token: str = field(repr=False)
    url: str
    reason: str

    def to_wire(self) -> dict[str, object]:
        """The JSON object that is sent."""
        return {
            "id": self.container_id,
            "mtoken": self.master_token,
            "version": PROTOCOL_VERSION,
            "error_msg": " ".join(self.reason.split())[:_MAX_REASON],
            "url": self.url,
        }


class Beacon:
    """Reports one failure to all addresses; says once if an address fails, and once if it works again."""

    def __init__(self, addresses: Sequence[str], failure: Failure, say: Callable[[str], None]) -> None:
        self._body = json.dumps(failure.to_wire()).encode()
        self._say = say
        # By address, the error of the last report. Belongs to the thread that reports.
        self._problems = dict.fromkeys(addresses, "")

    def report_once(self) -> bool:
        """One report to each address; whether one of them accepted it."""
        for address, before in self._problems.items():
            problem = _post(address, self._body)
            if problem and problem != before:
                self._say(f"the failure could not be reported to {without_user(address)}: {problem}")
            elif before and not problem:
                self._say(f"the failure is reported to {without_user(address)} now")
            self._problems[address] = problem
        return "" in self._problems.values()

    def report_until_ended(self, wanted: Callable[[], bool] = lambda: True) -> int | None:
        """Report now and every 10 s until SIGTERM, SIGINT or SIGQUIT, which is returned.

        For the main thread only. wanted: called every second; False ends it too, and None is returned.
        """
        signal.pthread_sigmask(signal.SIG_BLOCK, _ENDING)
        ended = threading.Event()
        # A thread, so that a slow address cannot delay the end.
        thread = threading.Thread(target=self._report, args=(ended,), name="pyworker-beacon", daemon=True)
        thread.start()
        signalled = None
        while signalled is None and wanted():
            signalled = signal.sigtimedwait(_ENDING, _LOOK)
        ended.set()
        thread.join(_LAST_WORDS)
        return None if signalled is None else signalled.si_signo

    def _report(self, ended: threading.Event) -> None:
        due = time.monotonic()
        while not ended.wait(due - time.monotonic()):
            self.report_once()
            due = max(due + INTERVAL, time.monotonic())


def failure_of(environ: Mapping[str, str], reason: str) -> Failure:
    """The failure of the worker that `environ` describes; raises ValueError if it has no id.

    Read leniently, since what is wrong with these very variables may be the failure.
    """
    number = environ.get("CONTAINER_ID", "").strip()
    if not re.fullmatch("0*[1-9][0-9]*", number):
        raise ValueError("CONTAINER_ID is not set to a number")
    return Failure(int(number), environ.get("MASTER_TOKEN", "").strip(), _public_url(environ), reason)


def addresses_of(environ: Mapping[str, str]) -> tuple[str, ...]:
    """Where reports go to."""
    given = (part.strip() for part in environ.get("REPORT_ADDR", "").split(","))
    return tuple(address.rstrip("/") for address in given if address) or (_ADDRESS,)


def _public_url(environ: Mapping[str, str]) -> str:
    """As `Settings.public_url`; empty if that is not known."""
    given = environ.get("PYWORKER_PUBLIC_URL", "").strip()
    host = environ.get("PUBLIC_IPADDR", "").strip()
    worker_port = environ.get("WORKER_PORT", "").strip() or "3000"
    port = environ.get(f"VAST_TCP_PORT_{worker_port}", "").strip()
    if given or not (host and port):
        return given.rstrip("/")
    scheme = "https" if environ.get("USE_SSL", "").strip().lower() in ("true", "1", "yes", "on") else "http"
    return f"{scheme}://[{host.strip('[]')}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"


def _post(address: str, body: bytes) -> str:
    """Send one report; why that failed, else empty. No redirect is followed and no proxy asked."""
    try:
        parts = urlsplit(address)
        connection = _connection(parts.scheme, parts.hostname or "", parts.port)
    except ValueError:
        return "it is no URL such as https://run.vast.ai"
    # The socket's timeout is for each wait: a response that drips would delay all other addresses.
    limit = threading.Timer(_EXCHANGE, _break_off, (connection,))
    limit.name, limit.daemon = "pyworker-beacon-limit", True
    limit.start()
    try:
        headers = {"Content-Type": "application/json", "Connection": "close"}
        connection.request("POST", parts.path.rstrip("/") + "/worker_status/", body, headers)
        status = connection.getresponse().status
    except (OSError, ValueError, http.client.HTTPException) as error:
        return str(error) or type(error).__name__
    finally:
        limit.cancel()
        connection.close()
    return "" if 200 <= status < 300 else f"it answered {status}"


def _break_off(connection: http.client.HTTPConnection) -> None:
    """Wake the thread that waits for this connection."""
    if (found := connection.sock) is not None:
        with contextlib.suppress(OSError):
            # Past TLS, whose own shutdown belongs to the thread that waits.
            socket.socket.shutdown(found, socket.SHUT_RDWR)


def _connection(scheme: str, host: str, port: int | None) -> http.client.HTTPConnection:
    if not host or scheme not in ("http", "https"):
        raise ValueError(scheme)
    if scheme == "http":
        return http.client.HTTPConnection(host, port, timeout=_TIMEOUT)
    return http.client.HTTPSConnection(host, port, timeout=_TIMEOUT, context=ssl.create_default_context())


def without_user(address: str) -> str:
    """A URL without user and password."""
    before, at, host = address.rpartition("@")
    return f"{before.partition('://')[0]}://{host}" if at and "://" in before else host


def main(arguments: Sequence[str], environ: Mapping[str, str]) -> int:
    """The program; its exit status."""
    parser = argparse.ArgumentParser(
        prog="beacon.py",
        description="Report to each REPORT_ADDR that this worker cannot start, every 10 s until SIGTERM.",
        epilog="The worker is read from the environment: CONTAINER_ID, MASTER_TOKEN and what the "
        "public URL is made of. Exit status: 0 if --once was accepted by an address, 1 otherwise.",
    )
    parser.add_argument("--once", action="store_true", help="report once and end")
    parser.add_argument("reason", nargs="?", help="why it cannot start (default: what stdin says)")
    options = parser.parse_args(arguments)
    reason = sys.stdin.read() if options.reason is None else options.reason
    try:
        beacon = Beacon(addresses_of(environ), failure_of(environ, reason), _say)
    except ValueError as error:
        _say(f"the failure cannot be reported: {error}")
        return 1
    if options.once:
        return 0 if beacon.report_once() else 1
    beacon.report_until_ended()
    return 1


def _say(line: str) -> None:
    sys.stderr.write(f"start_server.sh: {line}\n")
    sys.stderr.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], os.environ))
