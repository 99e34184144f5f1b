"""What is shown while the test runs: a picture on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
from contextlib import ExitStack

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from pyworker.loadtest.measurement import Glimpse
from pyworker.loadtest.plan import Plan
from pyworker.loadtest.record import KINDS
from pyworker.loadtest.report import NOTED_LATENESS, duration

BARS = "▁▂▃▄▅▆▇█"
SHOWN_WORKERS = 8
RATE_SECONDS = 5


class View(ExitStack):
    """A line each second. A context manager, used by the main thread only."""

    pause = 1.0
    """Seconds until `show` is worth calling again."""

    def __init__(self, plan: Plan, *, lines: bool = True) -> None:
        super().__init__()
        self._plan = plan
        self._lines = lines

    def show(self, glimpse: Glimpse) -> None:
        if self._lines:
            self.say(progress_line(glimpse, self._plan))

    def say(self, text: str) -> None:
        say(text)


class Picture(View):
    """The whole state, redrawn several times a second."""

    pause = 0.25

    def __init__(self, plan: Plan, title: str, console: Console) -> None:
        super().__init__(plan)
        self._title = title
        self._said = ""
        self._live = self.enter_context(Live(console=console, auto_refresh=False, transient=True))

    def show(self, glimpse: Glimpse) -> None:
        self._live.update(picture(glimpse, self._plan, self._title, self._said), refresh=True)

    def say(self, text: str) -> None:
        self._said = text


def say(text: str) -> None:
    """Write a line to stdout and flush it."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def view_for(plan: Plan, title: str, *, lines: bool = True) -> View:
    """The live view if there is a terminal that can show it. lines: show the progress even without one."""
    console = Console()
    if console.is_terminal and not console.is_dumb_terminal:
        return Picture(plan, title, console)
    return View(plan, lines=lines)


def progress_line(glimpse: Glimpse, plan: Plan) -> str:
    """One line with the figures that matter most."""
    of = f"/{plan.planned}" if plan.planned is not None else ""
    line = (
        f"{glimpse.seconds:5.0f} s  sent {glimpse.sent}{of}  ok {glimpse.succeeded}  failed {glimpse.failed}"
        f"  in flight {glimpse.in_flight}"
    )
    if glimpse.succeeded:
        line += f"  {_latencies(glimpse, '  ')}"
    return line


def _latencies(glimpse: Glimpse, separator: str) -> str:
    return separator.join(f"p{share:g} {duration(value)}" for share, value in glimpse.latencies.items())


def picture(glimpse: Glimpse, plan: Plan, title: str, said: str) -> Group:
    """What `Picture` draws."""
    parts: list[Table | Text | ProgressBar] = [
        Text(title, style="bold"),
        _progress(glimpse, plan),
        _figures(glimpse, plan),
    ]
    if glimpse.errors:
        parts.append(_errors(glimpse))
    if glimpse.workers:
        parts.append(_workers(glimpse))
    if said:
        parts.append(Text(said, style="yellow"))
    return Group(*parts)


def _progress(glimpse: Glimpse, plan: Plan) -> Table:
    done, total = _done(glimpse, plan)
    row = Table.grid(padding=(0, 1))
    of = f" of {plan.planned}" if plan.planned is not None else ""
    row.add_row(
        ProgressBar(total=total, completed=min(done, total), width=40),
        f"{glimpse.sent}{of} sent in {glimpse.seconds:.0f} s",
    )
    return row


def _done(glimpse: Glimpse, plan: Plan) -> tuple[float, float]:
    """By requests or by time, whichever is further."""
    ends = [(glimpse.seconds, plan.duration)] if plan.duration < float("inf") else []
    if plan.planned is not None:
        ends.append((float(glimpse.sent), float(plan.planned)))
    return max(ends, key=lambda end: end[0] / end[1])


def _figures(glimpse: Glimpse, plan: Plan) -> Table:
    rows: list[tuple[str, str]] = [
        ("sending", f"{glimpse.sent_rate:.1f} per second (wanted: {plan.wanted})"),
        ("responses", f"{recent_rate(glimpse):.1f} good ones per second now"),
        ("in flight", str(glimpse.in_flight)),
        ("succeeded", f"{glimpse.succeeded}   failed {glimpse.failed}"),
    ]
    if glimpse.succeeded:
        rows.append(("latency", _latencies(glimpse, "   ")))
    if glimpse.recent:
        rows.append(("per second", f"{sparkline(glimpse.recent)}  most {max(glimpse.recent)}"))
    if glimpse.late > NOTED_LATENESS:
        rows.append(("generator", f"up to {duration(glimpse.late)} late"))
    grid = Table.grid(padding=(0, 2))
    for name, value in rows:
        grid.add_row(Text(name, style="dim"), Text(value))
    return grid


def _errors(glimpse: Glimpse) -> Table:
    grid = Table.grid(padding=(0, 2))
    for kind, count in sorted(glimpse.errors.items(), key=lambda item: -item[1]):
        grid.add_row(Text(str(count), style="red"), Text(KINDS[kind], style="red"))
    return grid


def _workers(glimpse: Glimpse) -> Table:
    table = Table(box=None, padding=(0, 2), pad_edge=False, header_style="dim")
    table.add_column("worker")
    for name in ("requests", "failed", "p50"):
        table.add_column(name, justify="right")
    busiest = sorted(glimpse.workers.items(), key=lambda item: -item[1][0])
    for url, (requests, failed, median) in busiest[:SHOWN_WORKERS]:
        table.add_row(Text(url), str(requests), str(failed), duration(median))
    if len(busiest) > SHOWN_WORKERS:
        table.add_row(f"… and {len(busiest) - SHOWN_WORKERS} more")
    return table


def recent_rate(glimpse: Glimpse) -> float:
    """Good responses per second over the last seconds."""
    recent = glimpse.recent[-RATE_SECONDS:]
    return sum(recent) / len(recent) if recent else 0.0


def sparkline(values: tuple[int, ...]) -> str:
    """A bar for each value; the highest fills the line."""
    highest = max(values, default=0)
    if highest == 0:
        return BARS[0] * len(values)
    return "".join(BARS[round(value / highest * (len(BARS) - 1))] for value in values)
