"""On which processor a busy worker stays, what that is chosen from, and what threads and programs get."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from pyworker.black_box.folder import NAME
from pyworker.runtime.affinity import Choice, Usage, processor_times
from tests.support.process import ROOT
from tests.support.stack import NewStack
from tests.support.waiting import wait_until


def usage(own: float, programs: dict[int, float], idle: dict[int, float] | None = None) -> Usage:
    rest = {one: max(1.0 - share, 0.0) for one, share in programs.items()}
    return Usage(own, programs, rest if idle is None else idle)


def chosen(*usages: Usage, every: float = 0.5) -> list[int | None]:
    """What is chosen after each of them."""
    choice = Choice({0, 1})
    found: list[int | None] = []
    for number, one in enumerate(usages):
        choice.decide(one, 100 + number * every)
        found.append(choice.processor)
    return found


def test_a_busy_worker_stays_where_most_is_free() -> None:
    assert chosen(usage(0.5, {0: 0.6, 1: 0.2})) == [1]
    assert chosen(usage(0.5, {0: 0.1, 1: 0.4}, {0: 0.2, 1: 0.5})) == [1], "the kernel's time counts as well"


def test_an_idle_one_goes_anywhere() -> None:
    assert chosen(usage(0.02, {0: 0.0, 1: 0.1})) == [None]
    busy, less, idle = (usage(own, {0: own, 1: 0.8}) for own in (0.5, 0.07, 0.02))
    assert chosen(busy, less, idle, idle, less, idle, every=25) == [0, 0, 0, 0, 0, 0]
    assert chosen(busy, idle, idle, less, every=31) == [0, 0, None, None]
    choice = Choice({0, 1})
    assert [choice.is_asked(own) for own in (0.02, 0.5)] == [False, True]
    choice.decide(busy, 0.0)
    assert choice.is_asked(0.02)


def test_others_do_not_disturb_an_idle_one() -> None:
    busy, idle, crowded = (
        usage(0.5, {0: 0.5, 1: 0.8}),
        usage(0.02, {0: 0.9, 1: 0.1}),
        usage(0.5, {0: 1.0, 1: 0.1}),
    )
    assert chosen(busy, idle, idle, idle, busy) == [0] * 5
    assert chosen(busy, crowded, idle, crowded) == [0, 0, 0, None]


def test_one_that_computes_on_several_keeps_them() -> None:
    assert chosen(usage(1.6, {0: 0.8, 1: 0.8})) == [None]


def test_there_has_to_be_room_for_the_others() -> None:
    """On two processors: what they use fits on the other one."""
    assert chosen(usage(0.6, {0: 0.9, 1: 0.9})) == [None]
    assert chosen(usage(0.6, {0: 0.7, 1: 0.6})) == [1]


def test_it_leaves_a_processor_that_others_use() -> None:
    free, crowded = usage(0.5, {0: 0.5, 1: 0.2}), usage(0.5, {0: 0.9, 1: 0.3})
    alone = usage(0.5, {0: 0.5, 1: 0.7})
    assert chosen(alone, crowded, alone, crowded, crowded) == [0, 0, 0, 0, None]
    assert chosen(free, free) == [1, 1]


def test_it_tries_again_after_a_pause_that_grows() -> None:
    choice = Choice({0, 1})
    moments: list[float] = []
    last = None
    for number in range(1200):
        at = number * 0.5
        here = 0 if choice.processor is None else choice.processor
        choice.decide(usage(0.5, {here: 0.9, 1 - here: 0.0}), at)
        if last is None and choice.processor is not None:
            moments.append(at)
        last = choice.processor
    pauses = [later - earlier for earlier, later in pairwise(moments)]
    assert pauses == sorted(pauses)
    assert pauses[0] < 10
    assert 256 <= pauses[-1] <= 310
    # After a long time without trouble the pause is short again.
    choice.decide(usage(0.5, {0: 0.5, 1: 0.0}), 10_000)
    for at in (11_000, 11_000.5):
        assert choice.processor is not None
        choice.decide(usage(0.5, {choice.processor: 0.9, 1 - choice.processor: 0.0}), at)
    assert choice.processor is None
    choice.decide(usage(0.5, {0: 0.5, 1: 0.0}), 11_003)
    assert choice.processor is not None


def test_the_times_of_this_machine() -> None:
    times = processor_times()
    assert times.keys() >= os.sched_getaffinity(0)
    assert sum(one.programs for one in times.values()) > 0
    assert sum(one.idle for one in times.values()) > 0


def test_the_times_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "stat"
    path.write_text(
        "cpu  9 9 9 9 9 9 9 0 0 0\ncpu0 100 20 30 400 50 6 7 8 0 0\ncpu12 1 1 1 1 1\nintr 7 cpu3\n"
    )
    second = os.sysconf("SC_CLK_TCK")
    found = {
        one: (round(at.programs * second), round(at.idle * second))
        for one, at in processor_times(path).items()
    }
    assert found == {0: (150, 450), 12: (3, 2)}


# A process whose use of the processors is told.
PROCESS = """
import json, os, subprocess, sys, threading
from pathlib import Path
from pyworker.runtime.affinity import Affinity

stat, allowed = Path(sys.argv[1]), sorted(os.sched_getaffinity(0))
second = os.sysconf("SC_CLK_TCK")
done = threading.Event()
now = own = others = 0.0
serving = True

def new():
    return Affinity(lambda: serving, stat, lambda: own, lambda: now)

affinity = new()

def step(others_here=0.0):
    # Half a second, in which half of the first processor is used by this process. Only that one is ever idle.
    global now, own, others
    now, own, others = now + 0.5, own + 0.25, others + 0.5 * others_here
    here = f"cpu{allowed[0]} {int((own + others) * second)} 0 0 {int(now * second)} 0\\n"
    stat.write_text("cpu 0 0 0 0 0\\n" + here + "".join(f"cpu{one} 0 0 0 0 0\\n" for one in allowed[1:]))
    return affinity.step()

def threads():
    return sorted({tuple(sorted(os.sched_getaffinity(int(one)))) for one in os.listdir("/proc/self/task")})

def program():
    code = "import os; print(sorted(os.sched_getaffinity(0)))"
    return json.loads(subprocess.check_output([sys.executable, "-c", code]))

def thread():
    other = threading.Thread(target=done.wait)
    other.start()

told = {"allowed": allowed}
thread()
told["pauses"] = [step(), step()]
told["bound"] = threads()
thread()
told["later"] = threads()
told["program"] = program()
step()
told["again"] = threads()
step(others_here=0.8)
step(others_here=0.8)
told["crowded"] = threads()
EXTRA
done.set()
print(json.dumps(told))
"""
CLOSED = """
affinity = new()
step(), step()
told["before"] = threads()
affinity.close()
told["closed"] = threads()
"""
BROKEN = """
affinity = new()
step(), step()
told["before"] = threads()
stat.write_text("cpu0 x y z\\n")
told["pause"] = affinity.step()
told["closed"] = threads()
"""
LOADING = """
affinity = new()
step(), step()
told["before"] = threads()
serving = False
step()
told["closed"] = threads()
step(), step()
told["still"] = threads()
serving = True
step(), step()
told["after"] = threads()
"""


def run(tmp_path: Path, extra: str = "") -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-c", PROCESS.replace("EXTRA", extra), str(tmp_path / "stat")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


several = pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two processors")


@several
def test_every_thread_stays_and_a_program_does_not(tmp_path: Path) -> None:
    told = run(tmp_path)
    here, anywhere = told["allowed"][:1], told["allowed"]
    assert told["pauses"] == [0.1, 0.5]
    assert told["bound"] == told["later"] == told["again"] == [here]
    assert told["program"] == anywhere
    assert told["crowded"] == [anywhere]


@several
def test_while_the_model_loads_it_goes_anywhere(tmp_path: Path) -> None:
    told = run(tmp_path, LOADING)
    here, anywhere = [told["allowed"][:1]], [told["allowed"]]
    assert [told[name] for name in ("before", "closed", "still", "after")] == [here, anywhere, anywhere, here]


@several
@pytest.mark.parametrize("extra", [CLOSED, BROKEN], ids=["closed", "broken"])
def test_at_the_end_every_thread_goes_anywhere(tmp_path: Path, extra: str) -> None:
    """The end of the worker, or of what can be known of the processors."""
    told = run(tmp_path, extra)
    assert told["before"] == [told["allowed"][:1]]
    assert told["closed"] == [told["allowed"]]
    assert told.get("pause") is None


@pytest.mark.parametrize(("value", "has"), [("auto", True), ("none", False)])
def test_a_worker_keeps_to_one_unless_it_is_told_not_to(new_stack: NewStack, value: str, has: bool) -> None:
    stack = new_stack({"CPU_AFFINITY": value})
    stack.start_ready()
    file = stack.folder / NAME / "now.json"
    wait_until(file.exists, "the list of its threads")
    names = {one["name"] for one in json.loads(file.read_text("utf-8"))["threads"]}
    assert "MainThread" in names
    assert ("pyworker-affinity" in names) is has
