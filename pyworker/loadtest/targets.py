"""Whom the test calls: an endpoint through the autoscaler, one worker, or any URL."""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from typing import cast
from urllib.parse import urlsplit

from pyworker.client import Client
from pyworker.client.options import client_from
from pyworker.errors import ConfigError
from pyworker.loadtest.engine import MAX_THREADS
from pyworker.loadtest.plan import Plan


@dataclass(frozen=True)
class Called:
    """A target and how it is called. for_model: it takes what the worker makes of a payload."""

    client: Client
    name: str
    route: str
    for_model: bool = False
    worker_url: str | None = None
    """If it is one worker, which has a `/status`."""
    query: str = ""
    """Of the route; not to be shown."""
    session_seconds: float | None = None
    """The longest a request in a session can take; None: there are none."""


def called_from(
    parser: argparse.ArgumentParser, options: argparse.Namespace, plan: Plan, route: str
) -> Called:
    """route: of the worker, if the options name none. Ends the program if an option is missing or wrong."""
    if plan.url is not None:
        for name in ("openai", "worker_url", "autoscaler", "auth_data", "endpoint"):
            if getattr(options, name) is not None:
                parser.error("--url is a target by itself: leave out the other ways to call a worker")
        return _bare(parser, options, plan.url, "", options.api_key or "")
    worker = options.worker_url or (options.openai or "").rstrip("/").removesuffix("/v1") or None
    name = f"{worker or options.endpoint or 'the local endpoint'}{route}"
    sessions = None if options.openai is not None else options.timeout
    return Called(load_client(parser, options), name, route, worker_url=worker, session_seconds=sessions)


def baseline_from(
    parser: argparse.ArgumentParser, options: argparse.Namespace, plan: Plan, route: str
) -> Called | None:
    """The model server of --compare URL; None if there is none to compare with."""
    if plan.compare_url is None:
        return None
    return _bare(parser, options, plan.compare_url, route, options.compare_key or "")


def _bare(
    parser: argparse.ArgumentParser, options: argparse.Namespace, url: str, route: str, key: str
) -> Called:
    """route: if the URL has no path of its own. key: no other, which might be somebody else's to see."""
    try:
        parts = urlsplit(url)
    except ValueError:
        parts = urlsplit("")
    if parts.scheme not in ("http", "https") or not parts.hostname:
        parser.error("a URL is needed that can be called, like http://host:port/path")
    path = parts.path if parts.path not in ("", "/") else route or "/"
    if path.rstrip("/") == "/v1" and route.startswith("/v1"):
        path = route  # as clients of OpenAI name it
    base = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"
    client = client_from(
        parser, options, retries=options.retries, pool_size=MAX_THREADS, door_url=base, door_key=key
    )
    query = f"?{parts.query}" if parts.query else ""
    return Called(client, base + path, path + query, for_model=True, query=query)


def load_client(parser: argparse.ArgumentParser, options: argparse.Namespace) -> Client:
    """The client that the options ask for; ends the program if one is missing or wrong."""
    if options.worker_url is None and options.auth_data is not None:
        parser.error("--auth-data is for one worker: say which with --worker-url URL")
    if options.worker_url is not None and options.autoscaler is not None:
        parser.error("--worker-url goes past the autoscaler: leave out -l and --autoscaler")
    if options.worker_url is not None and options.openai is not None:
        parser.error("--openai and --worker-url are two ways to call one worker: leave out one")
    try:
        auth_data = None if options.auth_data is None else _auth_data(options.auth_data)
    except ConfigError as error:
        parser.error(str(error))
    return client_from(
        parser,
        options,
        retries=options.retries,
        pool_size=MAX_THREADS,
        worker_url=options.worker_url,
        auth_data=auth_data,
        door_url=options.openai,
    )


def _auth_data(path: Path) -> dict[str, object]:
    """Raises `ConfigError`."""
    try:
        value: object = json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise ConfigError(f"--auth-data {path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise ConfigError(f"--auth-data {path} is not JSON") from error
    fields = cast("dict[str, object]", value) if isinstance(value, dict) else {}
    if not {"url", "signature"} <= fields.keys():
        raise ConfigError(
            f"--auth-data {path} is no response of /route/ with a worker: it has no url and signature"
        )
    if "request_idx" not in fields:
        raise ConfigError(
            f"--auth-data {path} has a signature of the first form, which is good for one request"
        )
    return fields
