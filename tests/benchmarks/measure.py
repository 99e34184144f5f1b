"""Rounds over scenarios: all servers of a scenario run, and each round asks one after the other."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from pyworker.local.certificates import Authority
from pyworker.local.signing import Signer, current_message
from tests.benchmarks import figures
from tests.benchmarks.figures import Result
from tests.benchmarks.programs import LoadRun, Programs, StubServer
from tests.benchmarks.scenarios import Load, Scenario
from tests.benchmarks.servers import Server, Surroundings

#: Makes a server for plain (False) or TLS (True) clients; None if the server does not support it.
NewServer = Callable[[Surroundings, bool], Server | None]
Say = Callable[[str], None]

# The load generator replaces each by a number that no other request has.
_NUMBER = "@" * 10
_SOME_NUMBER = "1" * 10
_WARM_UP = 1.0
_MB = 1e6


@dataclass(frozen=True)
class Options:
    """How long and how often. seconds: None for what each scenario asks for."""

    rounds: int = 3
    seconds: float | None = None


class Measurement:
    """One run of the benchmark in `folder`. Belongs to one thread."""

    def __init__(
        self,
        programs: Programs,
        servers: Mapping[str, NewServer],
        folder: Path,
        options: Options,
        say: Say,
    ) -> None:
        self._programs = programs
        self._servers = servers
        self._folder = folder
        self._options = options
        self._say = say
        self._signer = Signer.generate()
        self._pubkey = folder / "pubkey.pem"
        self._pubkey.write_text(self._signer.public_pem(), "utf-8")
        self._key, self._certificate = folder / "server.key", folder / "server.crt"
        self._key.write_bytes(self._signer.key.export_key("PEM"))
        self._certificate.write_text(Authority(self._signer.key, "benchmark").root_pem, "utf-8")

    def run(self, scenarios: Sequence[Scenario]) -> list[Result]:
        """Measure one scenario after the other."""
        results: list[Result] = []
        for number, scenario in enumerate(scenarios, 1):
            if scenario.tls and not self._programs.speaks_tls:
                self._say(f"[{number}/{len(scenarios)}] {scenario.name}: skipped without libssl-dev")
                continue
            if self._options.seconds is not None:
                scenario = replace(scenario, seconds=self._options.seconds)
            self._say(f"[{number}/{len(scenarios)}] {scenario.title}")
            results.append(self._measure(scenario))
        return results

    def _measure(self, scenario: Scenario) -> Result:
        result = Result(scenario.name)
        with ExitStack() as stack:
            model = stack.enter_context(StubServer(self._programs))
            autoscaler = stack.enter_context(StubServer(self._programs, self._pubkey))
            around = Surroundings(model, autoscaler, self._certificate, self._key)
            servers = self._start(scenario, around, stack)
            for round_ in range(self._options.rounds):
                for server in _rotated(servers, round_):
                    result.rounds.setdefault(server.name, []).append(self._run(scenario, server))
                self._say(f"    round {round_ + 1}: {_line(result)}")
            for server in servers:
                result.memory[server.name] = server.usage.peak_memory / _MB
        return result

    def _start(self, scenario: Scenario, around: Surroundings, stack: ExitStack) -> list[Server]:
        servers: list[Server] = []
        for name, new_server in self._servers.items():
            server = new_server(around, scenario.tls)
            if server is not None:
                folder = self._folder / scenario.name / name
                folder.mkdir(parents=True)
                stack.callback(server.stop)
                server.start(folder)
                servers.append(server)
        for server in servers:
            first = Load(1)
            server.wait_ready(first, self._envelope(server, first).replace(_NUMBER, _SOME_NUMBER).encode())
            self._ask(scenario, server, min(_WARM_UP, scenario.seconds))
        return servers

    def _run(self, scenario: Scenario, server: Server) -> figures.Figures:
        before = server.usage.cpu
        counted = self._ask(scenario, server, scenario.seconds)
        return figures.of_run(counted, server.usage.cpu - before)

    def _ask(self, scenario: Scenario, server: Server, seconds: float) -> list[Mapping[str, float]]:
        runs: list[LoadRun] = []
        for number, load in enumerate(scenario.loads):
            body = self._folder / f"body-{number}.json"
            body.write_text(self._envelope(server, load), "utf-8")
            asked = replace(load, path=server.path(load))
            runs.append(LoadRun(self._programs, asked, body, server.port, seconds, scenario.tls))
        return [run.finish() for run in runs]

    def _envelope(self, server: Server, load: Load) -> str:
        auth_data = {
            "signature": self._signer.sign(current_message(server.url)),
            "url": server.url,
            "endpoint": "benchmark",
            "cost": 1.0,
            "reqnum": 0,
            "request_idx": 0,
        }
        envelope = json.dumps({"auth_data": auth_data, "payload": server.payload(load), "session_id": None})
        for name in ("reqnum", "request_idx"):
            envelope = envelope.replace(f'"{name}": 0', f'"{name}": {_NUMBER}')
        return envelope


def _rotated(servers: Sequence[Server], by: int) -> list[Server]:
    start = by % len(servers)
    return [*servers[start:], *servers[:start]]


def _line(result: Result) -> str:
    """The last round in short."""
    parts: list[str] = []
    for server, rounds in result.rounds.items():
        last = rounds[-1]
        shown = ("requests_per_s", "cpu_ms_per_request", "cpu_ms_per_1000_tokens", "token_p99_ms")
        values = [f"{figures.KIND[name].title} {last[name]:.3g}" for name in shown if name in last]
        faults = [f"{last['errors']:g} ERRORS"] if last["errors"] else []
        parts.append(f"{server}: {', '.join([*values, *faults])}")
    return " | ".join(parts)


def stamp() -> str:
    """The current time, for the title of a report."""
    return time.strftime("%Y-%m-%d %H:%M", time.gmtime())
