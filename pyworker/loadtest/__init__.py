"""A load test: `python -m pyworker.loadtest -w NAME …`, or `run` from a worker's `test_load.py`. See
README.md here.

No other module is imported before `run` is called: a worker's package must be importable without the
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
    such as "/generate"; `stream_endpoint` the one for --stream, if that is another.
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
