"""What a worker's code says: workload, payloads, phrases of the model's log."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from pyworker.backend import Backend
from pyworker.check.finding import Finding
from pyworker.check.subject import RouteUnderTest
from pyworker.data_types import LogAction
from pyworker.errors import JsonDataException, shortened
from pyworker.lifecycle.log_lines import GAP, LogActions
from pyworker.lifecycle.log_tail import LogTailer

_SHOWN = 120


def check_views(routes: Sequence[RouteUnderTest]) -> Iterator[Finding]:
    """Views of the author's own, which are neither signed nor counted."""
    for route in routes:
        if route.handler is None:
            yield Finding(
                "views",
                route.name,
                "this view takes requests without a signature, and nothing of it is counted or queued",
                "decorate it with @backend.counted_view(…), or make it a route",
                is_fault=route.has_body,
            )


def check_workload(route: RouteUnderTest, is_measured: bool) -> Iterator[Finding]:
    """The workload of an example: finite, and above 0 for the route that is measured."""
    if route.handler is None or route.payload is None:
        return
    where = route.name
    advice = "have count_workload return a finite number above 0, in the unit by which the fleet scales"
    try:
        payload = route.handler.payload_cls().from_json_msg(route.payload)
        workload = float(payload.count_workload())
    except JsonDataException:
        return  # that is another check's
    except Exception as error:  # noqa: BLE001  the author's code
        yield Finding("workload", where, f"count_workload raised {type(error).__name__}: {error}", advice)
        return
    if not math.isfinite(workload) or workload < 0:
        yield Finding("workload", where, f"the workload of its example is {workload:g}", advice)
    elif workload == 0:
        problem = "the workload of its example is 0: no throughput can be measured, and nothing is estimated"
        yield Finding("workload", where, problem, advice, is_fault=is_measured)


def check_example(route: RouteUnderTest, is_measured: bool) -> Iterator[Finding]:
    """Whether the route takes what its benchmark sends."""
    if route.handler is None or not route.has_body:
        return
    if route.payload is None:
        yield Finding(
            "example",
            route.name,
            f"there is no example of a request, so that most checks are left out: {route.problem}",
            "write for_test in its payload class, or make_benchmark_payload in its handler",
            is_fault=is_measured or route.is_broken,
        )
        return
    try:
        route.handler.payload_cls().from_json_msg(route.payload)
    except JsonDataException as error:
        faults = "; ".join(f"{name}: {fault}" for name, fault in error.json_msg.items())
        yield Finding(
            "example",
            route.name,
            f"its own payload class refuses what the benchmark or load test sends: {faults}",
            "make the example fit, or the types of the fields",
        )


def check_phrases(backend: Backend, log: Path | None) -> Iterator[Finding]:
    """The phrases among themselves; and against a log of a model that was loaded, if there is one."""
    actions = backend.log_actions
    yield from _contradictions(actions)
    if log is not None:
        yield from _against(actions, log)
    elif backend.health_url is None and any(action is LogAction.ModelLoaded for action, _ in actions):
        yield Finding(
            "phrases",
            "",
            "only a phrase of the log says that the model is loaded, and it was not compared with a log",
            "give a log of your model server: --log FILE",
            is_fault=False,
        )


def _contradictions(actions: LogActions) -> Iterator[Finding]:
    loaded = [phrase for action, phrase in actions if action is LogAction.ModelLoaded]
    for action, phrase in actions:
        if action is not LogAction.ModelError:
            continue
        for other in loaded:
            if all(part in other for part in phrase.split(GAP)):
                yield Finding(
                    "phrases",
                    "",
                    f"{phrase!r} means an error, and is part of {other!r}, which means loaded",
                    "write a longer phrase for the error",
                )


def _against(actions: LogActions, log: Path) -> Iterator[Finding]:
    found: Counter[LogAction] = Counter()
    errors: list[str] = []

    def take(action: LogAction, line: str, _is_old: bool) -> None:
        found[action] += 1
        if action is LogAction.ModelError:
            shown = "".join(sign if sign.isprintable() else "?" for sign in line)
            errors.append(f"line {tailer.line_number}: {shortened(shown, _SHOWN)}")

    tailer = LogTailer(log, actions, take)
    while tailer.tail_once():
        pass
    lines = tailer.finish()
    phrases = [phrase for action, phrase in actions if action is LogAction.ModelLoaded]
    if phrases and not found[LogAction.ModelLoaded]:
        yield Finding(
            "phrases",
            "",
            f"none of {', '.join(map(repr, phrases))} is in the {lines} lines of {log}",
            "copy the phrase from the line that your model server writes once it serves",
        )
    if errors:
        yield Finding(
            "phrases",
            "",
            f"{len(errors)} lines of {log} are taken for errors of the model, first {errors[0]}",
            "write a longer phrase for the error, unless the model has really failed there",
        )
