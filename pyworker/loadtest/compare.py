"""Two runs side by side, and whether a change is more than noise.

Two tests, both at 1 %: the whole distributions by Mann-Whitney's U, on their histograms; each percentile by
whether the 99 % confidence intervals of the two runs (of order statistics) are apart, the stricter test.
Shares by the two-proportion z-test. All of them take requests to be independent, which those of one busy
spell are not: a change that matters shows again in a second run.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from pyworker.loadtest.histogram import Histogram
from pyworker.loadtest.report import NAMES, duration, percent, table
from pyworker.loadtest.result import Result

COMPARED = ("total", "first_byte", "first_token", "gap")
COMPARED_PERCENTS = (50.0, 90.0, 99.0)
LEVEL = 0.01
Z = 2.5758
"""The normal deviate of LEVEL, two-sided."""

EXPLANATION = (
    "Noise: percentiles differ if their 99 % confidence intervals are apart, distributions by "
    "Mann-Whitney's U, shares by a two-proportion z-test, each at 1 %, taking requests as independent."
)


class Change(NamedTuple):
    """One figure of both runs as text; `verdict` says whether the difference is more than noise."""

    name: str
    old: str
    new: str
    change: str
    verdict: str


HEAD = ("", "before", "now", "change", "")


def changes(old: Result, new: Result) -> list[Change]:
    """Everything that is worth comparing."""
    rows = [
        _share("failed", old.sent - old.succeeded, old.sent, new.sent - new.succeeded, new.sent),
        _plain("throughput", old.throughput, new.throughput),
    ]
    if old.objective == new.objective and new.objective:
        rows.append(_share("met the objective", old.met, old.sent, new.met, new.sent))
        rows.append(_plain("goodput", old.goodput, new.goodput))
    for name in COMPARED:
        if old.times[name].count and new.times[name].count:
            rows += _times(
                NAMES[name], Histogram.decoded(old.times[name].hdr), Histogram.decoded(new.times[name].hdr)
            )
    return rows


def text_comparison(old: Result, new: Result) -> str:
    """The table, and what it rests on."""
    lines = table(HEAD, changes(old, new))
    return "\n".join([f"compared with the test of {old.started_at}", lines, *cautions(old, new), EXPLANATION])


def cautions(old: Result, new: Result) -> list[str]:
    """Differences between what the two runs were asked for."""
    found: list[str] = []
    if old.wanted != new.wanted:
        found.append(f"Note: the load was another one: {old.wanted} before, {new.wanted} now.")
    if old.shape != new.shape or old.tokens_by != new.tokens_by:
        before, now = (_shape(one) for one in (old, new))
        found.append(f"Note: the lengths were others: {before} before; {now} now.")
    if old.target != new.target:
        found.append(f"Note: the target was another one: {old.target} before, {new.target} now.")
    return found


def _shape(result: Result) -> str:
    by = f", tokens by {result.tokens_by}" if result.tokens_by else ""
    return f"{result.shape}{by}" if result.shape else "as the payloads came"


def _times(name: str, old: Histogram, new: Histogram) -> list[Change]:
    rows: list[Change] = []
    for wanted in COMPARED_PERCENTS:
        before, now = old.percentile(wanted), new.percentile(wanted)
        low, high = interval(old, wanted)
        new_low, new_high = interval(new, wanted)
        verdict = _verdict(new_low > high or new_high < low, now < before)
        title, change = f"{name} p{wanted:g}", _relative(before, now)
        rows.append(Change(title, duration(before), duration(now), change, verdict))
    p = mann_whitney(old, new)
    longer = _u(old, new)[0] > old.count * new.count / 2  # the mean rank is higher
    verdict = _verdict(p < LEVEL, not longer)
    rows.append(
        Change(f"{name}, all of it", "", "", "longer" if longer else "shorter", f"{verdict} (p {_p(p)})")
    )
    return rows


def interval(histogram: Histogram, wanted: float) -> tuple[float, float]:
    """The 99 % confidence interval of a percentile: what stands at the ranks that the binomial allows."""
    share, count = wanted / 100, histogram.count
    spread = Z * math.sqrt(count * share * (1 - share))
    first, last = count * share - spread, count * share + spread
    # Without a rank, there are too few values to say anything on that side.
    low = histogram.percentile(100 * first / count) if first >= 1 else 0.0
    high = histogram.percentile(100 * last / count) if last <= count else math.inf
    return low, high


def mann_whitney(first: Histogram, second: Histogram) -> float:
    """The two-sided p of the U test, by the normal approximation with correction for ties."""
    u, ties = _u(first, second)
    m, n = first.count, second.count
    total = m + n
    variance = m * n / 12 * (total + 1 - ties / (total * (total - 1))) if total > 1 else 0.0
    if variance <= 0:
        return 1.0
    distance = max(0.0, abs(u - m * n / 2) - 0.5)
    return math.erfc(distance / math.sqrt(2 * variance))


def _u(first: Histogram, second: Histogram) -> tuple[float, float]:
    """How many pairs have the greater value in `second` (a tie is half of one), and the sum of t³ - t."""
    bins: dict[float, list[int]] = {}
    for place, histogram in enumerate((first, second)):
        for value, count in histogram.bins():
            bins.setdefault(value, [0, 0])[place] += count
    below = 0
    u = ties = 0.0
    for value in sorted(bins):
        a, b = bins[value]
        u += b * (below + a / 2)
        ties += (a + b) ** 3 - (a + b)
        below += a
    return u, ties


def _share(name: str, old: int, old_of: int, new: int, new_of: int) -> Change:
    if not (old_of and new_of):
        return Change(name, "-", "-", "", "")
    before, now = old / old_of, new / new_of
    pooled = (old + new) / (old_of + new_of)
    error = math.sqrt(pooled * (1 - pooled) * (1 / old_of + 1 / new_of))
    differs = error > 0 and abs(now - before) / error > Z
    better = now < before if name == "failed" else now > before
    return Change(
        name, percent(before), percent(now), f"{(now - before) * 100:+.1f} points", _verdict(differs, better)
    )


def _plain(name: str, old: float, new: float) -> Change:
    return Change(name, f"{old:.2f}/s", f"{new:.2f}/s", _relative(old, new), "")


def _relative(old: float, new: float) -> str:
    return f"{(new / old - 1):+.1%}" if old else "-"


def _verdict(differs: bool, better: bool) -> str:
    if not differs:
        return "within noise"
    return "better" if better else "worse"


def _p(p: float) -> str:
    return "< 0.001" if p < 0.001 else f"= {p:.3f}"
