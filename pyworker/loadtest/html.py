"""The result as one page that needs nothing else: no script, no font, no picture from elsewhere.

What stands on the page is made here, how it looks in the template `resources/loadtest.html`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import jinja2

from pyworker.loadtest import charts
from pyworker.loadtest.charts import Series
from pyworker.loadtest.compare import EXPLANATION, HEAD, cautions, changes
from pyworker.loadtest.histogram import Histogram
from pyworker.loadtest.report import (
    TIME_HEAD,
    TURN_HEAD,
    WORKER_HEAD,
    duration,
    facts,
    failure_lines,
    notes,
    percent,
    time_rows,
    turn_rows,
    worker_rows,
)
from pyworker.loadtest.result import Result
from pyworker.resources import resource_path

MOST_WORKERS = 6
"""The number of distinct colours; the other workers are summed."""

_STYLES = ("s1", "s2", "s3", "s4", "s5", "s6", "bad")
_TONES = {"better": "good", "worse": "bad", "holds": "good", "fails:": "bad"}


@dataclass(frozen=True)
class Tile:
    """A figure in large print."""

    value: str
    name: str
    style: str = ""


@dataclass(frozen=True)
class Table:
    head: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Card:
    """A part of the page; shows what it has, in this order."""

    title: str = ""
    style: str = ""
    texts: Sequence[str] = ()
    items: Sequence[str] = ()
    table: Table | None = None
    facts: Sequence[tuple[str, str]] = ()
    series: Sequence[Series] = ()
    svg: str = ""
    below: Sequence[str] = ()


@dataclass(frozen=True)
class Page:
    title: str
    subtitle: str
    tiles: Sequence[Tile]
    cards: Sequence[Card]

    def html(self) -> str:
        """The whole document."""
        environment = jinja2.Environment(
            loader=jinja2.FileSystemLoader(resource_path("")),
            autoescape=True,
            undefined=jinja2.StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
            keep_trailing_newline=True,
        )
        environment.filters["tone"] = _tone
        return environment.get_template("loadtest.html").render(page=self, styles=_STYLES).lstrip()


def page(result: Result, old: Result | None = None) -> str:
    """The report of one test, compared with an old one if there is one."""
    return Page(
        title=f"Load test of {result.target}",
        subtitle=f"{result.started_at} · {result.wanted} · {duration(result.seconds)}",
        tiles=_tiles(result),
        cards=[
            *note_cards(notes(result)),
            *([Card("Failures", "fail", items=failure_lines(result))] if result.failures else []),
            *([] if old is None else [_comparison(old, result)]),
            Card("Times", table=Table(TIME_HEAD, time_rows(result))),
            *([Card("By turn", table=Table(TURN_HEAD, turn_rows(result)))] if result.turns else []),
            *_charts(result),
            *_workers(result),
            Card("All figures", facts=facts(result)),
        ],
    ).html()


def note_cards(texts: Iterable[str]) -> list[Card]:
    return [Card(style="note", texts=[text]) for text in texts]


def _tiles(result: Result) -> list[Tile]:
    total = result.times["total"].percentiles
    tiles = [
        Tile(
            percent(1 - result.error_share),
            f"of {result.sent} succeeded",
            "bad" if result.error_share else "good",
        ),
        Tile(f"{result.throughput:.2f}/s", "good responses"),
        Tile(duration(total["p50"]), "median latency"),
        Tile(duration(total["p99"]), "p99 latency"),
    ]
    if result.times["first_token"].count:
        tiles.append(Tile(duration(result.times["first_token"].percentiles["p50"]), "median first token"))
    if result.objective:
        tone = "bad" if result.miss_share else "good"
        tiles.append(Tile(percent(1 - result.miss_share), "met the objective", tone))
    return tiles


def _comparison(old: Result, new: Result) -> Card:
    return Card(
        f"Compared with {old.started_at}",
        table=Table(HEAD, changes(old, new)),
        below=[*cautions(old, new), EXPLANATION],
    )


def _charts(result: Result) -> list[Card]:
    steps = result.steps
    x = [step.at for step in steps]
    middle = [at + result.step / 2 for at in x]
    some = [step.p50 > 0 for step in steps]

    def when_any(values: Iterable[float]) -> list[float | None]:
        return [value if there else None for value, there in zip(values, some, strict=True)]

    latency = [
        Series("p50", "s1", when_any(step.p50 for step in steps)),
        Series("p90", "s4", when_any(step.p90 for step in steps)),
        Series("p99", "s2", when_any(step.p99 for step in steps)),
        Series("largest", "s3", when_any(step.largest for step in steps)),
    ]
    responses = [Series("good responses", "s1", [step.succeeded / result.step for step in steps])]
    if result.failed:
        responses.append(Series("failures", "bad", [step.failed / result.step for step in steps]))
    load = [Series("in flight", "s5", [float(step.in_flight) for step in steps])]
    plot = charts.lines(middle, latency, "latency over time", _seconds, duration)
    found = [Card("Latency, by the moment a request was due", series=latency, svg=plot)]
    if result.succeeded:
        total = result.times["total"]
        marks = [(name, total.percentiles[name]) for name in ("p50", "p90", "p99")]
        bins = list(Histogram.decoded(total.hdr).bins())
        plot = charts.distribution(bins, marks, "distribution of latency", duration)
        found.append(Card("How latency was spread", svg=plot))
    plot = charts.stacked(x, result.step, responses, "responses per second", _seconds, number)
    found.append(Card("Responses per second", series=responses, svg=plot))
    plot = charts.lines(middle, load, "in flight", _seconds, number)
    return [*found, Card("Requests in flight", series=load, svg=plot)]


def _workers(result: Result) -> list[Card]:
    if not result.workers:
        return []
    parts = [Card("Workers", table=Table(WORKER_HEAD, worker_rows(result)))]
    if len(result.workers) > 1:
        series = _by_worker(result)
        x = [step.at for step in result.steps]
        plot = charts.stacked(x, result.step, series, "good responses by worker", _seconds, number)
        parts.append(Card("Good responses per second, by worker", series=series, svg=plot))
    return parts


def _by_worker(result: Result) -> list[Series]:
    order = sorted(range(len(result.workers)), key=lambda place: -result.workers[place].requests)
    shown = order if len(order) <= MOST_WORKERS else order[: MOST_WORKERS - 1]
    groups = [(result.workers[place].url, [place]) for place in shown]
    if rest := order[len(shown) :]:
        groups.append((f"{len(rest)} others", rest))
    return [
        Series(name, style, [sum(step.by_worker[at] for at in places) / result.step for step in result.steps])
        for (name, places), style in zip(groups, _STYLES, strict=False)
    ]


def _tone(cell: str) -> str:
    return _TONES.get(cell.partition(" ")[0], "")


def _seconds(value: float) -> str:
    return f"{value:g} s"


def number(value: float) -> str:
    """Three digits."""
    return f"{value:.3g}"
