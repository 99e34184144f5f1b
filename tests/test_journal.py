"""Finished requests on disk: in order, whole, and there after any kind of end."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyworker import journal
from pyworker.data_types import AuthData
from pyworker.journal import Journal
from pyworker.metrics import Metrics
from pyworker.reports import FinishedRequest, Outcome
from tests.support.process import ROOT
from tests.support.stack import NewStack, Stack
from tests.support.waiting import DEADLINE, wait_until

#: Fills the journal in the file it is given, then dies without a chance to say goodbye.
DYING = """
import os, signal, sys
from pathlib import Path
from pyworker.journal import Journal
from pyworker.reports import FinishedRequest, Outcome

journal = Journal()
journal.append(FinishedRequest.of(Outcome.REJECTED, 1, 1.5, 0.0, 0.0))
journal.open(Path(sys.argv[1]))
for number in range(2, 1001):
    journal.append(FinishedRequest.of(Outcome.SUCCESS, number, 1.5, 2.5, 3.5))
journal.drop(10)
os.kill(os.getpid(), signal.SIGKILL)
"""


def record(number: int, outcome: Outcome = Outcome.SUCCESS) -> FinishedRequest:
    return FinishedRequest.of(outcome, number, 1.5, 2.5, 3.5)


def welcome(_load: float, _in_hand: int) -> None:
    """A check that lets everybody in."""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "unsent"


@pytest.fixture
def opened(file: Path) -> Iterator[Journal]:
    found = Journal()
    found.open(file)
    yield found
    found.close()


@given(
    st.lists(
        st.one_of(
            st.builds(
                FinishedRequest.of,
                st.sampled_from(Outcome),
                st.integers(-(2**63), 2**63 - 1),
                st.floats(0, 1e12),
                st.floats(0, 1e12),
                st.floats(0, 1e12),
            ),
            st.integers(0, 3),
        )
    )
)
def test_it_is_a_queue(steps: list[FinishedRequest | int]) -> None:
    journal, model = Journal(), list[FinishedRequest]()
    for step in steps:
        if isinstance(step, FinishedRequest):
            assert journal.append(step)
            model.append(step)
        else:
            assert journal.oldest(step) == model[:step]
            count = min(step, len(model))
            journal.drop(count)
            del model[:count]
        assert len(journal) == len(model)
    assert journal.oldest(10**9) == model
    journal.close()


def test_it_outlives_its_process(file: Path) -> None:
    died = subprocess.run([sys.executable, "-c", DYING, str(file)], cwd=ROOT, timeout=DEADLINE, check=False)
    assert died.returncode == -9
    assert file.stat().st_mode & 0o777 == 0o600

    heir = Journal()
    heir.append(record(2000))
    assert heir.open(file) == 990
    assert heir.oldest(2) == [record(11), record(12)]
    assert heir.oldest(10**6)[-2:] == [record(1000), record(2000)]
    assert repr(heir) == "<Journal [991 waiting, on disk]>"
    heir.drop(991)
    heir.close()
    assert Journal().open(file) == 0


def test_what_is_left_at_the_end_is_there_at_the_next_start(file: Path, opened: Journal) -> None:
    opened.append(record(1, Outcome.ERROR))
    opened.close()
    again = Journal()
    assert again.open(file) == 1
    assert again.oldest(5) == [record(1, Outcome.ERROR)]
    again.close()


def test_a_damaged_record_is_left_out(file: Path, opened: Journal) -> None:
    for number in range(5):
        opened.append(record(number))
    opened.close()
    with file.open("r+b") as raw:
        raw.seek(24 + 2 * 40 + 3)
        raw.write(b"\xff")
    again = Journal()
    assert again.open(file) == 4
    assert [found.request_idx for found in again.oldest(9)] == [0, 1, 3, 4]
    again.close()


@pytest.mark.parametrize(
    "content", [b"", b"garbage" * 100, b"pyworker" + b"\xff" * 16, b"pyworker" + bytes(16), os.urandom(4096)]
)
def test_a_file_that_makes_no_sense_is_taken_over(file: Path, content: bytes) -> None:
    file.write_bytes(content)
    journal = Journal()
    assert journal.open(file) == 0
    assert journal.append(record(1))
    journal.close()
    assert Journal().open(file) == 1


def test_a_full_journal_refuses_and_says_so(
    file: Path, opened: Journal, caplog: pytest.LogCaptureFixture
) -> None:
    for number in range(journal.CAPACITY):
        opened.append(record(number))
    assert not opened.append(record(-1))
    opened.drop(3)
    for number in range(3):
        assert opened.append(record(number)), "the places of the first three are free"
    assert not opened.append(record(-1))
    assert [found.request_idx for found in opened.oldest(2)] == [3, 4]
    opened.close()

    metrics = Metrics()
    metrics.keep_finished(file)
    assert metrics.unsent == journal.CAPACITY
    auth = AuthData("s", "http://a:1", "e", 1, 0, 7)
    metrics.admit(auth, 1.0, welcome).end(Outcome.SUCCESS)
    metrics.acknowledge_finished(1)
    assert "1 finished requests could not be kept" in caplog.text
    metrics.close()


def test_two_workers_do_not_share_a_file(file: Path, opened: Journal) -> None:
    other = Journal()
    other.append(record(5))
    with pytest.raises(OSError, match="another worker"):
        other.open(file)
    assert other.oldest(5) == [record(5)]
    opened.append(record(6))
    assert opened.oldest(5) == [record(6)]


@pytest.mark.parametrize("fault", ["no folder", "a folder", "a full disk"])
def test_where_the_file_cannot_be_had_memory_must_do(
    tmp_path: Path, fault: str, caplog: pytest.LogCaptureFixture
) -> None:
    file = {"no folder": tmp_path / "none" / "file", "a folder": tmp_path, "a full disk": tmp_path / "file"}[
        fault
    ]
    metrics = Metrics()
    if fault == "a full disk":
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, before[1]))
        try:
            metrics.keep_finished(file)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
    else:
        metrics.keep_finished(file)
    assert "a crash would lose them" in caplog.text
    assert str(file) in caplog.text
    auth = AuthData("s", "http://a:1", "e", 1, 0, 7)
    metrics.admit(auth, 1.0, welcome).end(Outcome.SUCCESS)
    assert metrics.unsent == 1
    metrics.close()


# -- a worker --------------------------------------------------------------------------------------------


def serve_some(stack: Stack) -> list[int]:
    """Ten requests, of which the autoscaler does not learn that they ended."""
    stack.autoscaler.faults.fail_with(500, "/delete_requests/", times=1000)
    before = len(stack.autoscaler.fleet.finished)
    answers = [stack.post("/pass", request_idx=number) for number in range(9001, 9011)]
    assert [answer.status for answer in answers] == [200] * 10
    # A client has its answer a moment before the books say so.
    stack.wait_for_report(lambda _: sum(report["cur_perf"] for report in stack.reports) == 10, "ten served")
    assert len(stack.autoscaler.fleet.finished) == before
    return list(range(9001, 9011))


def test_a_killed_worker_process_comes_back_and_nothing_is_lost(new_stack: NewStack) -> None:
    stack = new_stack()
    stack.start_ready()
    indices = serve_some(stack)
    killed = stack.worker.worker_pid
    seen = len(stack.reports)
    os.kill(killed, 9)
    began = time.monotonic()

    stack.autoscaler.faults.clear()
    for index in indices:
        assert stack.outcome(index) == "Success"
    wait_until(lambda: len(stack.reports) > seen and stack.reports[-1]["max_perf"] > 0, "a report")
    assert time.monotonic() - began < 20
    assert stack.worker.worker_pid != killed
    assert "10 finished requests of an earlier process were not reported yet" in stack.worker.log
    stack.wait_ready()  # the new process may report before it has the public key
    assert stack.post("/pass").status == 200


def test_what_could_not_be_reported_at_the_end_is_reported_by_the_next_worker(new_stack: NewStack) -> None:
    stack = new_stack()
    stack.start_ready()
    indices = serve_some(stack)
    stack.again()
    assert "10 finished requests unsent" in stack.worker.log
    stack.autoscaler.faults.clear()
    stack.start_ready()
    assert [stack.outcome(index) for index in indices] == ["Success"] * 10
