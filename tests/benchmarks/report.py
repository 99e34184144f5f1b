"""The figures as tables."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version

from tests.benchmarks import scenarios
from tests.benchmarks.figures import KIND, KINDS, MEMORY, Result

_ORDER = ("bare", "nginx", "peer", "other", "ours", "hello", "openai")
#: Over TLS each ratio may be worse by this factor.
_TLS_ALLOWANCE = 1.25
_RIVALS = {"peer": "the peer", "hello": "a worker that only judges"}
_FIRST_TOKEN = "first_token_p50_ms"


@dataclass(frozen=True)
class Target:
    """A bound on the ratio of `server` to `rival`, or with `absolute` on the figure itself.

    relative_to: the scenario whose ratio this one's is divided by.
    """

    scenario: str
    figure: str
    bound: float
    absolute: bool = False
    relative_to: str | None = None
    server: str = "ours"
    rival: str = "peer"

    def over_tls(self) -> Target:
        """The ratio may be worse by this factor than the plain one."""
        bound = 1 / _TLS_ALLOWANCE if KIND[self.figure].more_is_better else _TLS_ALLOWANCE
        return Target(f"{self.scenario}-tls", self.figure, bound, relative_to=self.scenario)

    def value(self, results: Mapping[str, Result]) -> float | None:
        """The measured value; None if it was not measured."""
        result = results.get(self.scenario)
        if result is None:
            return None
        if self.absolute:
            return result.median(self.server, self.figure)
        ratio = result.ratio(self.figure, self.server, self.rival)
        if self.relative_to is None or ratio is None:
            return ratio
        plain = results.get(self.relative_to)
        plain_ratio = None if plain is None else plain.ratio(self.figure)
        return ratio / plain_ratio if plain_ratio else None


PLAIN_TARGETS = (
    Target("requests-64", "cpu_ms_per_request", 0.22),
    Target("requests-64", "requests_per_s", 5.0),
    Target("requests-64", "p99_ms", 0.25),
    Target("requests-256", "p99_ms", 0.25),
    Target("requests-new", "cpu_ms_per_request", 0.35),
    Target("streams-64", "cpu_ms_per_1000_tokens", 0.4),
    Target("streams-256", "cpu_ms_per_1000_tokens", 0.33),
    Target("streams-1000", _FIRST_TOKEN, 20.0, absolute=True),
    Target("streams-1000", "token_p99_ms", 30.0, absolute=True),
    Target("streams-1000", "errors", 0.0, absolute=True),
    Target("mix", "token_p99_ms", 1.0),
    Target("requests-64", MEMORY, 1.2),
    Target("request-10mb", MEMORY, 1.0),
    Target("response-50mb", MEMORY, 0.15),
)
OPENAI_TARGETS = tuple(
    Target(name, "cpu_ms_per_1000_tokens", 1.3, server="openai", rival="hello")
    for name in ("streams-64", "streams-256")
)
TARGETS = (
    *PLAIN_TARGETS,
    *OPENAI_TARGETS,
    *(target.over_tls() for target in PLAIN_TARGETS if not target.absolute),
)


@dataclass(frozen=True)
class Verdict:
    """A target, and what was measured of it."""

    target: Target
    value: float
    reached: bool


def verdicts(results: Sequence[Result]) -> list[Verdict]:
    """Of all targets that were measured."""
    by_name = {result.scenario: result for result in results}
    found: list[Verdict] = []
    for target in TARGETS:
        value = target.value(by_name)
        if value is not None:
            more = KIND[target.figure].more_is_better
            found.append(Verdict(target, value, value >= target.bound if more else value <= target.bound))
    return found


def facts(peer: str | None) -> Mapping[str, str]:
    """The machine, and what was compared."""
    return {
        "cores": str(os.cpu_count()),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "Python": platform.python_version(),
        "gunicorn": version("gunicorn"),
        "flask": version("flask"),
        "requests": version("requests"),
        **({} if peer is None else {"peer": f"vastai {peer}"}),
    }


def figures_table(results: Sequence[Result]) -> Iterator[str]:
    """Every figure of every server, with our ratio to the peer, in Markdown."""
    servers = [name for name in _ORDER if any(name in result.rounds for result in results)]
    titles = {scenario.name: scenario.title for scenario in scenarios.ALL}
    rivals = [name for name in ("peer", "other") if name in servers and "ours" in servers]
    pairs = [("ours", rival) for rival in rivals]
    if {"hello", "openai"} <= set(servers):
        pairs.append(("openai", "hello"))
    ratios = [f"{one} / {other}" for one, other in pairs]
    yield f"| scenario | figure | {' | '.join([*servers, *ratios])} |"
    yield f"|---|---|{'--:|' * (len(servers) + len(ratios))}"
    for result in results:
        for kind in KINDS:
            values = [result.median(server, kind.name) for server in servers]
            if any(values):
                values += [result.ratio(kind.name, one, other) for one, other in pairs]
                cells = " | ".join(_number(value) for value in values)
                yield f"| {titles[result.scenario]} | {kind.title} | {cells} |"


def targets_table(results: Sequence[Result]) -> Iterator[str]:
    """What has to be reached, and what was."""
    titles = {scenario.name: scenario.title for scenario in scenarios.ALL}
    yield "| scenario | figure | to reach | measured | |"
    yield "|---|---|--:|--:|---|"
    for verdict in verdicts(results):
        target = verdict.target
        kind = KIND[target.figure]
        what = (
            kind.title
            if target.absolute
            else f"{kind.title.partition(',')[0]}, ratio to {_RIVALS[target.rival]}"
        )
        what += ", relative to the plain one" if target.relative_to else ""
        sign = "≥" if kind.more_is_better else "≤"
        yield (
            f"| {titles[target.scenario]} | {what} | {sign} {target.bound:.3g} | "
            f"{_number(verdict.value)} | {'reached' if verdict.reached else 'MISSED'} |"
        )


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.2f}" if value < 10 else f"{value:.1f}"
