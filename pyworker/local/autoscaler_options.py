"""The command line of the local autoscaler."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

DEFAULT_PORT = 8081


def parse_options(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Named as the fields of `Autoscaler`. Ends the program with one line if an argument is wrong."""
    parser = argparse.ArgumentParser(
        prog="python -m pyworker.local.autoscaler",
        description="A local autoscaler: keeps a fleet, routes and signs as the public service does.",
        epilog="Start a worker with REPORT_ADDR set to its URL. GET /workers/ shows what it knows.",
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    parser.add_argument(
        "--port",
        type=int,
        default=DEFAULT_PORT,
        help="port to listen on, 0 = any free one (default: %(default)s)",
    )
    parser.add_argument(
        "--key-file",
        type=Path,
        metavar="PATH",
        help="keep the RSA key in this file between runs (default: a new key each time)",
    )
    parser.add_argument(
        "--endpoint",
        dest="endpoints",
        action="append",
        default=[],
        metavar="NAME",
        help="serve this endpoint name only; may be repeated (default: any name)",
    )
    parser.add_argument("--api-key", metavar="KEY", help="refuse clients with any other key (default: none)")
    parser.add_argument(
        "--master-token", metavar="TOKEN", help="refuse workers with any other MASTER_TOKEN (default: none)"
    )
    return parser.parse_args(arguments)
