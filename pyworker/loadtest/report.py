"""The load test's figures as text for people."""

from __future__ import annotations

from pyworker.loadtest.measurement import Summary

NOTED_START_DELAY = 0.1
EXAMPLE_LENGTH = 200


def progress_line(seconds: float, count: int, figures: tuple[int, int, int]) -> str:
    """One line for each second of the test."""
    sent, succeeded, failed = figures
    in_flight = sent - succeeded - failed
    return f"{seconds:5.0f} s  sent {sent}/{count}  ok {succeeded}  failed {failed}  in flight {in_flight}"


def table(summary: Summary, planned: int, target_rps: float) -> str:
    """The result, with an example of each kind of failure."""
    rows = [
        ("sent", f"{summary.sent} of {planned}"),
        ("succeeded", str(summary.succeeded)),
        ("failed", str(summary.failed)),
    ]
    if summary.in_flight:
        rows.append(("unfinished", str(summary.in_flight)))
    rows += [(f"latency p{share}", _seconds(summary.percentile(share / 100))) for share in (50, 90, 99)]
    rows.append(("achieved rps", f"{summary.achieved_rps:.2f} (target {target_rps:g})"))
    if summary.worst_start_delay > NOTED_START_DELAY:
        rows.append(("late starts", f"up to {_seconds(summary.worst_start_delay)}: this machine is too busy"))
    lines = [f"{name:<14}{value}" for name, value in rows]
    for kind, failure in sorted(summary.failures.items(), key=lambda item: -item[1].count):
        example = " ".join(failure.example.split())[:EXAMPLE_LENGTH]
        lines.append(f"  {failure.count} x {kind}, for example: {example}")
    return "\n".join(lines)


def _seconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f} s"
