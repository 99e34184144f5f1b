"""What is measured: the requests, the clients, and how many of them."""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence
from dataclasses import dataclass, replace

from pyworker.errors import ConfigError

_MB = 1_000_000


@dataclass(frozen=True)
class Load:
    """Clients of one kind. Each sends one request after the other; they begin within `ramp` seconds."""

    clients: int
    path: str = "/generate"
    prompt_bytes: int = 200
    response_bytes: int = 0
    tokens: int = 0
    gap_ms: int = 40
    new_connections: bool = False

    @property
    def streams(self) -> bool:
        return self.tokens > 0

    @property
    def ramp(self) -> float:
        """Streams begin spread over the length of one, or all of them would begin together for ever."""
        return self.tokens * self.gap_ms / 1000

    def payload(self) -> dict[str, object]:
        """The payload of a request; the long part comes last, which the model server does not look at."""
        return {
            "tokens": self.tokens,
            "gap_ms": self.gap_ms,
            "response_bytes": self.response_bytes,
            "prompt": "word " * (self.prompt_bytes // 5),
        }


@dataclass(frozen=True)
class Scenario:
    """Loads that run at the same time, by name; `seconds` for one server in one round."""

    name: str
    title: str
    loads: Sequence[Load]
    seconds: float = 4.0
    tls: bool = False

    def over_tls(self) -> Scenario:
        return replace(self, name=f"{self.name}-tls", title=f"{self.title}, TLS", tls=True)


def _stream(clients: int, tokens: int = 50, gap_ms: int = 40) -> Load:
    return Load(clients, "/stream", tokens=tokens, gap_ms=gap_ms)


PLAIN = (
    Scenario("requests-1", "small requests, 1 client", [Load(1)]),
    Scenario("requests-8", "small requests, 8 clients", [Load(8)]),
    Scenario("requests-64", "small requests, 64 clients", [Load(64)]),
    Scenario("requests-256", "small requests, 256 clients", [Load(256)]),
    Scenario(
        "requests-new", "small requests, 64 clients, a connection each", [Load(64, new_connections=True)]
    ),
    Scenario("prompts-64", "prompts of 250 words, 64 clients", [Load(64, prompt_bytes=1250)]),
    Scenario("streams-1", "1 stream", [_stream(1)]),
    Scenario("streams-64", "64 streams", [_stream(64)], 6.0),
    Scenario("streams-256", "256 streams", [_stream(256)], 6.0),
    Scenario("streams-1000", "1000 streams", [_stream(1000, tokens=20, gap_ms=200)], 8.0),
    Scenario("request-1mb", "1 MB requests, 4 clients", [Load(4, prompt_bytes=_MB)]),
    Scenario("request-10mb", "10 MB requests, 4 clients", [Load(4, prompt_bytes=10 * _MB)]),
    Scenario("response-1mb", "1 MB responses, 4 clients", [Load(4, response_bytes=_MB)]),
    Scenario("response-50mb", "50 MB responses, 4 clients", [Load(4, response_bytes=50 * _MB)]),
    Scenario("mix", "64 streams beside 8 clients of requests", [_stream(64), Load(8)], 6.0),
)
ALL = (*PLAIN, *(scenario.over_tls() for scenario in PLAIN))


def chosen(patterns: Sequence[str], scenarios: Sequence[Scenario] = ALL) -> list[Scenario]:
    """The scenarios that match patterns such as `requests-*`; raises `ConfigError` if one matches none."""
    for pattern in patterns:
        if not fnmatch.filter([scenario.name for scenario in scenarios], pattern):
            names = ", ".join(scenario.name for scenario in scenarios)
            raise ConfigError(f"no scenario is called {pattern!r}: choose from {names}")
    return [
        scenario
        for scenario in scenarios
        if not patterns or any(fnmatch.fnmatchcase(scenario.name, pattern) for pattern in patterns)
    ]
