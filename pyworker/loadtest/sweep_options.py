"""The options of a sweep."""

from __future__ import annotations

import argparse

from pyworker.loadtest.argument_types import seconds, share, steps
from pyworker.loadtest.engine import MAX_THREADS
from pyworker.loadtest.goal import Goal
from pyworker.loadtest.objective import Objective
from pyworker.loadtest.search import Steps
from pyworker.loadtest.sweep import SweepPlan

STAGE_SECONDS = 30.0
WARM_UP, COOL_DOWN = 0.2, 0.1
"""Of the measured time of a stage."""
PRECISION = 0.05
MOST_ERRORS = 0.01


def add_sweep(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group(
        "sweep", "raise the load until it is too much, and find the highest at which the objective holds"
    )
    group.add_argument(
        "--sweep",
        action="store_true",
        help="raise the rate from -rps, or the number of users from --concurrency; --duration is that of "
        f"each stage (default: {STAGE_SECONDS:g})",
    )
    group.add_argument(
        "--stages",
        type=steps,
        metavar="STEPS",
        help="loads to try: 1,2,5,10 (no others), or [FROM:[TO:]]xFACTOR or [FROM:[TO:]]+STEP, such as "
        "4:x1.5 or 1:50:+5 (default: x2)",
    )
    group.add_argument(
        "--precision",
        type=share,
        metavar="SHARE",
        help="how near the best stage has to come to the worst (default: 5%%)",
    )
    group.add_argument(
        "--warm-up", type=seconds, metavar="SECONDS", help="not measured at the begin of each stage"
    )
    group.add_argument(
        "--cool-down",
        type=seconds,
        metavar="SECONDS",
        help="not measured at its end, while the last measured requests are in flight (default of both: a "
        "fifth and a tenth of the stage)",
    )


def sweep_from(
    parser: argparse.ArgumentParser, options: argparse.Namespace, asked: tuple[Goal, ...], pause: float = 0.0
) -> SweepPlan | None:
    """None without --sweep; ends the program if options contradict each other.

    pause: mean seconds that a user thinks between two requests.
    """
    if not options.sweep:
        for name in ("stages", "precision", "warm_up", "cool_down"):
            if getattr(options, name) is not None:
                parser.error(f"--{name.replace('_', '-')} is for --sweep")
        return None
    for name, option in (
        ("n", "-n"),
        ("ramp", "--ramp"),
        ("max_errors", "--max-errors"),
        ("compare", "--compare"),
    ):
        if getattr(options, name) is not None:
            parser.error(f"--sweep has stages of its own: leave out {option}")
    closed = options.concurrency is not None
    plan: Steps = options.stages or Steps(factor=2.0)
    if closed:
        if any(load != round(load) or load > MAX_THREADS for load in (*plan.listed, plan.first or 1.0)):
            parser.error(f"--stages of --concurrency are whole numbers up to {MAX_THREADS}")
        plan = Steps(plan.listed, plan.first, plan.factor, plan.step, min(plan.last, float(MAX_THREADS)))
    length = options.duration or STAGE_SECONDS
    return SweepPlan(
        closed=closed,
        steps=plan,
        first=float(options.concurrency if closed else options.rps or 1.0),
        precision=PRECISION if options.precision is None else options.precision,
        seconds=length,
        warm_up=length * WARM_UP if options.warm_up is None else options.warm_up,
        cool_down=length * COOL_DOWN if options.cool_down is None else options.cool_down,
        goals=_goals(options, asked),
        pause=pause,
        asked=bool(options.slo.limits) or any(goal.limits.limits for goal in asked),
    )


def _goals(options: argparse.Namespace, asked: tuple[Goal, ...]) -> tuple[Goal, ...]:
    """What was asked for, and what --slo and --max-error-rate say if that does not."""
    rate = MOST_ERRORS if options.max_error_rate is None else options.max_error_rate
    goals = list(asked)
    if options.slo.limits and not any(goal.limits == options.slo for goal in asked):
        goals.append(Goal(f"goodput={1 - rate:.4g}", rate, options.slo))
    if not any(not goal.limits.limits for goal in asked):
        goals.append(Goal(f"errors={rate:.4g}", rate, Objective({})))
    return tuple(goals)
