"""`python -m pyworker.loadtest -w NAME …`: runs the load test of a worker, or makes one of its benchmark."""

from __future__ import annotations

import argparse
import runpy
import sys

from pyworker.errors import ConfigError
from pyworker.loadtest.command import Target, execute
from pyworker.loadtest.options import make_parser, plan_from
from pyworker.registry import example_of, module_of

PROG = "python -m pyworker.loadtest"


def main() -> None:
    """Check the options, then run the worker's `test_load` as if it had been called with the rest; a worker
    without one is sent the requests of its benchmark.
    """
    only_worker = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    only_worker.add_argument(
        "-w",
        "--worker",
        required=True,
        metavar="NAME",
        help="a folder under workers/, or the dotted name of a package that holds a worker",
    )
    parser = make_parser(PROG, "-w NAME ", [only_worker])
    plan = plan_from(parser, parser.parse_args())
    chosen, rest = only_worker.parse_known_args()
    module = module_of(chosen.worker, "test_load")
    if module is None:
        target = _target(parser, chosen.worker, plan.route)
        sys.exit(execute(target, rest))
    sys.argv = [PROG, *rest]
    runpy.run_module(module, run_name="__main__")


def _target(parser: argparse.ArgumentParser, worker: str, route: str | None) -> Target:
    """Ends the program if there is no such worker or route."""
    try:
        example = example_of(worker, route)
    except ConfigError as error:
        parser.error(str(error))
    return Target(example, example.route, example.route, example)


if __name__ == "__main__":
    main()
