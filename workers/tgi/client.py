"""An example client: has the model continue a prompt and prints it, whole or as it arrives."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, cast

from pyworker.client import Client, ClientError
from pyworker.client.options import add_client_options, client_from
from pyworker.client.printing import print_pieces, text_in
from workers.tgi.data_types import GeneratePayload

PROG = "python -m workers.tgi.client"


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit status: 1 if the call failed, 141 if the output was closed early."""
    parser = _parser()
    options = parser.parse_args(argv)
    payload = GeneratePayload(options.prompt, {"max_new_tokens": options.max_new_tokens})
    with client_from(parser, options) as client:
        pieces = _streamed(client, payload) if options.stream else _whole(client, payload)
        return print_pieces(PROG, pieces)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=PROG, description="Ask the tgi worker for a text.")
    parser.add_argument("--prompt", default="Tell me a story.", metavar="TEXT", help="what to continue")
    parser.add_argument(
        "--max-new-tokens",
        type=int,
        default=128,
        metavar="N",
        help="longest response (default: %(default)s)",
    )
    parser.add_argument("--stream", action="store_true", help="print the text as it arrives")
    add_client_options(parser)
    return parser


def _whole(client: Client, payload: GeneratePayload) -> Iterator[str]:
    response = client.call("/generate", payload.generate_payload_json(), payload.count_workload())
    yield text_of(text_in(response))


def _streamed(client: Client, payload: GeneratePayload) -> Iterator[str]:
    route = "/generate_stream"
    for item in client.stream(route, payload.generate_payload_json(), payload.count_workload()):
        yield text_of(item)


def text_of(item: str) -> str:
    """The text of a response or of an event; the item itself if its format is unknown.

    Raises `ClientError` for the error that an event may be.
    """
    try:
        value: object = json.loads(item)
    except ValueError:
        return item
    fields: Mapping[str, Any] = cast("Mapping[str, Any]", value) if isinstance(value, dict) else {}
    if "error" in fields:
        raise ClientError(f"the model server says: {fields['error']}")
    token = fields.get("token")
    if isinstance(token, dict):
        token = cast("Mapping[str, Any]", token)
        return "" if token.get("special") else str(token.get("text", ""))
    return str(fields.get("generated_text", item))


if __name__ == "__main__":
    sys.exit(main())
