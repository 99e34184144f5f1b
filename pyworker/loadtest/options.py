"""The command line of a load test: parsed, checked, and made a plan."""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn, cast

from pyworker.client import Client
from pyworker.client.options import add_client_options, add_door_option, client_from, positive
from pyworker.errors import ConfigError
from pyworker.loadtest.argument_types import not_negative, ramp, share, slo, whole
from pyworker.loadtest.arrivals import Arrival, Rate
from pyworker.loadtest.engine import MAX_THREADS
from pyworker.loadtest.objective import Objective

_EXAMPLES = """
examples:
  100 requests at 10 per second, to the demo on this machine:
    python -m pyworker.loadtest -w hello_world -l -n 100 -rps 10
  five minutes at 2 per second, streamed, with a report to show around:
    python -m pyworker.loadtest -w hello_world -k KEY -e NAME --stream --duration 300 -rps 2 --html r.html
  at which rate does it saturate? from 1 to 50 per second in ten minutes, with an objective:
    python -m pyworker.loadtest -w hello_world -k KEY -e NAME --ramp 1:50:600 --slo ttft=500ms,total=10s
  is it better than before?
    python -m pyworker.loadtest -w hello_world -k KEY -e NAME -n 500 -rps 2 --json new.json --compare old.json

Requests start on schedule, however long responses take, and latency counts from the moment a request was due:
a server that stalls is charged for every request that was due meanwhile. With --concurrency it is not.
Ctrl-C stops sending, waits for open requests and reports; a second one does not wait.
The exit status is 1 when more failed, or missed the objective, than --max-error-rate allows.
"""


@dataclass(frozen=True)
class Plan:
    """The load and the reports asked for, in seconds and requests per second."""

    count: int | None
    duration: float
    rate: Rate
    arrival: Arrival
    concurrency: int | None
    seed: int | None
    route: str | None
    stream: bool
    payload_file: Path | None
    objective: Objective
    max_error_rate: float
    json_file: Path | None
    html_file: Path | None
    compare_file: Path | None
    dollars_per_hour: float | None

    @property
    def wanted(self) -> str:
        """The load in words."""
        if self.concurrency is not None:
            return f"{self.concurrency} at a time"
        rate = self.rate
        if rate.seconds:
            return f"{rate.first:g} to {rate.last:g} rps in {rate.seconds:g} s, {self.arrival}"
        return f"{rate.last:g} rps, {self.arrival}"


class Parser(argparse.ArgumentParser):
    """Prints an error in one line, without the list of all options."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}; see --help\n")


def make_parser(
    prog: str | None = None, worker: str = "", parents: Sequence[argparse.ArgumentParser] = ()
) -> argparse.ArgumentParser:
    """The options that every load test has. worker: of `parents`, for the usage."""
    parser = Parser(
        prog=prog,
        usage=f"%(prog)s {worker}(-n COUNT | --duration SECONDS) [-rps RATE] (-l | -k KEY -e NAME) [more]",
        description="Send requests through the autoscaler as real users would, and report what they got.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
        parents=parents,
    )
    _add_load(parser)
    _add_requests(parser)
    add_client_options(parser)
    _add_one_worker(parser)
    _add_report(parser)
    return parser


def _add_load(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("load", "one of -n, --duration and --ramp is needed")
    group.add_argument("-n", type=whole, metavar="COUNT", help="end after this many requests")
    group.add_argument("--duration", type=positive, metavar="SECONDS", help="stop sending after this time")
    group.add_argument("-rps", type=positive, metavar="RATE", help="requests started per second (default: 1)")
    group.add_argument(
        "--ramp",
        type=ramp,
        metavar="FROM:TO:SECONDS",
        help="raise the rate linearly, such as 1:50:600, and end there without -n or --duration",
    )
    group.add_argument(
        "--arrival",
        choices=("poisson", "constant"),
        help="independent of each other as from many users, or evenly spaced "
        "(default: poisson above 1 rps, else constant)",
    )
    group.add_argument(
        "--concurrency",
        type=whole,
        metavar="N",
        help="instead of a rate: N users, each sending its next request when the last one has ended",
    )
    group.add_argument("--seed", type=int, metavar="NUMBER", help="the same one gives the same arrivals")


def _add_requests(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("requests")
    group.add_argument("--route", metavar="PATH", help="route of the worker (default: the worker's own)")
    group.add_argument("--stream", action="store_true", help="read responses token by token")
    group.add_argument(
        "--payload",
        type=Path,
        metavar="FILE.jsonl",
        help="send these, a JSON object in each line, in this order (default: the worker makes up to 2000)",
    )
    group.add_argument(
        "--retries",
        type=not_negative,
        default=0,
        metavar="N",
        help="retry this many times after 408, 429, 5xx or a lost connection, as clients do (default: 0)",
    )


def _add_one_worker(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("one worker without the autoscaler")
    group.add_argument(
        "--worker-url", metavar="URL", help="call it without the autoscaler; it needs UNSECURED=true, or:"
    )
    group.add_argument(
        "--auth-data",
        type=Path,
        metavar="FILE.json",
        help="a response of POST /route/ that names this worker; its signature may be used repeatedly",
    )
    add_door_option(group)


def _add_report(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("reports and objective")
    group.add_argument(
        "--slo",
        type=slo,
        default=Objective({}),
        metavar="NAME=TIME,…",
        help="what a good response is, such as ttft=500ms,total=10s; names: total, ttfb (first byte), "
        "ttft (first token), gap (longest pause between tokens)",
    )
    group.add_argument(
        "--max-error-rate",
        type=share,
        default=0.0,
        metavar="SHARE",
        help="failures, or misses of the objective, that are still fine, such as 0.01 or 1%% (default: 0)",
    )
    group.add_argument(
        "--dollars-per-hour",
        type=positive,
        metavar="PRICE",
        help="of all machines under test together: also report what a million tokens cost",
    )
    group.add_argument("--json", type=Path, metavar="FILE", help="write all figures")
    group.add_argument("--html", type=Path, metavar="FILE", help="write a report with plots, in one file")
    group.add_argument(
        "--compare", type=Path, metavar="OLD.json", help="compare with the run that wrote this --json"
    )


def plan_from(parser: argparse.ArgumentParser, options: argparse.Namespace) -> Plan:
    """Ends the program with one line if options contradict each other."""
    if options.concurrency is not None:
        for name in ("rps", "ramp", "arrival"):
            if getattr(options, name) is not None:
                option = "-rps" if name == "rps" else f"--{name}"
                parser.error(f"--concurrency has no rate: leave out {option}")
        if options.concurrency > MAX_THREADS:
            parser.error(f"--concurrency {options.concurrency} is more than {MAX_THREADS}")
    if options.ramp is not None and options.rps is not None:
        parser.error("--ramp says the rate: leave out -rps")
    if options.n is None and options.duration is None and options.ramp is None:
        parser.error("say how much to send: -n COUNT or --duration SECONDS")
    rate = options.ramp or Rate(options.rps or 1.0, options.rps or 1.0)
    duration = options.duration or math.inf
    if options.n is None and options.duration is None:
        duration = rate.seconds
    fast = max(rate.first, rate.last) > 1
    return Plan(
        count=options.n,
        duration=duration,
        rate=rate,
        arrival=options.arrival or ("poisson" if fast else "constant"),
        concurrency=options.concurrency,
        seed=options.seed,
        route=options.route,
        stream=options.stream,
        payload_file=options.payload,
        objective=options.slo,
        max_error_rate=options.max_error_rate,
        json_file=options.json,
        html_file=options.html,
        compare_file=options.compare,
        dollars_per_hour=options.dollars_per_hour,
    )


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


def checked_files(parser: argparse.ArgumentParser, files: Sequence[Path | None]) -> None:
    """End the program if a report could not be written: better now than after an hour's test."""
    for path in files:
        if path is None:
            continue
        if not path.parent.is_dir():
            parser.error(f"{path} cannot be written: there is no folder {path.parent}")
        if path.is_dir():
            parser.error(f"{path} cannot be written: it is a folder")
