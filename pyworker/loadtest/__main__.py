"""`python -m pyworker.loadtest -w NAME …`: runs the load test of a worker, or makes one of its benchmark."""

from __future__ import annotations

import argparse
import runpy
import sys

from pyworker.errors import ConfigError
from pyworker.loadtest.command import Target, execute
from pyworker.loadtest.options import plan_from
from pyworker.loadtest.parser import expanded, make_parser
from pyworker.registry import example_of, module_of

PROG = "python -m pyworker.loadtest"


def main() -> None:
    """Check the options, then run the worker's `test_load` as if it had been called with the rest. A worker
    without one is sent the requests of its benchmark, and so is a route that --route names.
    """
    only_worker = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    only_worker.add_argument(
        "-w",
        "--worker",
        metavar="NAME",
        help="a folder under workers/, or the dotted name of a package that holds a worker; needed but with "
        "--url and --payload or --body",
    )
    parser = make_parser(PROG, "-w NAME ", [only_worker])
    argv = expanded(parser, sys.argv[1:])
    plan = plan_from(parser, parser.parse_args(argv))
    chosen, rest = only_worker.parse_known_args(argv)
    if chosen.worker is None:
        if plan.url is None:
            parser.error("-w NAME is needed, or --url URL")
        sys.exit(execute(Target(None, "/", "/", None), rest))
    module = module_of(chosen.worker, "test_load")
    if module is None or plan.route is not None:
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
