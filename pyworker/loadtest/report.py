"""The result as text, and the words that the other reports share."""

from __future__ import annotations

from collections.abc import Sequence

from pyworker.loadtest.cost import Cost, dollars
from pyworker.loadtest.own_figures import OwnFigures
from pyworker.loadtest.record import KINDS
from pyworker.loadtest.result import Lengths, Result

NAMES = {
    "total": "latency",
    "first_byte": "first byte",
    "first_token": "first token",
    "gap": "between tokens",
    "per_token": "per token",
    "normalized": "normalized",
    "routing": "routing",
    "waiting": "waiting",
    "late": "late starts",
}
SHOWN = ("p50", "p90", "p95", "p99", "p99.9")
TIME_HEAD = ("", *SHOWN, "largest")
TURN_HEAD = (
    "turn", "requests", "failed", "latency p50", "p90", "p99", "first token p50", "p90", "p99",
)  # fmt: skip
WORKER_HEAD = ("worker", "requests", "share", "failed", "p50", "p99")
NOTED_LATENESS = 0.02
NOTED_WAITING = 1e-3
SHOWN_WORKERS = 10


def duration(seconds: float) -> str:
    """Three digits and a unit."""
    if seconds == 0:
        return "0 s"
    if seconds < 0.9995e-3:
        return f"{seconds * 1e6:.0f} µs"
    if seconds < 0.9995:
        return f"{seconds * 1e3:.3g} ms" if seconds < 0.0995 else f"{seconds * 1e3:.0f} ms"
    return f"{seconds:.3g} s" if seconds < 99.5 else f"{seconds:.0f} s"


def percent(share: float) -> str:
    """Never rounded to nothing, nor to all."""
    text = f"{share:.1%}"
    if share > 0 and text == "0.0%":
        return "<0.1%"
    return ">99.9%" if share < 1 and text == "100.0%" else text


def amount(size: float) -> str:
    """Bytes, as people read them."""
    if size < 1024:
        return f"{size:.0f} B"
    unit, factor = next((u, f) for u, f in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)) if size >= f)
    return f"{size / factor:.1f} {unit}"


def text_report(result: Result) -> str:
    """All of it, for a terminal or a file."""
    parts = ["\n".join(f"{name:<14}{value}" for name, value in facts(result))]
    if result.succeeded:
        parts.append(table(TIME_HEAD, time_rows(result)))
    if result.turns:
        parts.append(table(TURN_HEAD, turn_rows(result)))
    if len(result.workers) > 1:
        rows = worker_rows(result)
        parts.append(table(WORKER_HEAD, rows[:SHOWN_WORKERS]))
        if len(rows) > SHOWN_WORKERS:
            parts.append(f"… and {len(rows) - SHOWN_WORKERS} more workers")
    if result.failures:
        parts.append("\n".join(["failures", *(f"  {line}" for line in failure_lines(result))]))
    parts += [f"Note: {note}" for note in notes(result)]
    return "\n\n".join(parts)


def facts(result: Result) -> list[tuple[str, str]]:
    """All figures but times and workers, as name and value."""
    of = "" if result.planned is None else f" of {result.planned}"
    rows = [
        ("sent", f"{result.sent}{of} to {result.target}"),
        ("succeeded", f"{result.succeeded} ({percent(1 - result.error_share)})"),
        ("failed", str(result.failed)),
    ]
    if result.unfinished:
        rows.append(("unfinished", str(result.unfinished)))
    if result.retried:
        rows.append(("retried", f"{result.retried} calls of a worker"))
    started = f"{result.start_rate:.2f} per second in {result.sending_seconds:.1f} s ({result.wanted})"
    rows.append(("started", started))
    good = f"{result.throughput:.2f} good responses per second, {amount(result.received)} in all"
    rows.append(("throughput", good))
    if result.objective:
        limits = ", ".join(f"{name} ≤ {duration(limit)}" for name, limit in result.objective.items())
        met = f"{result.met} met it ({percent(1 - result.miss_share)})"
        rows.append(("goodput", f"{result.goodput:.2f} per second with {limits}; {met}"))
    rows.append(("workload", f"{result.workload_rate:.1f} per second"))
    rows += _token_rows(result)
    rows += _shape_rows(result)
    if result.cancelled:
        rows.append(("cancelled", f"{result.cancelled} of the good ones, by the test itself"))
    if result.lengths:
        rows.append(("lengths", "; ".join(_length(name, one) for name, one in result.lengths.items())))
    if result.idle_share is not None:
        rows.append(("idle", f"{percent(result.idle_share)} of the time no request was open"))
    if result.cost is not None:
        rows.append(("cost", cost_line(result.cost)))
    rows += [
        (goal.name, f"{percent(goal.missed)} missed it: {'holds' if goal.holds else 'fails'}")
        for goal in result.goals
    ]
    rows += [("by the worker", own_line(one)) for one in result.own]
    return rows


def _shape_rows(result: Result) -> list[tuple[str, str]]:
    rows = [("shape", result.shape)] if result.shape else []
    if result.tokens_by:
        rows.append(("tokens by", result.tokens_by))
    if result.seed is not None:
        rows.append(("seed", str(result.seed)))
    if talks := result.conversations:
        ends = {"whole": "whole", "broken": "ended by a failure", "stopped": "ended with the test"}
        parts = [f"{talks[how]} {name}" for how, name in ends.items() if talks[how]]
        text = f"{talks['begun']} begun, {', '.join(parts) or 'none ended'}; {result.sessions}"
        rows.append(("conversations", text))
    return rows


def _token_rows(result: Result) -> list[tuple[str, str]]:
    if not result.tokens:
        return []
    rows = [("tokens", f"{result.token_rate:.1f} per second, {result.tokens} in all")]
    if result.objective:
        rows.append(("token goodput", f"{result.token_goodput:.1f} per second"))
    each = result.times.get("per_token")  # not in the files of before
    if each is not None and each.percentiles["p50"]:
        rows.append(("tokens a user", f"{1 / each.percentiles['p50']:.1f} per second, by the median"))
    return rows


def _length(name: str, lengths: Lengths) -> str:
    what, unit = name.split("_")
    shown = amount if unit == "bytes" else "{:.0f}".format
    figures = f"{shown(lengths.p50)}, p90 {shown(lengths.p90)}, largest {shown(lengths.largest)}"
    return f"{what} p50 {figures}" if unit == "bytes" else f"{what} tokens p50 {figures}"


def own_line(own: OwnFigures) -> str:
    """What a worker says of itself."""
    if own.trouble:
        return f"{own.url}: not read ({own.trouble})"
    parts = [f"{count} {name}" for name, count in own.outcomes.items()]
    parts += [f"{count} refused with {status}" for status, count in own.refused.items()]
    for name, times in (("latency", own.latency), ("first byte", own.first_byte)):
        if times:
            parts.append(f"{name} {', '.join(f'{key} {duration(value)}' for key, value in times.items())}")
    return f"{own.url}, its last minute: {'; '.join(parts) or 'nothing'}"


def cost_line(cost: Cost) -> str:
    """By the tokens if they are known, else by the workload."""
    each = ""
    if cost.per_million_tokens is not None:
        each = f", {dollars(cost.per_million_tokens)} for each million tokens"
    elif cost.per_unit_of_workload is not None:
        each = f", {dollars(cost.per_unit_of_workload)} for each unit of workload"
    return f"{dollars(cost.total)} at {dollars(cost.per_hour)} an hour{each}"


def time_rows(result: Result) -> list[list[str]]:
    """A row for each time that was measured."""
    return [
        [NAMES[name], *(duration(spread.percentiles[key]) for key in SHOWN), duration(spread.largest)]
        for name, spread in result.times.items()
        if spread.count and (name != "waiting" or spread.largest > NOTED_WAITING)
    ]


def turn_rows(result: Result) -> list[list[str]]:
    """A row for the first turns of conversations, one for the later ones, and one for each."""
    return [
        [
            *(one.turns, str(one.requests), str(one.failed)),
            *(
                duration(times[name]) if times else "-"
                for times in (one.latency, one.first_token)
                for name in ("p50", "p90", "p99")
            ),
        ]
        for one in result.turns
    ]


def worker_rows(result: Result) -> list[list[str]]:
    """A row for each worker, the busiest first."""
    total = sum(worker.requests for worker in result.workers)
    return [
        [
            *(one.url, str(one.requests), percent(one.requests / total), str(one.failed)),
            *(duration(one.p50), duration(one.p99)),
        ]
        for one in sorted(result.workers, key=lambda worker: -worker.requests)
    ]


def failure_lines(result: Result) -> list[str]:
    """A line for each kind, with its example."""
    return [
        f"{failure.count} x {KINDS.get(failure.kind, failure.kind)}, for example {failure.example}"
        for failure in result.failures
    ]


def notes(result: Result) -> list[str]:
    """What a reader has to know to trust the figures."""
    late = result.times["late"]
    found: list[str] = []
    if late.percentiles["p99"] > NOTED_LATENESS:
        found.append(
            f"the generator itself was up to {duration(late.largest)} late "
            f"({duration(late.percentiles['p99'])} for one request in a hundred): this machine is too busy, "
            "or too many requests are open. That time is part of the latency."
        )
    if result.tokens and result.succeeded and not result.times["gap"].count:
        found.append(
            "--stream, but every response came in one piece: the route does not stream, or its payload has "
            "to ask for it (such as `stream: true`); times to the first token are those of whole responses."
        )
    if any(one.kind == "429" and "/session/create" in one.example for one in result.failures):
        found.append(
            "the worker does not have a session for each of so many conversations: it allows MAX_SESSIONS, "
            "10 if nothing else is set."
        )
    if result.wanted.endswith("at a time"):
        found.append(
            "a closed loop sends less while the server stalls, so its latencies look better than users'."
        )
    return found


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """The first column to the left, the others to the right."""
    widths = [max(len(row[column]) for row in [head, *rows]) for column in range(len(head))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if column == 0 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in [head, *rows]
    )
