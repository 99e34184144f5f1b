"""An example client: asks the model for a text and prints it, whole or as it arrives."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from typing import Any

from pyworker.client import Client
from pyworker.client.options import add_client_options, add_door_option, client_from
from pyworker.client.printing import print_pieces, text_in

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"


def main(argv: Sequence[str] | None = None, worker: str = "openai") -> int:
    """Returns the exit status: 1 if the call failed, 141 if the output was closed early."""
    parser = _parser(worker)
    options = parser.parse_args(argv)
    with client_from(parser, options, door_url=options.openai) as client:
        pieces = _streamed(client, options) if options.stream else _whole(client, options)
        return print_pieces(parser.prog, pieces)


def _parser(worker: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=f"python -m workers.{worker}.client", description="Ask a worker of an LLM server for a text."
    )
    parser.add_argument("--prompt", default="Tell me a story.", metavar="TEXT", help="what to ask the model")
    parser.add_argument(
        "--model", metavar="NAME", help="model to ask (default: the one that the worker names)"
    )
    parser.add_argument(
        "--max-tokens", type=int, default=128, metavar="N", help="longest response (default: %(default)s)"
    )
    parser.add_argument("--stream", action="store_true", help="print the text as it arrives")
    parser.add_argument(
        "--completions",
        action="store_true",
        help="have the prompt continued, by /v1/completions: for models without a chat template",
    )
    add_door_option(parser)
    add_client_options(parser)
    return parser


def _request(options: argparse.Namespace) -> tuple[str, dict[str, Any], float]:
    """Route, payload and workload."""
    limits: dict[str, Any] = {"max_tokens": options.max_tokens, "stream": options.stream}
    if options.model:
        limits["model"] = options.model
    if options.completions:
        return COMPLETIONS, {"prompt": options.prompt, **limits}, options.max_tokens
    return CHAT, {"messages": [{"role": "user", "content": options.prompt}], **limits}, options.max_tokens


def _whole(client: Client, options: argparse.Namespace) -> Iterator[str]:
    yield text_of(text_in(client.call(*_request(options))))


def _streamed(client: Client, options: argparse.Namespace) -> Iterator[str]:
    for item in client.stream(*_request(options)):
        yield text_of(item)


def text_of(item: str) -> str:
    """The text of a response, or of a chunk of a stream; the item itself if its format is unknown."""
    try:
        choices: list[Any] = json.loads(item)["choices"]
        choice: dict[str, Any] = choices[0] if choices else {}
        said: dict[str, Any] = choice.get("message") or choice.get("delta") or {}
        text: object = choice.get("text") or said.get("content") or said.get("reasoning_content") or ""
    except (ValueError, LookupError, TypeError, AttributeError):
        return item
    return text if isinstance(text, str) else item


if __name__ == "__main__":
    sys.exit(main())
