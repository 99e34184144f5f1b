"""The result as one page that needs nothing else: no script, no font, no picture from elsewhere."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

from pyworker.loadtest import charts
from pyworker.loadtest.charts import Series
from pyworker.loadtest.compare import EXPLANATION, HEAD, cautions, changes
from pyworker.loadtest.histogram import Histogram
from pyworker.loadtest.report import (
    TIME_HEAD,
    WORKER_HEAD,
    duration,
    facts,
    failure_lines,
    notes,
    percent,
    time_rows,
    worker_rows,
)
from pyworker.loadtest.result import Result

MOST_WORKERS = 6
"""The number of distinct colours; the other workers are summed."""

_STYLE = """
:root { color-scheme: light dark; --page: #f6f7f9; --card: #fff; --ink: #1b2430; --soft: #5d6878;
  --rule: #e1e5ea; --s1: #2166c4; --s2: #d97706; --s3: #b4236b; --s4: #12876f; --s5: #7047c9; --s6: #64748b;
  --bad: #c92a2a; --good: #12876f; }
@media (prefers-color-scheme: dark) { :root { --page: #12161c; --card: #1b212a; --ink: #e7ebf0;
  --soft: #9aa6b5; --rule: #303945; --s1: #6aa6f0; --s2: #f0a53d; --s3: #f07ab3; --s4: #43c6a8;
  --s5: #ab8cf2; --s6: #94a3b8; --bad: #ff7b7b; --good: #43c6a8; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink); font: 15px/1.5 system-ui, sans-serif; }
main { max-width: 980px; margin: 0 auto; padding: 28px 20px 48px; }
h1 { font-size: 24px; line-height: 1.25; margin: 0; overflow-wrap: anywhere; }
h2 { font-size: 16px; margin: 0 0 10px; }
.sub, .legend, footer, .facts dt { color: var(--soft); }
.sub { margin: 4px 0 20px; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(130px, 1fr)); gap: 12px; }
.tile, section { background: var(--card); border: 1px solid var(--rule); border-radius: 10px; }
.tile { padding: 12px 14px; }
.tile b { display: block; font-size: 24px; line-height: 1.2; font-weight: 650; }
.tile span { color: var(--soft); font-size: 13px; }
section { padding: 16px 18px; margin-top: 14px; overflow-x: auto; }
.facts { display: grid; grid-template-columns: max-content 1fr; gap: 2px 18px; margin: 0; }
.facts dd { margin: 0; overflow-wrap: anywhere; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: right; padding: 5px 8px; border-top: 1px solid var(--rule); white-space: nowrap; }
th { color: var(--soft); font-weight: 500; border-top: 0; }
th:first-child, td:first-child { text-align: left; }
.note { border-left: 4px solid var(--s2); }
.note p, .fail li { margin: 2px 0; overflow-wrap: anywhere; }
.bad { color: var(--bad); } .good { color: var(--good); }
.legend { display: flex; flex-wrap: wrap; gap: 4px 18px; font-size: 13px; margin: 0 0 6px; padding: 0; }
.legend i { display: inline-block; width: 14px; height: 4px; border-radius: 2px;
  margin-right: 6px; vertical-align: middle; }
svg { display: block; width: 100%; height: auto; }
svg text { fill: var(--soft); font: 12px system-ui, sans-serif; font-variant-numeric: tabular-nums; }
svg .end { text-anchor: end; } svg .middle { text-anchor: middle; } svg .strong { fill: var(--ink); }
svg .grid { stroke: var(--rule); } svg .mark { stroke: var(--ink); stroke-dasharray: 3 3; opacity: .6; }
svg .line { fill: none; stroke-width: 1.8; stroke-linejoin: round; }
svg .hover { fill: transparent; } svg .hover:hover { fill: var(--ink); opacity: .08; }
footer { margin-top: 20px; font-size: 13px; }
@media print { :root { --page: #fff; --card: #fff; --ink: #000; --soft: #444; --rule: #ccc;
  --s1: #2166c4;  --s2: #d97706; --s3: #b4236b; --s4: #12876f; --s5: #7047c9; --s6: #64748b;
  --bad: #c92a2a; --good: #12876f; }
  body { font-size: 12px; } main { max-width: none; padding: 0; }
  section, .tile { break-inside: avoid; } h2 { break-after: avoid; }
  * { print-color-adjust: exact; -webkit-print-color-adjust: exact; } }
"""
_STYLES = ("s1", "s2", "s3", "s4", "s5", "s6", "bad")


def page(result: Result, old: Result | None = None) -> str:
    """The whole document."""
    parts = [
        f"<h1>Load test of {escape(result.target)}</h1>",
        f'<p class="sub">{escape(result.started_at)} · {escape(result.wanted)} · '
        f"{duration(result.seconds)}</p>",
        _tiles(result),
        *(_card("", f"<p>{escape(note)}</p>", "note") for note in notes(result)),
        *_failures(result),
        *([] if old is None else [_comparison(old, result)]),
        _times(result),
        *_charts(result),
        *_workers(result),
        _card("All figures", _facts(result)),
        "<footer>Latency counts from the moment a request was due. Made by pyworker.loadtest.</footer>",
    ]
    colours = "\n".join(
        f"svg .{style} {{ fill: var(--{style}); }} "
        f"svg .line.{style} {{ fill: none; stroke: var(--{style}); }} "
        f".legend .{style} {{ background: var(--{style}); }}"
        for style in _STYLES
    )
    body = "\n".join(parts)
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>Load test of {escape(result.target)}</title>\n<style>{_STYLE + colours}</style>\n</head>\n"
        f"<body>\n<main>\n{body}\n</main>\n</body>\n</html>\n"
    )


def _tiles(result: Result) -> str:
    total = result.times["total"].percentiles
    tone = "bad" if result.error_share else "good"
    tiles = [
        (percent(1 - result.error_share), f"of {result.sent} succeeded", tone),
        (f"{result.throughput:.2f}/s", "good responses", ""),
        (duration(total["p50"]), "median latency", ""),
        (duration(total["p99"]), "p99 latency", ""),
    ]
    if result.times["first_token"].count:
        tiles.append((duration(result.times["first_token"].percentiles["p50"]), "median first token", ""))
    if result.objective:
        tone = "bad" if result.miss_share else "good"
        tiles.append((percent(1 - result.miss_share), "met the objective", tone))
    inside = "".join(
        f'<div class="tile"><b class="{style}">{escape(value)}</b><span>{escape(name)}</span></div>'
        for value, name, style in tiles
    )
    return f'<div class="tiles">{inside}</div>'


def _times(result: Result) -> str:
    return _card("Times", _table(TIME_HEAD, time_rows(result)))


def _failures(result: Result) -> list[str]:
    if not result.failures:
        return []
    items = "".join(f"<li>{escape(line)}</li>" for line in failure_lines(result))
    return [_card("Failures", f"<ul>{items}</ul>", "fail")]


def _comparison(old: Result, new: Result) -> str:
    texts = "".join(f"<p>{escape(text)}</p>" for text in [*cautions(old, new), EXPLANATION])
    return _card(
        f"Compared with {old.started_at}", _table(HEAD, changes(old, new)) + f'<div class="sub">{texts}</div>'
    )


def _charts(result: Result) -> list[str]:
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
    found = [_chart("Latency, by the moment a request was due", latency, plot)]
    if result.succeeded:
        total = result.times["total"]
        marks = [(name, total.percentiles[name]) for name in ("p50", "p90", "p99")]
        bins = list(Histogram.decoded(total.hdr).bins())
        plot = charts.distribution(bins, marks, "distribution of latency", duration)
        found.append(_card("How latency was spread", plot))
    plot = charts.stacked(x, result.step, responses, "responses per second", _seconds, _number)
    found.append(_chart("Responses per second", responses, plot))
    plot = charts.lines(middle, load, "in flight", _seconds, _number)
    return [*found, _chart("Requests in flight", load, plot)]


def _workers(result: Result) -> list[str]:
    if not result.workers:
        return []
    parts = [_card("Workers", _table(WORKER_HEAD, worker_rows(result)))]
    if len(result.workers) > 1:
        series = _by_worker(result)
        x = [step.at for step in result.steps]
        plot = charts.stacked(x, result.step, series, "good responses by worker", _seconds, _number)
        parts.append(_chart("Good responses per second, by worker", series, plot))
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


def _facts(result: Result) -> str:
    rows = "".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in facts(result))
    return f'<dl class="facts">{rows}</dl>'


def _chart(title: str, series: Sequence[Series], plot: str) -> str:
    legend = "".join(f'<span><i class="{one.style}"></i>{escape(one.name)}</span>' for one in series)
    return _card(title, (f'<p class="legend">{legend}</p>' if len(series) > 1 else "") + plot)


def _card(title: str, inside: str, style: str = "") -> str:
    heading = f"<h2>{escape(title)}</h2>" if title else ""
    return f'<section class="{style}">{heading}{inside}</section>'


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    top = "".join(f"<th>{escape(cell)}</th>" for cell in head)
    body = "".join(
        "<tr>" + "".join(f'<td class="{_tone(cell)}">{escape(cell)}</td>' for cell in row) + "</tr>"
        for row in rows
    )
    return f"<table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>"


def _tone(cell: str) -> str:
    return {"better": "good", "worse": "bad"}.get(cell.partition(" ")[0], "")


def _seconds(value: float) -> str:
    return f"{value:g} s"


def _number(value: float) -> str:
    return f"{value:.3g}"
