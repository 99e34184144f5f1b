"""A load test: `python -m pyworker.loadtest -w NAME …`, or `run` from a worker's `test_load.py`.

`generator` starts requests on schedule, `measurement` counts them, `report` prints the figures.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
import time
from collections.abc import Sequence
from typing import NoReturn

from pyworker.client import Client, ClientError
from pyworker.client_options import add_client_options, client_from, positive
from pyworker.data_types import ApiPayload
from pyworker.loadtest.generator import Generator
from pyworker.loadtest.measurement import Failure, Measurement
from pyworker.loadtest.report import progress_line, table

GRACE_SECONDS = 10.0
"""How long requests in flight may still take after Ctrl-C."""
EXCERPT = 200

LoadPayload = ApiPayload | type[ApiPayload]


def run(payload: LoadPayload, endpoint: str) -> NoReturn:
    """Run the load test that the command line asks for and exit: status 1 when a request failed.

    A payload class makes a fresh payload for each request, an instance is sent as it is. `endpoint` is
    the worker's route, such as "/generate".
    """
    sys.exit(execute(payload, endpoint, sys.argv[1:]))


def execute(payload: LoadPayload, endpoint: str, argv: Sequence[str]) -> int:
    """As `run`, with the arguments given and the exit status returned."""
    parser = make_parser()
    options = parser.parse_args(argv)
    measurement = Measurement()
    with client_from(parser, options) as client:
        sender = _Sender(client, payload, options.route or endpoint)
        sender.prepare()
        generator = Generator(sender.send, options.n, options.rps, measurement)
        generator.start()
        _watch(generator, measurement, options.n)
    summary = measurement.summary()
    _say(table(summary, options.n, options.rps))
    return 1 if summary.failed or summary.in_flight else 0


def make_parser(prog: str | None = None) -> argparse.ArgumentParser:
    """The options that every load test has."""
    parser = argparse.ArgumentParser(
        prog=prog,
        description="Send requests at a steady rate and report latencies and failures.",
        epilog="Ctrl-C stops sending and reports; a second one does not wait for answers.",
        allow_abbrev=False,
    )
    parser.add_argument("-n", type=_count, default=10, metavar="COUNT", help="requests to send (default: 10)")
    parser.add_argument(
        "-rps", type=positive, default=1.0, metavar="RATE", help="requests started per second (default: 1)"
    )
    parser.add_argument("--route", metavar="PATH", help="route of the worker (default: the worker's own)")
    add_client_options(parser)
    return parser


class _Sender:
    """Sends one request after the other as told. Stateless after construction: any thread may send."""

    def __init__(self, client: Client, payload: LoadPayload, route: str) -> None:
        self._client = client
        self._payload = payload
        self._route = route

    def prepare(self) -> None:
        """Make one payload, so that a slow first count or a broken payload shows before the test."""
        self._next().count_workload()

    def send(self) -> Failure | None:
        payload = self._next()
        try:
            response = self._client.call(self._route, _fields(payload), payload.count_workload())
        except ClientError as error:
            return Failure(error.kind, str(error))
        if 200 <= response.status_code < 300:
            return None
        excerpt = response.content[:EXCERPT].decode("utf-8", "replace")
        return Failure(f"HTTP {response.status_code}", excerpt or "(empty answer)")

    def _next(self) -> ApiPayload:
        return self._payload.for_test() if isinstance(self._payload, type) else self._payload


def _fields(payload: ApiPayload) -> dict[str, object]:
    """The payload as a client sends it, which need not be what the worker makes of it for the model."""
    return dataclasses.asdict(payload)


def _watch(generator: Generator, measurement: Measurement, count: int) -> None:
    """Show the progress until all is done; Ctrl-C ends the sending, a second one the waiting."""
    begin = time.monotonic()
    try:
        while not generator.wait(1.0):
            _say(progress_line(time.monotonic() - begin, count, measurement.progress()))
    except KeyboardInterrupt:
        generator.stop()
        _say(f"Stopped sending; answers may take another {GRACE_SECONDS:g} s (Ctrl-C to leave at once)")
        try:
            generator.wait(GRACE_SECONDS)
        except KeyboardInterrupt:
            _say("Not waiting for the answers")


def _count(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a number of requests")
    return number


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()
