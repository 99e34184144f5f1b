"""A load test: `python -m pyworker.loadtest -w NAME …`, or `run` in a worker's `test_load`; see README.md.

No other module is imported before `run` is called: a worker's package must be importable without the
libraries that only a load test needs.

command         from the arguments to the exit status
parser          the options of the command line
options         what they say, checked and made a plan
sweep_options   those of a sweep
argument_types  values of options, parsed and checked
plan            what the command line asks for
targets         whom the test calls
payloads        what is sent, made before the test begins
arrivals        when requests are due: the schedule of an open loop
trace           a recorded load, replayed
distribution    a number that differs from request to request
texts           texts of so many tokens
tokens          who counts them
fields          where something stands in a payload
shape           lengths and shared prefixes of requests
shape_options   the options of lengths and conversations
shaping         the payloads as these options want them
talk            what is asked for of conversations
engine          the open and the closed loop, on a pool of threads
drive           runs an engine to its end while a view shows the progress
sender          sends the requests of a test, or its conversations
exchange        one request and its response, measured
talker          holds conversations
sessions        keeps the requests of one at the same worker
answers         the text of an answer
record          one request, and the kinds of failure
objective       limits that a good request meets
goal            limits for all requests together, as shares of them
measurement     what is counted while the test runs
histogram       times in bounded memory
live            the progress on a terminal, or in plain lines
sweep           raises the load in stages, and finds the knee
search          which load comes next
stage           what was measured of one load
staging         runs the stages on a target
cost            what the requests cost, and the time without any
turns           the figures by turn of conversations
own_figures     what the worker itself says
result          the figures of a finished test, as JSON
slices          the same in slices of time
report          the result as text
compare         two results, and whether a change is more than noise
overhead        what the worker adds to the model server alone
sweep_report    a sweep as text
html            the result as one page
sweep_html      a sweep as one page
charts          plots, as SVG
csv_files       a line for each request or stage
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
