"""A load test: `python -m pyworker.loadtest -w NAME …`, or `run` from a worker's `test_load.py`.

    options      the command line → a plan
    payloads     what is sent, made before the test begins
    arrivals     when requests are due
    engine       starts them then, on as many threads as it takes
    sender       sends one and writes down what became of it
    record       what is known of one request, and the kinds of failure
    histogram    times with three digits in bounded memory
    objective    what a good answer is
    measurement  counts records while the test runs
    live         what is shown meanwhile
    result       the figures afterwards, as JSON keeps them
    report       … as text
    compare      … beside those of an earlier test
    charts       … as plots
    html         … as a page

None of these is imported before `run` is called: a worker's package must be importable without the
libraries that only a load test needs.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import NoReturn

from pyworker.data_types import ApiPayload


def run(
    payload: ApiPayload | type[ApiPayload], endpoint: str, stream_endpoint: str | None = None
) -> NoReturn:
    """Run the load test that the command line asks for and exit: status 1 when too many requests failed.

    A payload class makes the payloads, an instance is sent as it is. `endpoint` is the worker's route,
    such as "/generate"; `stream_endpoint` the one for --stream, where that is another.
    """
    sys.exit(execute(payload, endpoint, sys.argv[1:], stream_endpoint))


def execute(
    payload: ApiPayload | type[ApiPayload],
    endpoint: str,
    argv: Sequence[str],
    stream_endpoint: str | None = None,
) -> int:
    """As `run`, with the arguments given and the exit status returned."""
    from pyworker.loadtest.command import Target, execute

    return execute(Target(payload, endpoint, stream_endpoint or endpoint), argv)
