"""The command line of a load test: its options, in groups."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from pyworker.client.options import add_client_options, add_door_option, positive
from pyworker.loadtest.argument_types import not_negative, ramp, share, slo, whole
from pyworker.loadtest.objective import Objective
from pyworker.loadtest.shape_options import add_shape
from pyworker.loadtest.sweep_options import add_sweep

_EXAMPLES = """
examples:
  100 requests at 10 per second, to the demo on this machine:
    python -m pyworker.loadtest -w hello_world -l -n 100 -rps 10
  five minutes at 2 per second, streamed, with a report to show around:
    python -m pyworker.loadtest -w hello_world -k KEY -e NAME --stream --duration 300 -rps 2 --html r.html
  what is the highest rate at which the first token comes in time, and what does it cost there?
    python -m pyworker.loadtest -w hello_world -k KEY -e NAME --stream --sweep --objective ttft-p99=500ms \\
        --dollars-per-hour 2.5 --html sweep.html
  conversations of chat users, of whom each has one of four system prompts:
    python -m pyworker.loadtest -w openai -k KEY -e NAME --route /v1/chat/completions -n 200 -rps 1 \\
        --turns 2:6 --think 5 --fields messages.0.content --input-tokens 50:400 \\
        --prefix-tokens 1000 --prefixes 4
  is it better than before?
    python -m pyworker.loadtest -w hello_world -k KEY -e NAME -n 500 -rps 2 --json new.json --compare old.json
  what does the worker cost, beside the model server alone?
    python -m pyworker.loadtest -w hello_world --worker-url http://localhost:3000 -n 500 -rps 2 \\
        --compare http://localhost:5001

Requests start on schedule, however long responses take, and latency counts from the moment a request was due:
a server that stalls is charged for every request that was due meanwhile. With --concurrency it is not.
@FILE stands for the options in a file, a scenario: as here, over several lines, with # for comments.
Ctrl-C stops sending, waits for open requests and reports; a second one does not wait.
The exit status is 1 when more failed, or missed the objective, than is allowed, or a sweep finds no knee.
"""


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
        usage=f"%(prog)s {worker}(-n COUNT | --duration SECONDS | --sweep) [-rps RATE] "
        "(-l | -k KEY -e NAME) [more]",
        description="Send requests through the autoscaler as real users would, and report what they got.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
        parents=parents,
    )
    _add_load(parser)
    add_sweep(parser)
    _add_requests(parser)
    add_shape(parser)
    add_client_options(parser)
    _add_one_worker(parser)
    _add_objective(parser)
    _add_report(parser)
    return parser


def _add_load(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("load", "one of -n, --duration, --ramp, --trace and --sweep is needed")
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
        choices=("poisson", "constant", "gamma"),
        help="independent of each other as from many users, evenly spaced, or in bursts "
        "(default: poisson above 1 rps, else constant)",
    )
    group.add_argument(
        "--burstiness",
        type=positive,
        metavar="SHAPE",
        help="of --arrival gamma: 1 is poisson, less is more in bursts, more is more even (default: 0.5)",
    )
    group.add_argument(
        "--concurrency",
        type=whole,
        metavar="N",
        help="instead of a rate: N users, each sending its next request when the last one has ended",
    )
    group.add_argument(
        "--trace",
        type=Path,
        metavar="FILE.jsonl",
        help='instead of a rate: replay these times, lines such as {"at": 1.5} in seconds or '
        '{"timestamp": 1500} in ms; also input_length and output_length in tokens, for --fields',
    )
    group.add_argument(
        "--seed", type=int, metavar="NUMBER", help="the same one gives the same arrivals, lengths and texts"
    )
    group.add_argument(
        "--cancel-share",
        type=share,
        metavar="SHARE",
        help="with --stream: break off so many of the responses",
    )
    group.add_argument(
        "--cancel-after",
        type=positive,
        metavar="SECONDS",
        help="when, on average; it is spread exponentially (default: 1)",
    )
    group.add_argument("--max-errors", type=whole, metavar="N", help="stop sending once N requests failed")


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
    group.add_argument("--body", metavar="JSON", help="with --url: send this in every request")
    group.add_argument(
        "--retries",
        type=not_negative,
        default=0,
        metavar="N",
        help="retry this many times after 408, 429, 5xx or a lost connection, as clients do (default: 0)",
    )


def _add_one_worker(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("without the autoscaler")
    group.add_argument("--worker-url", metavar="URL", help="call this worker; it needs UNSECURED=true, or:")
    group.add_argument(
        "--auth-data",
        type=Path,
        metavar="FILE.json",
        help="a response of POST /route/ that names this worker; its signature may be used repeatedly",
    )
    add_door_option(group)
    group.add_argument(
        "--url",
        metavar="URL",
        help="POST bare JSON there, to a model server or anything else, with -k KEY as a bearer token if "
        "given; needs no worker if --body or --payload says what to send",
    )


def _add_objective(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("objective")
    group.add_argument(
        "--slo",
        type=slo,
        default=Objective({}),
        metavar="NAME=TIME,…",
        help="what a good response is, such as ttft=500ms,total=10s; names: total, ttfb (first byte), "
        "ttft (first token), gap (longest pause between tokens), tpot (mean time per output token)",
    )
    group.add_argument(
        "--objective",
        metavar="NAME=LIMIT,…",
        help="what all responses together must meet, such as p99=2s,ttft-p95=500ms,goodput=95%%,errors=1%%; "
        "goodput is the share that meets --slo",
    )
    group.add_argument(
        "--max-error-rate",
        type=share,
        metavar="SHARE",
        help="failures, or misses of --slo, that are still fine, such as 0.01 or 1%% (default: 0, with "
        "--sweep 1%%)",
    )


def _add_report(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("reports")
    group.add_argument(
        "--dollars-per-hour",
        type=positive,
        metavar="PRICE",
        help="of all machines under test together: also report what a million tokens cost",
    )
    group.add_argument("--json", type=Path, metavar="FILE", help="write all figures")
    group.add_argument("--html", type=Path, metavar="FILE", help="write a report with plots, in one file")
    group.add_argument(
        "--csv", type=Path, metavar="FILE", help="write a line for each request, or for each stage of a sweep"
    )
    group.add_argument(
        "--compare",
        metavar="OLD.json|URL",
        help="compare with the run that wrote this --json, or first run the same test against the model "
        "server at this URL: what does the worker cost?",
    )
    group.add_argument("--compare-key", metavar="KEY", help="bearer token for the URL of --compare")
    group.add_argument(
        "--status-token",
        metavar="TOKEN",
        help="the worker's master token: also report its own figures (not needed on its machine)",
    )


def expanded(parser: argparse.ArgumentParser, argv: Sequence[str]) -> list[str]:
    """With the arguments of a file instead of each @FILE; ends the program if one cannot be read."""
    found: list[str] = []
    for argument in argv:
        if not argument.startswith("@"):
            found.append(argument)
            continue
        try:
            found += shlex.split(Path(argument[1:]).read_text("utf-8"), comments=True)
        except OSError as error:
            parser.error(f"the scenario {argument[1:]} cannot be read: {error.strerror}")
        except ValueError as error:
            parser.error(f"the scenario {argument[1:]} is none: {error}")
    return found
