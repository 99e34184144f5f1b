"""The command `python -m pyworker.new`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from pyworker.errors import ConfigError
from pyworker.new.scaffold import ENGINES, write_worker


def main(arguments: Sequence[str] | None = None) -> int:
    """Its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m pyworker.new",
        description="Write a worker to begin with: a Python package with a server, a test and a README.",
    )
    add = parser.add_argument
    add("name", metavar="NAME", help="of the package, such as my_llm")
    add("--engine", choices=ENGINES, default="vllm", help="the model server (default: %(default)s)")
    add("--into", type=Path, default=Path(), metavar="DIR", help="the folder to write it to (default: here)")
    options = parser.parse_args(arguments)
    try:
        files = write_worker(options.name, options.engine, options.into)
    except ConfigError as error:
        sys.stderr.write(f"pyworker.new: {error}\n")
        return 1
    sys.stdout.write("".join(f"wrote {file}\n" for file in files))
    go = f"cd {options.into}\n  " if options.into != Path() else ""
    name = options.name
    sys.stdout.write(
        f"\nNext:\n  {go}python -m pytest {name}          # its tests\n"
        f"  UNSECURED=true MODEL_LOG=model.log python -m {name}.server\n\n"
        f"{options.into / name / 'README.md'} says how to try it, and how it gets onto an instance.\n"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
