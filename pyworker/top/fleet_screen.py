"""A fleet as a screen of text."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from rich.console import Group, RenderableType
from rich.text import Text

from pyworker.top.fields import figure, items, pairs, text
from pyworker.top.words import capital, number, span
from pyworker.top.worker_screen import COLOURS, WIDE, Side, heading, rule, table

_FIXED = 6
_OTHERS: tuple[tuple[str, Side], ...] = (("Speed", "right"), ("Report", "right"), ("URL", "left"))


def fleet_screen(
    sections: Mapping[str, object], where: str, width: int, height: int | None
) -> RenderableType:
    """What fits; height: lines of the terminal, None for any number."""
    fleet = sections.get("fleet")
    workers = items(fleet, "workers")
    states = Counter(text(worker, "state") for worker in workers)
    said = (
        ", ".join(f"{count} {state}" for state, count in sorted(states.items()))
        or "no worker has reported yet"
    )
    finished = pairs(fleet, "finished")
    outcomes = ", ".join(f"{number(figure(count))} {text(name).lower()}" for name, count in finished.items())
    shown = workers if height is None else workers[: max(3, height - _FIXED)]
    parts: list[RenderableType] = [
        heading("ready" if states["ready"] else next(iter(states), ""), f"Fleet: {said}", where),
        Text(
            f"{number(figure(fleet, 'routed'))} requests routed; ended: {outcomes or 'none yet'}", style="dim"
        ),
        rule("Workers"),
    ]
    made = table(
        ("State", "left"), ("Worker", "left"), ("Load", "right"), ("In hand", "right"), ("Speed", "right")
    )
    made.add_column("Report", justify="right", no_wrap=True)
    made.add_column("URL", no_wrap=True, overflow="ellipsis")
    made.add_column("Error", no_wrap=True, overflow="ellipsis")
    for worker in shown:
        state = text(worker, "state")
        speed, silent = figure(worker, "max_perf"), figure(worker, "seconds_since_report")
        others = (
            f"{number(speed)}/s" if speed else "-",
            f"{span(silent)} ago",
            Text(text(worker, "url")),
        )
        made.add_row(
            Text.assemble(("● ", COLOURS.get(state, "white")), capital(state)),
            f"{figure(worker, 'id') or 0:.0f}",
            number(figure(worker, "cur_load")),
            number(figure(worker, "num_requests_working")),
            *(others if width >= WIDE else ()),
            Text(text(worker, "error_msg"), style="red"),
        )
    parts.append(made)
    if len(shown) < len(workers):
        parts.append(Text(f"and {len(workers) - len(shown)} more", style="dim"))
    return Group(*parts)
