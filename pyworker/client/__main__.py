"""`python -m pyworker.client -w NAME …`: sends one request to a worker and prints the response."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import cast

from pyworker.client import Client
from pyworker.client.options import add_client_options, add_door_option, client_from
from pyworker.client.printing import print_pieces, text_in
from pyworker.errors import ConfigError, JsonDataException, Unprocessable
from pyworker.registry import Example, example_of, sent_fields

PROG = "python -m pyworker.client"


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit status: 1 if the call failed, 141 if the output was closed early."""
    parser = _parser()
    options = parser.parse_args(argv)
    try:
        example = example_of(options.worker, options.route)
        fields, cost = _request(example, options.payload)
    except ConfigError as error:
        parser.error(str(error))
    if options.worker_url is not None and (options.autoscaler or options.openai):
        parser.error("--worker-url goes past the autoscaler: leave out -l, --autoscaler and --openai")
    with client_from(parser, options, worker_url=options.worker_url, door_url=options.openai) as client:
        pieces = _streamed if options.stream else _whole
        return print_pieces(PROG, pieces(client, example.route, fields, cost))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=PROG, description="Send one request to a worker.")
    parser.add_argument(
        "-w",
        "--worker",
        required=True,
        metavar="NAME",
        help="a folder under workers/, or the dotted name of a package that holds a worker",
    )
    parser.add_argument("--route", metavar="PATH", help="default: the route that its benchmark measures")
    parser.add_argument(
        "--payload", metavar="JSON", help="what to send (default: what the worker's benchmark sends)"
    )
    parser.add_argument("--stream", action="store_true", help="print each piece of the response as it comes")
    parser.add_argument(
        "--worker-url", metavar="URL", help="call this worker, which has UNSECURED=true, past the autoscaler"
    )
    add_door_option(parser)
    add_client_options(parser)
    return parser


def _request(example: Example, text: str | None) -> tuple[Mapping[str, object], float]:
    """The payload and its workload. Raises `ConfigError`."""
    if text is None:
        try:
            payload = example.make()
        except NotImplementedError as error:
            raise ConfigError(f"{error}; or say what to send with --payload JSON") from error
        return sent_fields(payload), payload.count_workload()
    try:
        value: object = json.loads(text)
    except ValueError as error:
        raise ConfigError(f"--payload is not JSON ({error})") from error
    if not isinstance(value, dict):
        raise ConfigError('--payload must be a JSON object, such as \'{"prompt": "Hello"}\'')
    fields = cast("dict[str, object]", value)
    try:
        return fields, example.payload_cls.from_json_msg(fields).count_workload()
    except JsonDataException as error:
        raise ConfigError(f"--payload: {json.dumps(dict(error.json_msg))}") from error
    except Unprocessable as error:
        raise ConfigError(f"--payload: {error}") from error


def _whole(client: Client, route: str, fields: Mapping[str, object], cost: float) -> Iterator[str]:
    yield text_in(client.call(route, fields, cost))


def _streamed(client: Client, route: str, fields: Mapping[str, object], cost: float) -> Iterator[str]:
    for item in client.stream(route, fields, cost):
        yield item + "\n"


if __name__ == "__main__":
    sys.exit(main())
