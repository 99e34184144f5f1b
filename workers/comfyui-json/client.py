"""An example client: sends a workflow to the wrapper and prints its response."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path

from pyworker.client import ClientError
from pyworker.client.options import add_client_options, client_from
from pyworker.errors import ConfigError
from workers.comfyui.templates import read_template

from .data_types import WrapperRequest

PROG = "python -m workers.comfyui-json.client"


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit status: 1 if the call failed."""
    parser = argparse.ArgumentParser(prog=PROG, description="Send a workflow to ComfyUI's wrapper.")
    parser.add_argument(
        "--workflow",
        type=Path,
        metavar="FILE",
        help="exported with Export (API) (default: an image of Stable Diffusion 1.5)",
    )
    add_client_options(parser)
    options = parser.parse_args(argv)
    try:
        payload = _payload(options.workflow)
    except ConfigError as error:
        parser.error(str(error))
    with client_from(parser, options) as client:
        try:
            fields = dataclasses.asdict(payload)
            response = client.call("/generate/sync", fields, payload.count_workload())
        except ClientError as error:
            sys.stderr.write(f"{PROG}: {error}\n")
            return 1
        except KeyboardInterrupt:
            return 130
        sys.stdout.write(response.content.decode("utf-8", "replace") + "\n")
        return 0 if response.status_code == 200 else 1


def _payload(path: Path | None) -> WrapperRequest:
    """Raises `ConfigError`."""
    return WrapperRequest.for_test() if path is None else WrapperRequest.of(read_template(path).workflow)


if __name__ == "__main__":
    sys.exit(main())
