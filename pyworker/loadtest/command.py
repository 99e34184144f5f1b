"""A load test from its arguments to its exit status."""

from __future__ import annotations

import argparse
import signal
import sys
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pyworker.errors import ConfigError
from pyworker.loadtest.arrivals import due_times
from pyworker.loadtest.compare import text_comparison
from pyworker.loadtest.engine import ClosedLoop, Engine, OpenLoop
from pyworker.loadtest.html import page
from pyworker.loadtest.live import View, say, view_for
from pyworker.loadtest.measurement import Measurement
from pyworker.loadtest.options import Plan, checked_files, load_client, make_parser, plan_from
from pyworker.loadtest.payloads import LoadPayload, Payloads
from pyworker.loadtest.report import percent, text_report
from pyworker.loadtest.result import Result, read_result, result_of
from pyworker.loadtest.sender import Sender

LOOK_SECONDS = 0.1


@dataclass(frozen=True)
class Target:
    """What a worker's load test calls, and with what."""

    payload: LoadPayload
    route: str
    stream_route: str
    stream_payload: LoadPayload


def execute(target: Target, argv: Sequence[str]) -> int:
    parser = make_parser()
    options = parser.parse_args(argv)
    plan = plan_from(parser, options)
    checked_files(parser, [plan.json_file, plan.html_file])
    client = load_client(parser, options)
    old, payloads = _read(parser, plan, target)
    route = plan.route or (target.stream_route if plan.stream else target.route)
    measurement = Measurement(plan.objective)
    with client:
        name = f"{options.worker_url or options.openai or options.endpoint or 'the local endpoint'}{route}"
        sender = Sender(client, payloads, route, measurement, stream=plan.stream)
        engine = _engine(plan, sender)
        with view_for(plan, f"load test of {name}") as view:
            measurement.start()
            engine.start()
            _watch(engine, measurement, view)
        result = result_of(measurement, plan, name)
    return _report(result, plan, old)


def _read(parser: argparse.ArgumentParser, plan: Plan, target: Target) -> tuple[Result | None, Payloads]:
    """What the test needs before it begins; ends the program if a file is wrong."""
    try:
        old = None if plan.compare_file is None else read_result(plan.compare_file)
        payload = target.stream_payload if plan.stream else target.payload
        if plan.payload_file is not None:
            return old, Payloads.of_file(plan.payload_file, payload)
        return old, Payloads.made(payload, plan.count)
    except ConfigError as error:
        parser.error(str(error))


def _engine(plan: Plan, sender: Sender) -> Engine:
    if plan.concurrency is not None:
        return ClosedLoop(sender.send, plan.concurrency, plan.count, plan.duration)
    moments = due_times(plan.rate, plan.arrival, count=plan.count, duration=plan.duration, seed=plan.seed)
    return OpenLoop(sender.send, moments)


def _watch(engine: Engine, measurement: Measurement, view: View) -> None:
    """Show the progress until all is done; Ctrl-C ends the sending, a second one the waiting."""
    with _interrupts() as interrupts:
        next_show = time.monotonic() + view.pause
        stopped = False
        while not engine.wait(LOOK_SECONDS):
            if len(interrupts) > 1:
                view.say("Not waiting for the responses")
                return
            if interrupts and not stopped:
                stopped = True
                engine.stop()
                view.say("Stopped sending, waiting for what is open (Ctrl-C once more: not waiting)")
            if time.monotonic() >= next_show:
                next_show += view.pause
                view.show(measurement.glimpse())


@contextmanager
def _interrupts() -> Generator[list[int]]:
    """Grows by one with each Ctrl-C, which does nothing else: it must not come at a bad moment."""
    seen: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, _frame: seen.append(number))
    try:
        yield seen
    finally:
        signal.signal(signal.SIGINT, before)


def _report(result: Result, plan: Plan, old: Result | None) -> int:
    say(text_report(result))
    if old is not None:
        say("\n" + text_comparison(old, result))
    written = [
        _write(plan.json_file, result.to_json),
        _write(plan.html_file, lambda: page(result, old)),
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
