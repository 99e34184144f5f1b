"""A load test: `python -m pyworker.loadtest -w NAME …`, or `run` in a worker's `test_load`; see README.md.

No other module is imported before `run` is called: a worker's package must be importable without the
libraries that only a load test needs.

command         from the arguments to the exit status
options         the command line, made a plan
argument_types  values of options, parsed and checked
payloads        what is sent, made before the test begins
arrivals        when requests are due: the schedule of an open loop
engine          the open and the closed loop, on a pool of threads
sender          sends one request and records its outcome
record          one request, and the kinds of failure
objective       limits that a good request meets
measurement     what is counted while the test runs
histogram       times in bounded memory
live            the progress on a terminal, or in plain lines
cost            what the requests cost, and the time without any
result          the figures of a finished test, as JSON
report          the result as text
compare         two results, and whether a change is more than noise
html            the result as one page
charts          its plots, as SVG
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import NoReturn

from pyworker.data_types import ApiPayload


def run(
    payload: ApiPayload | type[ApiPayload],
    endpoint: str,
    stream_endpoint: str | None = None,
    stream_payload: ApiPayload | type[ApiPayload] | None = None,
) -> NoReturn:
    """Run the load test that the command line asks for and exit: status 1 when too many requests failed.

    A payload class makes the payloads, an instance is sent as it is. `endpoint` is the worker's route,
    such as "/generate"; `stream_endpoint` and `stream_payload` are those for --stream, if they are others.
    """
    sys.exit(execute(payload, endpoint, sys.argv[1:], stream_endpoint, stream_payload))


def execute(
    payload: ApiPayload | type[ApiPayload],
    endpoint: str,
    argv: Sequence[str],
    stream_endpoint: str | None = None,
    stream_payload: ApiPayload | type[ApiPayload] | None = None,
) -> int:
    """As `run`, with the arguments given and the exit status returned."""
    from pyworker.loadtest.command import Target, execute

    target = Target(payload, endpoint, stream_endpoint or endpoint, stream_payload or payload)
    return execute(target, argv)
