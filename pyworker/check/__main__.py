"""The command `python -m pyworker.check`."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from pyworker.check.behaviour import JOB_PATIENCE
from pyworker.check.run import check_worker
from pyworker.runtime.log_limit import silenced


def main(arguments: Sequence[str] | None = None) -> int:
    """Its exit status: 0 without a fault, 1 with one."""
    parser = argparse.ArgumentParser(
        prog="python -m pyworker.check",
        description="Run a worker before a model server that fails in every way, and say what it gets wrong.",
    )
    add = parser.add_argument
    add("worker", metavar="NAME", help="a folder under workers/, or the dotted path of a package")
    add(
        "--log",
        type=Path,
        metavar="FILE",
        help="a log of your model server, from its start until it was loaded",
    )
    add(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="a variable of the worker's environment",
    )
    add(
        "--patience",
        type=float,
        default=JOB_PATIENCE,
        metavar="SECONDS",
        help="for a route with calls of its own to give up a silent model server (default: %(default)g)",
    )
    add("--json", action="store_true", help="print the findings as JSON")
    options = parser.parse_args(arguments)
    if options.log is not None and not options.log.is_file():
        parser.error(f"--log {options.log}: there is no such file")
    variables = dict(pair.partition("=")[::2] for pair in options.set)

    def say(what: str) -> None:
        if sys.stderr.isatty():
            sys.stderr.write(f"\r\033[K{what}" if what else "\r\033[K")
            sys.stderr.flush()

    # The worker's own log goes to a file; what its code says in this process is said there, too.
    with silenced():
        report = check_worker(
            options.worker, log=options.log, variables=variables, job_patience=options.patience, say=say
        )
    say("")
    text = json.dumps(report.as_json(), indent=2) + "\n" if options.json else report.as_text()
    sys.stdout.write(text)
    return 0 if report.is_good else 1


if __name__ == "__main__":
    sys.exit(main())
