"""A sweep in words: the knee, and a line for each stage."""

from __future__ import annotations

from pyworker.loadtest.cost import Cost, dollars
from pyworker.loadtest.report import NOTED_LATENESS, duration, percent, table
from pyworker.loadtest.stage import Stage
from pyworker.loadtest.sweep import SweepPlan, SweepResult


def stage_head(result: SweepResult) -> list[str]:
    """The titles of `stage_row`."""
    head = ["users" if result.closed else "rps", "requests", "good/s", "p50", "p99"]
    if _streamed(result):
        head += ["first token p50", "p99", "per token p50", "tokens/s"]
    if _priced(result):
        head.append("$ per M tokens" if _by_tokens(result) else "$ per unit")
    return [*head, ""]


def stage_row(result: SweepResult, stage: Stage) -> list[str]:
    """One stage; the last cell says what failed."""
    row = [f"{stage.load:.4g}", str(stage.requests), f"{stage.goodput:.4g}"]
    row += [shown(stage.total.p50), shown(stage.total.p99)]
    if _streamed(result):
        first, each = stage.first_token, stage.per_token
        row += ["", ""] if first is None else [shown(first.p50), shown(first.p99)]
        row.append("" if each is None else shown(each.p50))
        row.append(f"{stage.token_rate:.4g}")
    if _priced(result):
        row.append(price(stage.cost, by_tokens=_by_tokens(result)))
    return [*row, verdict(stage, is_knee=stage.load == result.knee)]


def verdict(stage: Stage, *, is_knee: bool = False) -> str:
    """Whether the stage holds, or why not."""
    text = "holds" if stage.holds else "fails: " + ", ".join(_miss(stage, name) for name in stage.failing)
    return f"{text} (knee)" if is_knee else text


def _miss(stage: Stage, name: str) -> str:
    share = stage.missed.get(name)
    return name if share is None else f"{name} ({percent(share)} missed it)"


def progress(plan: SweepPlan, stage: Stage, remark: str) -> str:
    """What is said after a stage."""
    line = (
        f"{plan.named(stage.load)}: {stage.goodput:.4g} good responses per second, "
        f"p50 {shown(stage.total.p50)}, p99 {shown(stage.total.p99)}: {verdict(stage)}"
    )
    return f"{line}; {remark}" if remark else line


def headline(result: SweepResult) -> str:
    """The knee in one sentence."""
    stage = result.knee_stage
    if stage is None:
        return "no knee: not even the lowest load holds" if result.stages else "no knee: nothing was measured"
    parts = [
        f"{stage.goodput:.4g} good responses per second",
        f"latency p50 {shown(stage.total.p50)}, p99 {shown(stage.total.p99)}",
    ]
    if stage.first_token is not None:
        parts.append(f"first token p50 {shown(stage.first_token.p50)}, p99 {shown(stage.first_token.p99)}")
    if stage.token_rate:
        parts.append(f"{stage.token_rate:.4g} tokens per second")
    if stage.cost is not None and (each := price(stage.cost, by_tokens=bool(stage.token_rate))):
        parts.append(f"{each} for each {'million tokens' if stage.token_rate else 'unit of workload'}")
    return f"the knee is at {named(result, stage.load)}: {', '.join(parts)}"


def named(result: SweepResult, load: float) -> str:
    return f"{load:g} at a time" if result.closed else f"{load:.4g} rps"


def sweep_notes(result: SweepResult) -> list[str]:
    """What a reader has to know to trust the knee."""
    found: list[str] = []
    if result.interrupted:
        found.append("the sweep was interrupted: the knee may lie higher.")
    elif not result.saturated:
        found.append("no load failed: the knee may lie higher. Let the stages go further.")
    late = [stage.load for stage in result.stages if stage.late > NOTED_LATENESS]
    if late:
        found.append(
            f"the generator itself was late from {named(result, min(late))} on: this machine is too busy, "
            "and the knee may be its own."
        )
    stage = result.knee_stage
    if stage is not None and stage.requests < 100:
        found.append(
            f"the knee rests on {stage.requests} requests: with fewer than 100, a p99 is the slowest one. "
            "Longer stages (--duration) tell more."
        )
    return found


def text_sweep(result: SweepResult) -> str:
    """All of it, for a terminal or a file."""
    rows = [stage_row(result, stage) for stage in result.stages]
    # The last column, which may be long, is not aligned to the right.
    lines = table(stage_head(result)[:-1], [row[:-1] for row in rows]).splitlines()
    verdicts = ["", *(row[-1] for row in rows)]
    stages = "\n".join(f"{a}  {b}".rstrip() for a, b in zip(lines, verdicts, strict=True))
    parts = [stages] if rows else []
    shape = f"shape         {result.shape}\n" if result.shape else ""
    objectives = f"objectives    {', '.join(result.objectives)}"
    parts.append(f"{shape}{objectives}\nresult        {headline(result)}")
    return "\n\n".join([*parts, *(f"Note: {note}" for note in sweep_notes(result))])


def shown(seconds: float | None) -> str:
    """None is the time of a request that failed."""
    return "-" if seconds is None else duration(seconds)


def _streamed(result: SweepResult) -> bool:
    return any(stage.first_token is not None for stage in result.stages)


def _priced(result: SweepResult) -> bool:
    return any(stage.cost is not None for stage in result.stages)


def _by_tokens(result: SweepResult) -> bool:
    return any(stage.token_rate for stage in result.stages)


def price(cost: Cost | None, *, by_tokens: bool) -> str:
    """Of a million tokens, or of a unit of workload; empty if it is not known."""
    each = None if cost is None else cost.per_million_tokens if by_tokens else cost.per_unit_of_workload
    return "" if each is None else dollars(each)
