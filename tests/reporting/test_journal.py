"""Finished requests on disk: in order, whole, and there after any kind of end."""

from __future__ import annotations

import os
import resource
import signal
import struct
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyworker.data_types import AuthData
from pyworker.reporting import journal_file
from pyworker.reporting.figures import Limits
from pyworker.reporting.journal import CHECK_SECONDS, RETRY_SECONDS, Journal, JournalKeeper
from pyworker.reporting.ledger import Ledger
from pyworker.reporting.wire import FinishedRequest, Outcome
from tests.support.process import ROOT
from tests.support.stack import NewStack, Stack
from tests.support.waiting import DEADLINE, wait_until

#: Fills the journal in the file it is given, then dies without a chance to say goodbye.
DYING = """
import os, signal, sys
from pathlib import Path
from pyworker.reporting.journal import Journal
from pyworker.reporting.wire import FinishedRequest, Outcome

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
    again.append(record(5))
    assert again.open(file) == 4
    assert [found.request_idx for found in again.oldest(9)] == [0, 1, 3, 4, 5]
    again.drop(1)
    assert [found.request_idx for found in again.oldest(2)] == [1, 3]
    assert len(again) == 4
    again.close()
    heir = Journal()
    assert heir.open(file) == 4
    heir.drop(2)
    assert [found.request_idx for found in heir.oldest(9)] == [4, 5]
    heir.drop(2)
    assert len(heir) == 0
    heir.close()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"garbage" * 100,
        b"pyworker" + b"\xff" * 16,
        b"pyworker" + bytes(16),
        b"pyworkr2" + b"\xff" * 16,
        os.urandom(4096),
    ],
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
    for number in range(journal_file.CAPACITY):
        opened.append(record(number))
    assert not opened.append(record(-1))
    opened.drop(3)
    for number in range(3):
        assert opened.append(record(number)), "the places of the first three are free"
    assert not opened.append(record(-1))
    assert [found.request_idx for found in opened.oldest(2)] == [3, 4]
    opened.close()

    journal = Journal()
    ledger = Ledger(journal.append)
    assert journal.open(file) == journal_file.CAPACITY
    auth = AuthData("s", "http://a:1", "e", 1, 0, 7)
    ledger.admit(auth, 1.0, Limits()).end(Outcome.SUCCESS)
    journal.drop(1)
    assert "1 finished requests could not be kept" in caplog.text
    journal.close()


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
    journal = Journal()
    ledger = Ledger(journal.append)
    keeper = JournalKeeper(journal, file, ledger.touch)
    if fault == "a full disk":
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, before[1]))
        try:
            assert keeper.step() == RETRY_SECONDS
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
    else:
        assert keeper.step() == RETRY_SECONDS
    assert "a crash would lose them" in caplog.text
    assert str(file) in caplog.text
    serve_one(ledger)
    assert len(journal) == 1
    if fault == "a full disk":
        assert keeper.step() == CHECK_SECONDS, "there is room again"
        journal.close()
        assert Journal().open(file) == 1
    else:
        caplog.clear()
        assert keeper.step() == RETRY_SECONDS
        assert caplog.text == "", "said once"
        journal.close()


def serve_one(ledger: Ledger, index: int = 7) -> None:
    ledger.admit(AuthData("s", "http://a:1", "e", 1, 0, index), 1.0, Limits()).end(Outcome.SUCCESS)


def test_the_file_is_taken_when_the_worker_before_gives_it_back(
    file: Path, opened: Journal, caplog: pytest.LogCaptureFixture
) -> None:
    """As after a restart while the process before still finishes its requests."""
    opened.append(record(1))
    journal = Journal()
    ledger = Ledger(journal.append)
    told: list[int] = []
    keeper = JournalKeeper(journal, file, lambda: told.append(1))
    assert keeper.step() == RETRY_SECONDS
    assert "another worker" in caplog.text
    serve_one(ledger, 2)
    opened.append(record(3))
    opened.close()
    assert keeper.step() == CHECK_SECONDS
    assert told == [1]
    assert [found.request_idx for found in journal.oldest(9)] == [1, 3, 2]
    # All of it is in the file now, what was in memory too: a crash here would lose nothing.
    journal.close()
    heir = Journal()
    assert heir.open(file) == 3
    assert [found.request_idx for found in heir.oldest(9)] == [1, 3, 2]
    heir.close()


#: Takes over the file it is given; the kernel kills it at the first write beyond so many bytes.
TAKING_OVER = """
import resource, signal, sys
from pathlib import Path
from pyworker.reporting.journal import Journal
from pyworker.reporting.wire import FinishedRequest, Outcome

heir = Journal()
for number in range(20):
    heir.append(FinishedRequest.of(Outcome.SUCCESS, 10**6 + number, 1.5, 2.5, 3.5))
signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), resource.RLIM_INFINITY))
heir.open(Path(sys.argv[1]))
"""


@pytest.mark.parametrize("written", [0, 1, 11])
def test_a_crash_in_the_middle_of_taking_over_loses_nothing(
    file: Path, opened: Journal, written: int
) -> None:
    for number in range(20_000):
        opened.append(record(number))
    opened.drop(100)
    opened.close()
    limit = journal_file.offset_of(20_000 + written)
    command = [sys.executable, "-c", TAKING_OVER, str(file), str(limit)]
    died = subprocess.run(command, cwd=ROOT, timeout=DEADLINE, check=False)
    assert died.returncode == -signal.SIGXFSZ
    heir = Journal()
    assert heir.open(file) == 19_900 + written
    found = [known.request_idx for known in heir.oldest(10**6)]
    assert found == [*range(100, 20_000), *range(10**6, 10**6 + written)]
    heir.close()


@pytest.mark.parametrize("size", [0, 10, 24, 4096])
def test_a_file_that_another_program_cuts_short_ends_nobody(file: Path, opened: Journal, size: int) -> None:
    """A mapping of it would end the process with SIGBUS."""
    keeper = JournalKeeper(opened, file, lambda: None)
    assert keeper.step() == CHECK_SECONDS
    for number in range(200):
        opened.append(record(number))
    os.truncate(file, size)
    for number in range(200, 400):
        assert opened.append(record(number))
    assert [found.request_idx for found in opened.oldest(999)] == list(range(400))
    keeper.step()  # at the next look, all of it is there again
    opened.close()
    heir = Journal()
    assert heir.open(file) == 400
    heir.close()


def test_a_file_that_another_program_removes_is_made_again(file: Path, opened: Journal) -> None:
    keeper = JournalKeeper(opened, file, lambda: None)
    opened.append(record(1))
    file.unlink()
    opened.append(record(2))
    assert keeper.step() == CHECK_SECONDS
    opened.append(record(3))
    opened.close()
    heir = Journal()
    assert heir.open(file) == 3
    heir.close()


def test_what_an_earlier_round_left_in_a_slot_is_not_taken_for_a_record(file: Path, opened: Journal) -> None:
    for number in range(10):
        opened.append(record(number))
    opened.drop(10)  # from here on the same slots are used again
    for number in range(100, 103):
        opened.append(record(number))
    opened.close()
    heir = Journal()
    assert heir.open(file) == 3
    assert [found.request_idx for found in heir.oldest(9)] == [100, 101, 102]
    heir.close()


def test_a_pipe_in_its_place_holds_nobody_up(file: Path) -> None:
    os.mkfifo(file)
    journal = Journal()
    ledger = Ledger(journal.append)
    keeper = JournalKeeper(journal, file, ledger.touch)
    assert keeper.step() == RETRY_SECONDS
    journal.close()


def test_a_file_of_the_form_before_is_read(file: Path) -> None:
    entry = struct.Struct("<qdddI")
    records = b""
    for number in range(5):
        content = entry.pack(number, 1.5, 2.5, 3.5, 1)
        records += content + struct.pack("<I", zlib.crc32(content))
    file.write_bytes(struct.pack("<8sQQ", b"pyworker", 2, 5) + records)
    heir = Journal()
    heir.append(record(9))
    assert heir.open(file) == 3
    assert heir.oldest(9) == [record(2), record(3), record(4), record(9)]
    heir.close()
    again = Journal()
    assert again.open(file) == 4
    again.close()


def test_nothing_is_lost_between_threads_while_it_is_opened(file: Path, opened: Journal) -> None:
    for number in range(5000):
        opened.append(record(number))
    opened.close()
    heir = Journal()
    for number in range(5000, 10_000):
        heir.append(record(number))

    def end_requests(first: int) -> None:
        for number in range(first, first + 2000):
            assert heir.append(record(number))

    threads = [threading.Thread(target=end_requests, args=(10_000 + 2000 * n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    assert heir.open(file) == 5000
    delivered: list[int] = []
    for _ in range(10):
        batch = heir.oldest(100)
        delivered += [found.request_idx for found in batch]
        heir.drop(len(batch))
    for thread in threads:
        thread.join()
    assert delivered == list(range(1000))
    heir.close()
    last = Journal()
    assert last.open(file) == 17_000
    assert {found.request_idx for found in last.oldest(10**6)} == set(range(1000, 18_000))
    last.close()


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
    assert "an earlier process left 10 finished requests that were not reported" in stack.worker.log
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
