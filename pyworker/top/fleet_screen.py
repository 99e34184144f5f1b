"""A fleet as a screen of text."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from pyworker.top.fields import figure, items, pairs, text
from pyworker.top.words import capital, number, span
from pyworker.top.worker_screen import COLOURS, WIDE, Side, heading, rule, table

# Lines of the screen beside the workers.
_FIXED = 6
_COLUMNS: tuple[tuple[str, Side], ...] = (
    ("State", "left"),
    ("Worker", "left"),
    ("Load", "right"),
    ("In hand", "right"),
)
_IF_WIDE: tuple[tuple[str, Side], ...] = (("Speed", "right"), ("Report", "right"), ("URL", "left"))


def fleet_screen(
    sections: Mapping[str, object], where: str, width: int, height: int | None
) -> RenderableType:
    """What fits; height: lines of the terminal, None for any number."""
    fleet = sections.get("fleet")
    workers = items(fleet, "workers")
    shown = workers if height is None else workers[: max(3, height - _FIXED)]
    states = Counter(text(worker, "state") for worker in workers)
    said = ", ".join(f"{count} {state}" for state, count in sorted(states.items()))
    state = "ready" if states["ready"] else next(iter(states), "")
    more = [Text(f"and {len(workers) - len(shown)} more", style="dim")] if len(shown) < len(workers) else []
    return Group(
        heading(state, f"Fleet: {said or 'no worker has reported yet'}", where),
        Text(_requests(fleet), style="dim"),
        rule("Workers"),
        _workers(shown, width),
        *more,
    )


def _requests(fleet: object) -> str:
    ended = [
        f"{number(figure(count))} {text(name).lower()}" for name, count in pairs(fleet, "finished").items()
    ]
    return f"{number(figure(fleet, 'routed'))} requests routed; ended: {', '.join(ended) or 'none yet'}"


def _workers(workers: Sequence[object], width: int) -> Table:
    is_wide = width >= WIDE
    made = table(width, *_COLUMNS, *(_IF_WIDE if is_wide else ()), ("Error", "left"))
    for worker in workers:
        state, speed = text(worker, "state"), figure(worker, "max_perf")
        if_wide = (
            f"{number(speed)}/s" if speed else "-",
            f"{span(figure(worker, 'seconds_since_report'))} ago",
            Text(text(worker, "url")),
        )
        made.add_row(
            Text.assemble(("● ", COLOURS.get(state, "white")), capital(state)),
            f"{figure(worker, 'id') or 0:.0f}",
            number(figure(worker, "cur_load")),
            number(figure(worker, "num_requests_working")),
            *(if_wide if is_wide else ()),
            Text(text(worker, "error_msg"), style="red"),
        )
    return made
