"""`python -m tests.benchmarks`: see README.md beside this file."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from pyworker.errors import ConfigError
from tests.benchmarks import peer, plot, report, scenarios
from tests.benchmarks.figures import Result
from tests.benchmarks.measure import Measurement, NewServer, Options, stamp
from tests.benchmarks.programs import compile_programs
from tests.benchmarks.servers import Bare, Hello, Nginx, OpenAI, Other, Ours, Peer

_SERVERS = ("bare", "nginx", "peer", "ours")
_ALL_SERVERS = (*_SERVERS, "hello", "openai")
_QUICK = ("requests-64", "streams-64", "mix")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks",
        description="Compare this worker with its asyncio peer, nginx and the bare model server on one "
        "machine. The peer is installed from PyPI the first time; cc is needed, libssl-dev for TLS.",
    )
    parser.add_argument(
        "--rounds", type=int, default=3, help="interleaved rounds of each scenario (%(default)s)"
    )
    parser.add_argument("--seconds", type=float, help="of each server in each round (4 to 10)")
    parser.add_argument("--quick", action="store_true", help="three scenarios, two rounds of 2 seconds")
    parser.add_argument(
        "--scenarios",
        default="",
        metavar="NAMES",
        help=f"separated by commas; requests-* means all that begin so: "
        f"{', '.join(scenario.name for scenario in scenarios.PLAIN)}, and each of them with -tls",
    )
    parser.add_argument(
        "--servers",
        default=",".join(_SERVERS),
        metavar="NAMES",
        help=f"of {', '.join(_ALL_SERVERS)} (default: %(default)s)",
    )
    parser.add_argument(
        "--other", type=Path, metavar="FOLDER", help="another checkout of this project, measured as well"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every figure of every round")
    parser.add_argument("--svg", type=Path, metavar="FILE", help="draw the ratios to the peer")
    return parser


def _say(text: str) -> None:
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def _servers(names: Sequence[str], other: Path | None) -> Mapping[str, NewServer]:
    for name in names:
        if name not in _ALL_SERVERS:
            raise ConfigError(f"no server is called {name!r}: choose from {', '.join(_ALL_SERVERS)}")
    chosen: dict[str, NewServer] = {}
    if "bare" in names:
        chosen["bare"] = Bare.where_plain
    if "nginx" in names:
        if Nginx.program() is None:
            _say("nginx is not installed and left out; to install it: apt-get install -y nginx")
        else:
            chosen["nginx"] = Nginx
    if "peer" in names:
        _say("installing the peer, unless it is installed")
        python = peer.peer_python()
        chosen["peer"] = lambda around, tls: Peer(around, tls, python)
    if other is not None:
        checkout = other.resolve()
        chosen["other"] = lambda around, tls: Other(around, tls, checkout)
    chosen |= {kind.name: kind for kind in (Ours, Hello, OpenAI) if kind.name in names}
    return chosen


def run(arguments: Sequence[str] | None = None) -> list[Result]:
    """What the command line asks for; raises `ConfigError`."""
    options = _parser().parse_args(arguments)
    patterns = [name for name in options.scenarios.split(",") if name]
    if options.quick:
        patterns = patterns or list(_QUICK)
    todo = scenarios.chosen(patterns)
    how = Options(2, options.seconds or 2.0) if options.quick else Options(options.rounds, options.seconds)
    servers = _servers([name for name in options.servers.split(",") if name], options.other)
    programs = compile_programs()
    facts = report.facts(peer.VERSION if "peer" in servers else None)
    command = "python -m tests.benchmarks " + " ".join(sys.argv[1:] if arguments is None else arguments)
    _say(f"{len(todo)} scenarios, {how.rounds} rounds, servers: {', '.join(servers)}")
    with tempfile.TemporaryDirectory(prefix="pyworker-benchmarks-") as folder:
        results = Measurement(programs, servers, Path(folder), how, _say).run(todo)
    lines = [
        f"`{command.strip()}`, {stamp()} UTC; "
        + ", ".join(f"{name} {value}" for name, value in facts.items()),
        "",
        *report.figures_table(results),
        "",
        *report.targets_table(results),
    ]
    sys.stdout.write("\n".join(lines) + "\n")
    if options.json is not None:
        written = {"command": command, "facts": dict(facts), "results": [asdict(one) for one in results]}
        options.json.write_text(json.dumps(written, indent=1) + "\n", "utf-8")
    if options.svg is not None:
        options.svg.write_text(plot.svg(results), "utf-8")
    return results


if __name__ == "__main__":
    try:
        run()
    except ConfigError as error:
        sys.exit(f"tests.benchmarks: {error}")
