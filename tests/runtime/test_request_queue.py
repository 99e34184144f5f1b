"""First come, first served, and a slot that is never lost."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyworker.runtime.request_queue import MOST_OVERTAKES, Priority, RequestQueue, Slot, Unlimited

DEADLINE = 20  # seconds; only a failing test waits that long


def has_turn(slot: Slot) -> bool:
    return slot.wait(0)


def test_the_first_slots_are_granted_immediately() -> None:
    queue = RequestQueue(3)
    slots = [queue.enter() for _ in range(5)]

    assert [has_turn(slot) for slot in slots] == [True, True, True, False, False]
    assert queue.depth == 2
    assert repr(queue) == "<RequestQueue [3 active, 2 waiting]>"


def test_slots_are_granted_in_order_of_arrival() -> None:
    queue = RequestQueue()
    slots = [queue.enter() for _ in range(10)]

    for position, slot in enumerate(slots):
        assert [has_turn(later) for later in slots[position:]] == [True] + [False] * (9 - position)
        slot.release()

    assert repr(queue) == "<RequestQueue [0 active, 0 waiting]>"


def test_a_higher_priority_is_granted_first_and_each_in_order_of_arrival() -> None:
    queue = RequestQueue()
    working = queue.enter()
    order = [Priority.LOW, Priority.NORMAL, Priority.HIGH, Priority.LOW, Priority.HIGH, Priority.NORMAL]
    slots = [queue.of(priority).enter() for priority in order]
    granted: list[int] = []
    for _ in order:
        working.release()
        [place] = [number for number, slot in enumerate(slots) if has_turn(slot) and number not in granted]
        granted.append(place)
        working = slots[place]
    assert granted == [2, 4, 1, 5, 0, 3]


def test_whoever_waits_is_overtaken_a_bounded_number_of_times() -> None:
    queue = RequestQueue()
    working = queue.enter()
    patient = [queue.of(priority).enter() for priority in (Priority.LOW, Priority.NORMAL)]
    impatient = [queue.of(Priority.HIGH).enter() for _ in range(4 * MOST_OVERTAKES)]
    granted: list[Slot] = []
    while len(granted) < len(patient) + len(impatient):
        working.release()
        working = next(slot for slot in [*patient, *impatient] if has_turn(slot) and slot not in granted)
        granted.append(working)
    assert granted.index(patient[1]) == MOST_OVERTAKES, "the higher of the two comes first"
    assert granted.index(patient[0]) == MOST_OVERTAKES + 1


def test_a_slot_that_leaves_the_queue_is_skipped_and_woken() -> None:
    queue = RequestQueue()
    working, given_up, next_one = queue.enter(), queue.enter(), queue.enter()

    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(given_up.wait)
        given_up.release()
        assert waiting.result(DEADLINE) is True

    assert queue.depth == 1
    assert not has_turn(next_one)
    working.release()
    assert has_turn(next_one)


def test_a_release_counts_once() -> None:
    queue = RequestQueue()
    first, second, third = queue.enter(), queue.enter(), queue.enter()

    for _ in range(5):
        first.release()

    assert has_turn(second)
    assert not has_turn(third), "a repeated release must not hand out a second turn"
    third.release()
    third.release()
    second.release()
    assert repr(queue) == "<RequestQueue [0 active, 0 waiting]>"


def test_a_release_counts_once_whichever_threads_call_it() -> None:
    queue = RequestQueue()
    for _ in range(100):
        slots = [queue.enter() for _ in range(4)]
        barrier = threading.Barrier(8)

        def race(barrier: threading.Barrier = barrier, slot: Slot = slots[0]) -> None:
            barrier.wait(DEADLINE)
            slot.release()

        run_threads([race] * 8)
        assert [has_turn(slot) for slot in slots] == [True, True, False, False]
        for slot in slots:
            slot.release()
        assert repr(queue) == "<RequestQueue [0 active, 0 waiting]>"


def test_a_wait_may_be_bounded() -> None:
    queue = RequestQueue()
    queue.enter()

    assert queue.enter().wait(0.001) is False


@pytest.mark.parametrize("concurrency", [0, -1])
def test_a_queue_without_slots_is_refused(concurrency: int) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        RequestQueue(concurrency)


def test_unlimited_admits_every_request() -> None:
    unlimited = Unlimited()
    slots = [unlimited.enter() for _ in range(100)]

    assert all(has_turn(slot) for slot in slots)
    for slot in slots:
        slot.release()
        slot.release()


def test_threads_work_in_the_order_in_which_they_came() -> None:
    queue = RequestQueue()
    gate = queue.enter()
    order: list[int] = []
    entered = [threading.Event() for _ in range(20)]

    def work(number: int) -> None:
        if number:
            assert entered[number - 1].wait(DEADLINE)
        slot = queue.enter()
        entered[number].set()
        assert slot.wait(DEADLINE)
        order.append(number)
        slot.release()

    with ThreadPoolExecutor(20) as pool:
        futures = [pool.submit(work, number) for number in reversed(range(20))]
        assert entered[-1].wait(DEADLINE)
        assert order == []
        assert queue.depth == 20
        gate.release()
        for future in futures:
            future.result(DEADLINE)

    assert order == list(range(20))
    assert queue.depth == 0


def test_never_more_than_the_concurrency_at_once() -> None:
    queue = RequestQueue(3)
    lock = threading.Lock()
    inside = 0
    peaks: list[int] = []
    full = threading.Barrier(3)

    def work() -> None:
        nonlocal inside
        slot = queue.enter()
        assert slot.wait(DEADLINE)
        with lock:
            inside += 1
            peaks.append(inside)
        full.wait(DEADLINE)  # passes only if three hold a slot together
        with lock:
            inside -= 1
        slot.release()

    run_threads([work] * 24)

    assert max(peaks) == 3
    assert repr(queue) == "<RequestQueue [0 active, 0 waiting]>"


def test_cancels_and_grants_race_without_losing_a_slot() -> None:
    """Half of the threads give up at any moment; every other one gets its slot, and nothing is left."""
    queue = RequestQueue(2)
    served: list[int] = []

    def work(number: int) -> None:
        slot = queue.enter()
        if number % 2:
            slot.release()
        assert slot.wait(DEADLINE)
        if not number % 2:
            served.append(number)
            slot.release()

    with ThreadPoolExecutor(16) as pool:
        for future in [pool.submit(work, number) for number in range(400)]:
            future.result(DEADLINE)

    assert sorted(served) == list(range(0, 400, 2))
    assert repr(queue) == "<RequestQueue [0 active, 0 waiting]>"


@settings(deadline=None)
@given(
    concurrency=st.integers(1, 4),
    steps=st.lists(st.one_of(st.none(), st.integers(0, 30)), max_size=60),
)
def test_any_order_of_enter_and_release_follows_the_model(
    concurrency: int, steps: Sequence[int | None]
) -> None:
    """None enters; a number releases that one of all slots so far, again if it was released before."""
    queue = RequestQueue(concurrency)
    slots: list[Slot] = []
    line: list[int] = []  # slots that are active or wait, in order of arrival

    for step in steps:
        if step is None:
            line.append(len(slots))
            slots.append(queue.enter())
        elif slots:
            number = step % len(slots)
            slots[number].release()
            if number in line:
                line.remove(number)
        active = line[:concurrency]
        # Released slots stay awake; of the others exactly the front of the queue is granted.
        assert [number for number in line if has_turn(slots[number])] == active
        assert queue.depth == len(line) - len(active)
        numbers = re.findall(r"\d+", repr(queue))
        assert [int(number) for number in numbers] == [len(active), len(line) - len(active)]

    for slot in slots:
        slot.release()
    assert all(has_turn(slot) for slot in slots), "nobody may be left waiting"
    assert repr(queue) == "<RequestQueue [0 active, 0 waiting]>"


def run_threads(works: Sequence[Callable[[], None]]) -> None:
    """Each callable on a thread of its own, all at the same time; raises what one of them raised."""
    with ThreadPoolExecutor(len(works)) as pool:
        futures = [pool.submit(work) for work in works]
        for future in futures:
            future.result(DEADLINE)
