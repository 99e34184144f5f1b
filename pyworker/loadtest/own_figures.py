"""What a worker itself says of the last minute, beside the figures of the client."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

import pydantic

from pyworker.client import Client, ClientError, WorkerAnswerError

MOST_WORKERS = 8


class _Window(pydantic.BaseModel):
    outcomes: Mapping[str, int]
    refused_by_status: Mapping[str, int]
    latency_seconds: Mapping[str, float]
    first_byte_seconds: Mapping[str, float]


class _Status(pydantic.BaseModel):
    """The part of `/status` that is shown."""

    last_minute: _Window


@dataclass(frozen=True)
class OwnFigures:
    """Of one worker's last minute; percentiles in seconds by name. `trouble`: why there are no figures."""

    url: str
    outcomes: Mapping[str, int]
    refused: Mapping[str, int]
    latency: Mapping[str, float]
    first_byte: Mapping[str, float]
    trouble: str = ""


def own_figures(client: Client, explicit: str | None, seen: Sequence[str], token: str) -> list[OwnFigures]:
    """explicit: the worker that the user named, the only one to get a token. seen: the URLs that responded;
    those on this machine are asked.
    """
    if explicit is not None:
        local = is_local(explicit)
        return [_read(client, explicit, token)] if local or token else []
    return [_read(client, url, "") for url in seen[:MOST_WORKERS] if is_local(url)]


def is_local(url: str) -> bool:
    """Whether a worker takes a client from here for one on its own machine."""
    host = urlsplit(url).hostname or ""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _read(client: Client, url: str, token: str) -> OwnFigures:
    try:
        window = _Status.model_validate_json(client.status(url, token)).last_minute
    except WorkerAnswerError as error:
        return OwnFigures(url, {}, {}, {}, {}, f"/status answered {error.status}")
    except ClientError as error:
        return OwnFigures(url, {}, {}, {}, {}, str(error))
    except pydantic.ValidationError:
        return OwnFigures(url, {}, {}, {}, {}, "it has no /status of a worker")
    return OwnFigures(
        url, window.outcomes, window.refused_by_status, window.latency_seconds, window.first_byte_seconds
    )
