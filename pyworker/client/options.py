"""Command-line options shared by all callers of the service: example clients, the load test."""

from __future__ import annotations

import argparse
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import urllib3

from pyworker.client import Client, ClientError, ClientSettings

PUBLIC_AUTOSCALER = "https://run.vast.ai"
LOCAL_AUTOSCALER = "http://localhost:8081"
LOCAL_NAME = "hello_world"


def add_client_options(parser: argparse.ArgumentParser) -> None:
    """Options for the service's address, the credentials and TLS."""
    group = parser.add_argument_group("endpoint and credentials")
    group.add_argument("-k", "--api-key", metavar="KEY", help="API key (not needed with -l)")
    group.add_argument("-e", "--endpoint", metavar="NAME", help="endpoint group name (not needed with -l)")
    address = group.add_mutually_exclusive_group()
    address.add_argument(
        "-l",
        "--local",
        action="store_const",
        dest="autoscaler",
        const=LOCAL_AUTOSCALER,
        help=f"use the local autoscaler at {LOCAL_AUTOSCALER}",
    )
    address.add_argument(
        "--autoscaler", metavar="URL", help=f"use the autoscaler at this URL (default: {PUBLIC_AUTOSCALER})"
    )
    group.add_argument(
        "--timeout",
        type=positive,
        default=600.0,
        metavar="SECONDS",
        help="give a request up after this long, waiting for a worker included (default: %(default)g)",
    )
    trust = group.add_mutually_exclusive_group()
    trust.add_argument(
        "--ca",
        type=Path,
        metavar="FILE",
        help="trust this root certificate too, such as the autoscaler's, which signs the workers'",
    )
    trust.add_argument("--insecure", action="store_true", help="do not check TLS certificates")


def client_from(
    parser: argparse.ArgumentParser,
    options: argparse.Namespace,
    *,
    retries: int | None = None,
    pool_size: int = 256,
    worker_url: str | None = None,
    auth_data: Mapping[str, object] | None = None,
    door_url: str | None = None,
    door_key: str | None = None,
) -> Client:
    """The client that the parsed options ask for; ends the program if one is missing or wrong.

    With `worker_url` it is a client of that worker, without an autoscaler; with `door_url` one of a worker's
    door for plain OpenAI clients, whose key is `door_key` or else that of the options. Anything that takes a
    JSON body can be called as such a door; without a key if that is "".
    """
    if options.insecure:
        # It was asked for; a warning for each request would add nothing.
        urllib3.disable_warnings(urllib3.exceptions.InsecureRequestWarning)
    settings: ClientSettings = {
        "timeout": options.timeout,
        "retries": retries,
        "verify": not options.insecure,
        "ca": options.ca,
        "pool_size": pool_size,
    }
    try:
        if door_url is not None:
            key = _door_key(parser, options) if door_key is None else door_key
            return Client.of_door(door_url, key, **settings)
        if worker_url is not None:
            return Client.of_worker(worker_url, auth_data, **settings)
        return Client(*_account(parser, options), **settings)
    except ClientError as error:
        parser.error(str(error))


class _Arguments(Protocol):
    """A parser, or a group of one."""

    def add_argument(self, *names: str, **options: Any) -> object: ...


def add_door_option(arguments: _Arguments) -> None:
    """The option that names a worker's door for plain OpenAI clients, for `client_from`."""
    arguments.add_argument(
        "--openai",
        metavar="URL",
        help="call a worker as a plain OpenAI client does, with -k KEY and without the autoscaler",
    )


def _door_key(parser: argparse.ArgumentParser, options: argparse.Namespace) -> str:
    if options.autoscaler is not None:
        parser.error("--openai goes past the autoscaler: leave out -l and --autoscaler")
    if options.api_key is None:
        parser.error("--openai needs the key of the worker's door: -k KEY")
    return options.api_key


def _account(parser: argparse.ArgumentParser, options: argparse.Namespace) -> tuple[str, str, str]:
    """URL of the autoscaler, key and endpoint."""
    local = options.autoscaler == LOCAL_AUTOSCALER
    api_key = options.api_key or ("local" if local else None)
    endpoint = options.endpoint or (LOCAL_NAME if local else None)
    if api_key is None:
        parser.error("an API key is needed: -k KEY (or -l for a local autoscaler)")
    if endpoint is None:
        parser.error("an endpoint group name is needed: -e NAME (or -l for a local autoscaler)")
    return options.autoscaler or PUBLIC_AUTOSCALER, api_key, endpoint


def positive(text: str) -> float:
    """A finite number above 0, as an argparse type."""
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not (math.isfinite(number) and number > 0):
        raise argparse.ArgumentTypeError(f"{text} is not a number above 0")
    return number
