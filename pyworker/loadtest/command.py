"""A load test from its arguments to its exit status."""

from __future__ import annotations

import argparse
import random
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from pathlib import Path

from pyworker.errors import ConfigError
from pyworker.loadtest.compare import text_comparison
from pyworker.loadtest.csv_files import requests_csv, stages_csv
from pyworker.loadtest.drive import Interrupts, drive, engine_of, interrupts
from pyworker.loadtest.exchange import Cancelling
from pyworker.loadtest.html import page
from pyworker.loadtest.live import say, view_for
from pyworker.loadtest.measurement import Measurement
from pyworker.loadtest.options import checked_files, plan_from
from pyworker.loadtest.overhead import overhead_line
from pyworker.loadtest.own_figures import own_figures
from pyworker.loadtest.parser import expanded, make_parser
from pyworker.loadtest.payloads import LoadPayload, Payloads
from pyworker.loadtest.plan import Plan
from pyworker.loadtest.report import percent, text_report
from pyworker.loadtest.result import Result, read_result, result_of
from pyworker.loadtest.sender import sender_of
from pyworker.loadtest.shaping import shaped
from pyworker.loadtest.staging import sweep
from pyworker.loadtest.sweep import SweepResult
from pyworker.loadtest.sweep_html import sweep_page
from pyworker.loadtest.sweep_report import text_sweep
from pyworker.loadtest.targets import Called, baseline_from, called_from


@dataclass(frozen=True)
class Target:
    """What a worker's load test calls, and with what. Without a payload the options say what to send."""

    payload: LoadPayload | None
    route: str
    stream_route: str
    stream_payload: LoadPayload | None


def execute(target: Target, argv: Sequence[str]) -> int:
    parser = make_parser()
    options = parser.parse_args(expanded(parser, argv))
    plan = _seeded(plan_from(parser, options))
    checked_files(parser, [plan.json_file, plan.html_file, plan.csv_file])
    route = plan.route or (target.stream_route if plan.stream else target.route)
    called = called_from(parser, options, plan, route)
    baseline = baseline_from(parser, options, plan, route)
    old, payloads, tokens_by = _read(parser, plan, target)
    with ExitStack() as stack:
        stack.enter_context(called.client)
        seen = stack.enter_context(interrupts())
        if plan.sweep is not None:
            return _report_sweep(sweep(plan, plan.sweep, called, payloads, seen, tokens_by), plan)
        if baseline is not None:
            stack.enter_context(baseline.client)
            say(f"first the model server alone, {baseline.name}")
            old, _ = _run(plan, baseline, payloads, seen, tokens_by)
            if seen:
                say("Interrupted before the worker was tested.")
                return 1
        result, measurement = _run(plan, called, payloads, seen, tokens_by)
        urls = [worker.url for worker in result.workers]
        own = own_figures(called.client, called.worker_url, urls, options.status_token or "")
    return _report(replace(result, own=own), measurement, plan, old)


def _seeded(plan: Plan) -> Plan:
    """With a seed, if the requests depend on it: both tests of --compare are to send the same."""
    if plan.seed is not None or (plan.shape is None and plan.talk is None):
        return plan
    return replace(plan, seed=random.randrange(2**32))


def _read(parser: argparse.ArgumentParser, plan: Plan, target: Target) -> tuple[Result | None, Payloads, str]:
    """What the test needs before it begins, and who counts tokens; ends the program if a file is wrong."""
    try:
        old = None if plan.compare_file is None else read_result(plan.compare_file)
        payloads, tokens_by = shaped(plan, _payloads(parser, plan, target))
        return old, payloads, tokens_by
    except ConfigError as error:
        parser.error(str(error))


def _payloads(parser: argparse.ArgumentParser, plan: Plan, target: Target) -> Payloads:
    """Raises `ConfigError`."""
    for_model = plan.url is not None or plan.compare_url is not None
    payload = target.stream_payload if plan.stream else target.payload
    if plan.body is not None:
        return Payloads.of_body(plan.body)
    if plan.payload_file is not None:
        kind = None if plan.url is not None else payload
        return Payloads.of_file(plan.payload_file, kind, for_model=for_model)
    if payload is None:
        parser.error("say what to send: -w NAME, --payload FILE.jsonl or --body JSON")
    return Payloads.made(payload, plan.needed, for_model=for_model)


def _run(
    plan: Plan, called: Called, payloads: Payloads, seen: Interrupts, tokens_by: str
) -> tuple[Result, Measurement]:
    """One test of one target."""
    measurement = Measurement(plan.objective, plan.goals)
    cancelling = Cancelling(plan.cancel_share, plan.cancel_after, plan.seed)
    sender = sender_of(plan, called, payloads, measurement, cancelling)

    def enough() -> str:
        with measurement.frozen():
            failed = measurement.failed
        too_many = plan.max_errors is not None and failed >= plan.max_errors
        return f"Stopped after {failed} failures" if too_many else ""

    with closing(sender), view_for(plan, f"load test of {called.name}") as view:
        stopped = drive(engine_of(plan, sender), measurement, view, seen, enough)
        # Before sessions are ended that nobody waits for, which breaks their requests off.
        result = result_of(measurement, plan, called.name)
    if stopped and not seen:
        say(stopped)
    return replace(result, sessions=sender.described, tokens_by=tokens_by), measurement


def _report_sweep(result: SweepResult, plan: Plan) -> int:
    say("\n" + text_sweep(result))
    written = [
        _write(plan.json_file, result.to_json),
        _write(plan.html_file, lambda: sweep_page(result)),
        _write(plan.csv_file, lambda: stages_csv(result)),
    ]
    return 0 if all(written) and result.knee is not None and not result.interrupted else 1


def _report(result: Result, measurement: Measurement, plan: Plan, old: Result | None) -> int:
    say(text_report(result))
    if old is not None:
        say("\n" + text_comparison(old, result))
    if old is not None and plan.compare_url is not None:
        say("\n" + overhead_line(old, result))
    written = [
        _write(plan.json_file, result.to_json),
        _write(plan.html_file, lambda: page(result, old)),
        _write(plan.csv_file, lambda: requests_csv(measurement)),
    ]
    status = 0 if all(written) else 1
    if result.sent == 0:
        say("\nNothing was sent.")
        return 1
    if result.error_share > plan.max_error_rate:
        say(f"\n{percent(result.error_share)} did not succeed; {percent(plan.max_error_rate)} may fail.")
        return 1
    if result.miss_share > plan.max_error_rate:
        say(f"\n{percent(result.miss_share)} missed the objective; {percent(plan.max_error_rate)} may.")
        return 1
    for goal in result.goals:
        if not goal.holds:
            say(f"\n{percent(goal.missed)} missed {goal.name}; {percent(goal.allowed)} may.")
            status = 1
    return status


def _write(path: Path | None, made: Callable[[], str]) -> bool:
    """False if the file cannot be written."""
    if path is None:
        return True
    try:
        path.write_text(made(), encoding="utf-8")
    except OSError as error:
        sys.stderr.write(f"{path} cannot be written: {error.strerror}\n")
        return False
    say(f"written: {path}")
    return True
