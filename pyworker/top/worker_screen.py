"""A worker as a screen of text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from rich.console import Group, RenderableType
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from pyworker.top.fields import figure, figures, items, pairs, text
from pyworker.top.words import bars, capital, clock, number, seconds, span

#: Of a state, on a page and here.
COLOURS = {
    "ready": "green",
    "loading": "blue",
    "benchmarking": "blue",
    "draining": "yellow",
    "errored": "red",
}
#: Columns from which on a table has all of its columns.
WIDE = 100
Side = Literal["left", "right"]
# What stands beside the bars of a series, which are a second each.
_BESIDE_BARS = 34
_LEAST_ROWS = 3
# Lines of the screen that are there whatever happens.
_FIXED = 19


def worker_screen(
    sections: Mapping[str, object], where: str, width: int, height: int | None
) -> RenderableType:
    """What fits; height: lines of the terminal, None for any number."""
    status = sections.get("status")
    notes = _notes(status)
    room = 45 if height is None else max(4 * _LEAST_ROWS, height - _FIXED - len(notes))
    ended = [*reversed(items(sections.get("requests")))][: room // 3]
    refused = items(status, "last_refusals")[: room // 5]
    left = max(2 * _LEAST_ROWS, room - len(ended) - len(refused))
    lines = sections.get("lines")
    model, own = items(lines, "model")[-(left // 2) :], items(lines, "own")[-(left // 2) :]
    return Group(
        heading(text(status, "state"), _headline(status), where),
        *notes,
        _figures(status, width),
        _series(sections.get("minute"), width),
        *_table("Last requests", _ended(ended, width), bool(ended)),
        *_table("Why the last ones were refused", _refused(refused, width), bool(refused)),
        *_lines("Model log", model),
        *_lines("Worker log", own),
    )


def heading(state: str, words: str, where: str) -> Text:
    """The first line of a screen."""
    colour = COLOURS.get(state, "white")
    return Text.assemble(
        ("● ", colour), (words, "bold"), (f"   {where}", "dim"), no_wrap=True, overflow="ellipsis"
    )


def rule(title: str) -> Rule:
    """Between two parts of a screen."""
    return Rule(Text(title, style="bold"), align="left", style="dim")


def table(width: int, *columns: tuple[str, Side]) -> Table:
    """Without lines; each column: its heading, and where its text stands.

    The last one takes what the others leave of the width, and none takes more than a third of it, so that
    a long text cuts nothing but itself.
    """
    made = Table(box=None, padding=(0, 2, 0, 0), header_style="dim", expand=True)
    for name, side in columns[:-1]:
        made.add_column(name, justify=side, no_wrap=True, overflow="ellipsis", max_width=width // 3)
    name, side = columns[-1]
    made.add_column(name, justify=side, no_wrap=True, overflow="ellipsis", ratio=1)
    return made


def _headline(status: object) -> str:
    state = capital(text(status, "state"))
    since = f"for {span(figure(status, 'for_seconds'))}, since {clock(figure(status, 'since'))}"
    return f"{state} {since}"


def _notes(status: object) -> list[Text]:
    """What it waits for, and what is wrong."""
    waits, error = text(status, "waits_for"), text(status, "error")
    problem, failures = text(status, "autoscaler", "problem"), figure(status, "autoscaler", "failures")
    notes: list[Text] = []
    if error:
        notes.append(Text(f"Error: {error}", style="red"))
    if waits and waits != error:
        notes.append(Text(f"Waits for {waits}", style="yellow"))
    if problem:
        notes.append(Text(f"No report was accepted, {number(failures)} times: {problem}", style="yellow"))
    return notes


def _figures(status: object, width: int) -> Table:
    minute = ("last_minute",)
    reported = figure(status, "autoscaler", "last_report_at")
    now = figure(status, "now")
    ago = "none yet" if reported is None or now is None else f"{span(now - reported)} ago"
    shown = [
        ("In hand", _in_hand(status)),
        ("Load", f"{number(figure(status, 'queue', 'load'))} of workload"),
        ("Estimated wait", seconds(figure(status, "queue", "estimated_wait_seconds"))),
        ("Last report", ago),
        ("Requests", f"{number(figure(status, *minute, 'requests_per_second'))} /s"),
        ("Throughput", _throughput(status)),
        ("Latency", _percentiles(status, "latency_seconds")),
        ("First byte", _percentiles(status, "first_byte_seconds")),
    ]
    tokens = figure(status, *minute, "generation_tokens_per_second")
    if tokens:
        shown.append(("Tokens", f"{number(tokens)} /s"))
    idle = figure(status, "cost", "idle_share", "last_minute")
    if idle is not None:
        shown.append(("Idle", f"{idle:.0%} of the last minute"))
    if cost := _cost(status):
        shown.append(("Cost", cost))
    columns = 2 if width >= WIDE else 1
    grid = Table.grid(padding=(0, 3, 0, 0))
    for start in range(0, len(shown), columns):
        cells = [
            cell
            for name, value in shown[start : start + columns]
            for cell in (Text(name, style="dim"), Text(value))
        ]
        grid.add_row(*cells)
    return grid


def _in_hand(status: object) -> str:
    running, waiting = (figure(status, "queue", f"requests_{name}") for name in ("running", "waiting"))
    return f"{number(running)} running, {number(waiting)} waiting"


def _throughput(status: object) -> str:
    measured = figure(status, "benchmark", "throughput")
    done = f"{number(figure(status, 'last_minute', 'workload_per_second'))} /s"
    return f"{done} of {number(measured)} /s measured" if measured else done


def _cost(status: object) -> str:
    """In the last minute if something was done in it, else since the start; empty if no price is known."""
    for period in ("last_minute", "since_start"):
        tokens = figure(status, "cost", period, "dollars_per_million_tokens")
        unit = figure(status, "cost", period, "dollars_per_unit_of_workload")
        if tokens is not None:
            return f"${number(tokens)} per million tokens"
        if unit is not None:
            return f"${number(unit * 1000)} per 1,000 workload"
    return ""


def _percentiles(status: object, name: str) -> str:
    found = pairs(status, "last_minute", name)
    shown = [f"{text(key)} {seconds(figure(value))}" for key, value in found.items()]
    return "  ".join(shown) or "-"


def _series(minute: object, width: int) -> Table:
    """The last minute; each bar is a second."""
    room = max(10, min(60, width - _BESIDE_BARS))
    grid = Table.grid(padding=(0, 3, 0, 0))
    succeeded, failed = figures(minute, "succeeded"), figures(minute, "failed")
    ended = [(good or 0) + (bad or 0) for good, bad in zip(succeeded, failed, strict=False)]
    for name, values, words in (
        ("Requests /s", ended, number),
        ("Workload /s", figures(minute, "workload"), number),
        ("Latency p50", figures(minute, "p50"), seconds),
    ):
        most = max((value for value in values if value is not None), default=None)
        row = (Text(name, style="dim"), Text(bars(values, room).ljust(room), style="blue"))
        grid.add_row(*row, Text(f"most {words(most)}", style="dim"))
    return grid


def _table(title: str, shown: Table, is_any: bool) -> Sequence[RenderableType]:
    return (rule(title), shown) if is_any else ()


def _ended(ended: Sequence[object], width: int) -> Table:
    is_wide = width >= WIDE
    if_wide: tuple[tuple[str, Side], ...] = (
        ("Queue", "right"),
        ("First byte", "right"),
        ("Workload", "right"),
    )
    made = table(
        width,
        ("Ended", "left"),
        ("Status", "right"),
        ("Total", "right"),
        *(if_wide if is_wide else ()),
        ("Route", "left"),
        ("Reason", "left"),
    )
    for one in ended:
        status = figure(one, "status") or 0
        work = figure(one, "work")
        more = (
            seconds(figure(one, "queued")),
            seconds(figure(one, "first_byte")),
            number(figure(one, "workload") if work is None else work),
        )
        made.add_row(
            clock(figure(one, "ended_at")),
            Text(f"{status:.0f}", style="red" if status >= 500 else ""),
            seconds(figure(one, "total")),
            *(more if is_wide else ()),
            Text(text(one, "route")),
            Text(text(one, "reason")),
        )
    return made


def _refused(refused: Sequence[object], width: int) -> Table:
    made = table(
        width,
        ("Last", "left"),
        ("Status", "right"),
        ("Times", "right"),
        ("Route", "left"),
        ("Reason", "left"),
    )
    for one in refused:
        status, count = f"{figure(one, 'status') or 0:.0f}", number(figure(one, "count"))
        made.add_row(
            clock(figure(one, "at")), status, count, Text(text(one, "route")), Text(text(one, "reason"))
        )
    return made


def _lines(title: str, lines: Sequence[object]) -> Sequence[RenderableType]:
    if not lines:
        return ()
    shown = (Text(text(line), no_wrap=True, overflow="ellipsis") for line in lines)
    return (rule(title), *shown)
