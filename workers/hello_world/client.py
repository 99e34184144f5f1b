"""An example client: asks the model for a text and prints it, whole or as it arrives."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys
from collections.abc import Mapping, Sequence
from typing import cast

from pyworker.client import Client, ClientError
from pyworker.client.options import add_client_options, client_from
from workers.hello_world.data_types import InputData

PROG = "python -m workers.hello_world.client"


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit status: 1 if the call failed, 141 if the output was closed early."""
    parser = _parser()
    options = parser.parse_args(argv)
    payload = InputData(prompt=options.prompt, max_response_tokens=options.max_response_tokens)
    with client_from(parser, options) as client:
        try:
            status = _print_stream(client, payload) if options.stream else _print_whole(client, payload)
            sys.stdout.flush()
        except ClientError as error:
            sys.stderr.write(f"{PROG}: {error}\n")
            return 1
        except KeyboardInterrupt:
            return 130
        except BrokenPipeError:  # the reader has seen enough, as `| head` has
            # Or the interpreter would complain when it writes out the rest at its end.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 141
        return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=PROG, description="Ask the hello_world worker for a text.")
    parser.add_argument("--prompt", default="Tell me a story.", metavar="TEXT", help="what to ask the model")
    parser.add_argument(
        "--max-response-tokens",
        type=int,
        default=128,
        metavar="N",
        help="longest response (default: %(default)s)",
    )
    parser.add_argument("--stream", action="store_true", help="print the text as it arrives")
    add_client_options(parser)
    return parser


def _print_whole(client: Client, payload: InputData) -> int:
    response = client.call("/generate", dataclasses.asdict(payload), payload.count_workload())
    text = response.content.decode("utf-8", "replace")
    if not 200 <= response.status_code < 300:
        sys.stderr.write(f"{PROG}: the worker responded with {response.status_code}: {text}\n")
        return 1
    sys.stdout.write(text_of(text) + "\n")
    return 0


def _print_stream(client: Client, payload: InputData) -> int:
    for item in client.stream("/generate_stream", dataclasses.asdict(payload), payload.count_workload()):
        sys.stdout.write(text_of(item))
        sys.stdout.flush()
    sys.stdout.write("\n")
    return 0


def text_of(item: str) -> str:
    """The text in a response or a streamed item; the item itself if its format is unknown."""
    try:
        value: object = json.loads(item)
    except ValueError:
        return item
    for name in ("token", "text", "response", "generated_text"):
        if isinstance(value, dict) and name in value:
            value = cast("Mapping[str, object]", value)[name]
    return value if isinstance(value, str) else item


if __name__ == "__main__":
    sys.exit(main())
