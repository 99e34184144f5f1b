"""An example client: asks the model for a text and prints it, whole or as it arrives."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import cast

from pyworker.client import Client
from pyworker.client.options import add_client_options, client_from
from pyworker.client.printing import print_pieces, text_in
from workers.hello_world.data_types import InputData

PROG = "python -m workers.hello_world.client"


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit status: 1 if the call failed, 141 if the output was closed early."""
    parser = _parser()
    options = parser.parse_args(argv)
    payload = InputData(prompt=options.prompt, max_response_tokens=options.max_response_tokens)
    with client_from(parser, options) as client:
        pieces = _streamed(client, payload) if options.stream else _whole(client, payload)
        return print_pieces(PROG, pieces)


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


def _whole(client: Client, payload: InputData) -> Iterator[str]:
    response = client.call("/generate", dataclasses.asdict(payload), payload.count_workload())
    yield text_of(text_in(response))


def _streamed(client: Client, payload: InputData) -> Iterator[str]:
    for item in client.stream("/generate_stream", dataclasses.asdict(payload), payload.count_workload()):
        yield text_of(item)


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
