"""A file, told to a person: what happened, when, what was going on, the likely cause, and what to do."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Sequence

from pyworker.black_box import start_times
from pyworker.black_box.causes import causes
from pyworker.black_box.reader import Part

_GIB = 2**30
_LINES = 10
_FRAMES = 8


def story(box: Part, now: float | None = None) -> Iterator[str]:
    """The lines. now: epoch seconds."""
    now = time.time() if now is None else now
    status = box.part("status_report")
    at, ended_at = box.number("at"), box.number("ended_at")
    yield f"what happened   {box.text('what') or 'not said'}"
    yield f"when            {_moment(ended_at or at, now)}"
    if at and ended_at and ended_at - at >= 1:
        yield f"                what follows was known {ended_at - at:.0f} s before"
    yield from _state(box, status, at)
    yield from _requests(box, at)
    yield from _listed("model's log", box.texts("model_lines"))
    yield from _listed("own log", box.texts("own_lines"))
    yield from _reports(box)
    yield from _machine(box)
    yield from _threads(box)
    yield from _causes(box)


def _causes(box: Part) -> Iterator[str]:
    found = list(causes(box))
    if not found:
        yield "likely cause    none is known from this file"
        yield "what to do      read the worker's log and the model server's; python -m pyworker.doctor"
    for cause, advice in found:
        yield f"likely cause    {cause}"
        yield f"what to do      {advice}"


def _state(box: Part, status: Part, at: float | None) -> Iterator[str]:
    if not status.names():
        return
    yield f"state           {status.text('state')} for {_seconds(status.number('for_seconds'))}"
    if awaited := status.text("waits_for"):
        yield f"waited for      {awaited}"
    start = box.part("start")
    if times := start_times.told(start.part("seconds").numbers(), start.part("last_time").numbers()):
        yield f"the start       {times}"
    for phase in status.parts("phases")[-_LINES:]:
        since, reason = phase.number("since"), phase.text("reason")
        ago = "" if at is None or since is None else f"{_seconds(at - since)} before: "
        yield f"                {ago}{phase.text('state')}{f' ({reason})' if reason else ''}"
    queue = status.part("queue")
    yield (
        f"in hand         {_count(queue.number('requests_running'))} running, "
        f"{_count(queue.number('requests_waiting'))} waiting"
    )


def _requests(box: Part, at: float | None) -> Iterator[str]:
    head = "last requests"
    for record in list(box.parts("requests"))[-_LINES:]:
        ended, reason = record.number("ended_at"), record.text("reason")
        ago = "" if at is None or ended is None else f"{_seconds(at - ended)} before: "
        what = f"{_count(record.number('status'))} {record.text('outcome')} {record.text('route')}"
        name = f"id={record.text('request_id')} {_seconds(record.number('total'))}"
        yield f"{head:<16}{ago}{what} {name}{f': {reason}' if reason else ''}"
        head = ""
    refused = Counter(_count(one.number("status")) for one in box.parts("refused"))
    if refused:
        yield f"refused         {', '.join(f'{count} with {status}' for status, count in refused.items())}"


def _reports(box: Part) -> Iterator[str]:
    reports = box.parts("reports")
    if reports:
        problem = reports[-1].text("problem")
        bad = sum(bool(one.text("problem")) for one in reports)
        last = f"the last one was not accepted: {problem}" if problem else "the last one was accepted"
        yield f"reports         {last}; {bad} of the last {len(reports)} failed"


def _machine(box: Part) -> Iterator[str]:
    memory = box.part("memory").numbers()
    if memory:
        parts = [
            f"{name.replace('_', ' ')} {value / _GIB:.2f} GiB"
            for name, value in memory.items()
            if name != "killed_for_memory"
        ]
        yield f"memory          {', '.join(parts)}"
    disk = box.part("disk")
    for folder in disk.names()[:_LINES]:
        free, total = disk.part(folder).number("free"), disk.part(folder).number("total")
        if free is not None and total is not None:
            yield f"disk            {free / _GIB:.1f} of {total / _GIB:.0f} GiB free at {folder!r}"
    descriptors = box.part("descriptors")
    if (is_open := descriptors.number("open")) is not None:
        yield f"descriptors     {is_open:.0f} open, {_count(descriptors.number('limit'))} allowed"
    yield from _listed("gpu", box.texts("gpu"))


def _threads(box: Part) -> Iterator[str]:
    threads = box.parts("threads")
    main = [one for one in threads if one.text("name") == "MainThread"]
    for thread in main:
        yield from _listed("main thread", thread.texts("stack")[:_FRAMES])
    if others := len(threads) - len(main):
        yield f"threads         {others} more in the file"


def _listed(head: str, lines: Sequence[str]) -> Iterator[str]:
    for line in lines[-_LINES:]:
        yield f"{head:<16}{line}"
        head = ""


def _moment(at: float | None, now: float) -> str:
    if at is None:
        return "not said"
    try:
        return f"{time.strftime('%Y-%m-%d %H:%M:%S UTC', time.gmtime(at))} ({_seconds(now - at)} ago)"
    except (ValueError, OverflowError, OSError):
        return "at a time that makes no sense"


def _seconds(value: float | None) -> str:
    if value is None:
        return "? s"
    if value < 600:
        return f"{value:.1f} s" if value < 10 else f"{value:.0f} s"
    return f"{value / 60:.0f} min" if value < 36_000 else f"{value / 3600:.0f} h"


def _count(value: float | None) -> str:
    return "?" if value is None else f"{value:.0f}"
