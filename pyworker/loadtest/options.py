"""The command line of a load test, checked and made a plan."""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from pathlib import Path

from pyworker.errors import ConfigError
from pyworker.loadtest.arrivals import Rate
from pyworker.loadtest.engine import MAX_THREADS
from pyworker.loadtest.goal import parsed_goals
from pyworker.loadtest.plan import Plan
from pyworker.loadtest.shape_options import shape_from, talk_from
from pyworker.loadtest.sweep_options import sweep_from
from pyworker.loadtest.trace import Trace, read_trace


def plan_from(parser: argparse.ArgumentParser, options: argparse.Namespace) -> Plan:
    """Ends the program with one line if options contradict each other."""
    _check_load(parser, options)
    rate = options.ramp or Rate(options.rps or 1.0, options.rps or 1.0)
    duration = options.duration or math.inf
    if options.n is None and options.duration is None and options.trace is None:
        duration = rate.seconds
    fast = max(rate.first, rate.last) > 1 or options.sweep
    try:
        goals = () if options.objective is None else parsed_goals(options.objective, options.slo)
    except ValueError as error:
        parser.error(str(error))
    trace = _trace(parser, options)
    talk = talk_from(parser, options)
    compare_is_url = (options.compare or "").startswith(("http://", "https://"))
    return Plan(
        count=options.n,
        duration=duration,
        rate=rate,
        arrival=options.arrival or ("poisson" if fast else "constant"),
        burstiness=options.burstiness or 0.5,
        concurrency=options.concurrency,
        seed=options.seed,
        max_errors=options.max_errors,
        cancel_share=options.cancel_share or 0.0,
        cancel_after=options.cancel_after or 1.0,
        trace=trace,
        route=options.route,
        stream=options.stream,
        payload_file=options.payload,
        url=options.url,
        body=options.body,
        objective=options.slo,
        goals=goals,
        max_error_rate=options.max_error_rate or 0.0,
        json_file=options.json,
        html_file=options.html,
        csv_file=options.csv,
        compare_file=None if compare_is_url or options.compare is None else Path(options.compare),
        compare_url=options.compare if compare_is_url else None,
        dollars_per_hour=options.dollars_per_hour,
        sweep=sweep_from(parser, options, goals, 0.0 if talk is None else talk.pause),
        shape=shape_from(parser, options, trace),
        talk=talk,
    )


def _trace(parser: argparse.ArgumentParser, options: argparse.Namespace) -> Trace | None:
    if options.trace is None:
        return None
    for name in ("rps", "ramp", "arrival", "concurrency", "sweep"):
        if getattr(options, name):
            parser.error(f"--trace says when: leave out {'-rps' if name == 'rps' else f'--{name}'}")
    try:
        return read_trace(options.trace)
    except ConfigError as error:
        parser.error(str(error))


def _check_load(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    if options.concurrency is not None:
        for name in ("rps", "ramp", "arrival"):
            if getattr(options, name) is not None:
                option = "-rps" if name == "rps" else f"--{name}"
                parser.error(f"--concurrency has no rate: leave out {option}")
        if options.concurrency > MAX_THREADS:
            parser.error(f"--concurrency {options.concurrency} is more than {MAX_THREADS}")
    if options.ramp is not None and options.rps is not None:
        parser.error("--ramp says the rate: leave out -rps")
    if options.burstiness is not None and options.arrival != "gamma":
        parser.error("--burstiness is for --arrival gamma")
    if options.body is not None and (options.url is None or options.payload is not None):
        parser.error("--body is for --url, without --payload")
    if (options.cancel_share or options.cancel_after) and not options.stream:
        parser.error("--cancel-share and --cancel-after are for --stream")
    ways = (options.n, options.duration, options.ramp, options.trace)
    if all(way is None for way in ways) and not options.sweep:
        parser.error("say how much to send: -n COUNT or --duration SECONDS, or --sweep")


def checked_files(parser: argparse.ArgumentParser, files: Sequence[Path | None]) -> None:
    """End the program if a report could not be written: better now than after an hour's test."""
    for path in files:
        if path is None:
            continue
        if not path.parent.is_dir():
            parser.error(f"{path} cannot be written: there is no folder {path.parent}")
        if path.is_dir():
            parser.error(f"{path} cannot be written: it is a folder")
