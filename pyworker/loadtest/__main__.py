"""`python -m pyworker.loadtest -w NAME …`: runs the load test of a worker."""

from __future__ import annotations

import argparse
import importlib.util
import runpy
import sys

from pyworker.loadtest.options import make_parser, plan_from
from pyworker.registry import known_workers

PROG = "python -m pyworker.loadtest"


def main() -> None:
    """Check the options, then run the worker's `test_load` as if it had been called with the rest."""
    only_worker = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    only_worker.add_argument(
        "-w",
        "--worker",
        required=True,
        metavar="NAME",
        help="a folder under workers/, or the dotted name of a package that holds a worker",
    )
    parser = make_parser(PROG, "-w NAME ", [only_worker])
    plan_from(parser, parser.parse_args())
    chosen, rest = only_worker.parse_known_args()
    module = _test_load(parser, chosen.worker)
    sys.argv = [PROG, *rest]
    runpy.run_module(module, run_name="__main__")


def _test_load(parser: argparse.ArgumentParser, worker: str) -> str:
    """The name of the worker's load test module; ends the program if there is none."""
    package = worker if "." in worker else f"workers.{worker}"
    module = f"{package}.test_load"
    try:
        spec = importlib.util.find_spec(module)
    except ModuleNotFoundError as error:
        if error.name is None or not module.startswith(error.name):
            raise
        spec = None
    if spec is None:
        parser.error(f"there is no {module}; workers here: {', '.join(known_workers()) or 'none'}")
    return module


if __name__ == "__main__":
    main()
