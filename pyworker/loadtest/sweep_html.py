"""A sweep as one page: latency and goodput over the load, and the knee."""

from __future__ import annotations

from pyworker.loadtest import charts
from pyworker.loadtest.charts import Series
from pyworker.loadtest.html import Card, Page, Table, Tile, note_cards, number
from pyworker.loadtest.report import duration
from pyworker.loadtest.sweep import SweepResult
from pyworker.loadtest.sweep_report import headline, named, price, shown, stage_head, stage_row, sweep_notes


def sweep_page(result: SweepResult) -> str:
    """The whole document."""
    stages = result.stages
    return Page(
        title=f"Sweep of {result.target}",
        subtitle=f"{result.started_at} · {len(stages)} stages · {', '.join(result.objectives)}",
        tiles=_tiles(result),
        cards=[
            Card("The knee", texts=[headline(result), *([result.shape] if result.shape else [])]),
            *note_cards(sweep_notes(result)),
            *(_charts(result) if stages else []),
            Card("Stages", table=Table(stage_head(result), [stage_row(result, one) for one in stages])),
        ],
    ).html()


def _tiles(result: SweepResult) -> list[Tile]:
    stage = result.knee_stage
    if stage is None:
        return [Tile("none", "load holds", "bad")]
    tiles = [
        Tile(named(result, stage.load), "at the knee", "good"),
        Tile(f"{stage.goodput:.4g}/s", "good responses"),
        Tile(shown(stage.total.p50), "median latency"),
        Tile(shown(stage.total.p99), "p99 latency"),
    ]
    if stage.token_rate:
        tiles.append(Tile(f"{stage.token_rate:.4g}/s", "tokens"))
    if cost := price(stage.cost, by_tokens=bool(stage.token_rate)):
        tiles.append(
            Tile(cost, "for each million tokens" if stage.token_rate else "for each unit of workload")
        )
    return tiles


def _charts(result: SweepResult) -> list[Card]:
    stages = result.stages
    loads = [stage.load for stage in stages]
    latency = [
        Series("p50", "s1", [stage.total.p50 for stage in stages]),
        Series("p90", "s4", [stage.total.p90 for stage in stages]),
        Series("p99", "s2", [stage.total.p99 for stage in stages]),
    ]
    rates = [
        Series("good responses per second", "s1", [stage.goodput for stage in stages]),
        Series("all successful responses per second", "s6", [stage.throughput for stage in stages]),
    ]
    firsts = [stage.first_token for stage in stages]
    token = [
        Series("p50", "s1", [None if times is None else times.p50 for times in firsts]),
        Series("p99", "s2", [None if times is None else times.p99 for times in firsts]),
    ]
    mark = None if result.knee is None else ("knee", result.knee)

    def load_name(load: float) -> str:
        return named(result, load)

    def lines(title: str, series: list[Series], y_format: charts.Format) -> Card:
        plot = charts.lines(loads, series, title, number, y_format, mark=mark, x_title=load_name)
        return Card(title, series=series, svg=plot)

    by = "users" if result.closed else "requests per second"
    found = [
        lines(f"Latency over load ({by})", latency, duration),
        lines(f"Goodput over load ({by})", rates, number),
    ]
    if any(stage.first_token is not None for stage in stages):
        found.append(lines(f"First token over load ({by})", token, duration))
    return found
