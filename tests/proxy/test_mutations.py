"""The property tests of the ledger notice when one line of it is wrong."""

from __future__ import annotations

import inspect
import sys
import types

import pytest
from hypothesis import Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from pyworker.reporting import ledger, open_entries
from tests.reporting.test_ledger import LedgerMachine

#: Both are the ledger; the second one uses the first.
SOURCES = [inspect.getsource(module) for module in (open_entries, ledger)]

#: One line of the ledger, and what it is made into.
MUTATIONS = [
    ("self.load += tracker.workload", "self.load = tracker.workload"),
    ("self.load -= tracker.workload", "pass"),
    ("self._since.received += workload", "pass"),
    ("self._since.received += workload", "self._since.received = workload"),
    ("self._since.served += done", "self._since.served += 1.0"),
    ("self._since.served += done", "self._since.served += tracker.workload"),
    ("done = tracker.workload if outcome is Outcome.SUCCESS else 0.0", "done = 0.0"),
    ("self._served += done", "pass"),
    ("self._since.settled += done - tracker.workload if done else 0.0", "pass"),
    ("self._since.settled += min(max(sent.new_load, sent.settled), 0.0)", "pass"),
    ("self._since.cancelled += tracker.workload - done", "pass"),
    ("self._since.rejected += tracker.workload", "pass"),
    ("self._since.received -= tracker.workload", "pass"),
    ("if tracker.admitted:", "if True:"),
    ("if tracker.outcome is not None:", "if False:"),
    ("self._received += 1", "pass"),
    ("self._ended[outcome] += 1", "pass"),
    (
        "kind.is_recorded:\n                self._count_distinct",
        "True:\n                self._count_distinct",
    ),
    ("if tracker.kind.is_recorded:", "if True:"),
    ("self._note_end(tracker, outcome)", "self._on_change()"),
    ("self._note_end(tracker, Outcome.REJECTED)", "self._on_change()"),
    ("if tracker.kind.is_recorded]", "]"),
    ("self._sessions if tracker.kind is Kind.SESSION else self._requests", "self._requests"),
    ("cur_load = self._sessions.load + self._requests.load", "cur_load = self._requests.load"),
    ("self.received - other.received", "self.received"),
    ("self.served - other.served", "0.0"),
    ("self._since.minus(sent)", "_Since()"),
    ("_Since() if self._since == sent else self._since.minus(sent)", "self._since"),
    ("self._disk_usage = snapshot.disk_usage", "pass"),
    ("self._reported_revision = snapshot.revision", "self._reported_revision = self._revision"),
    ("if request_idx in self._recent:", "if False:"),
    ("self._ready_before = True", "pass"),
    ("new_load=max(since.new_load, 0.0)", "new_load=since.new_load"),
    ("rej_load=since.rejected", "rej_load=since.served"),
]


def mutant(before: str, after: str) -> type[ledger.Ledger]:
    """The ledger with this one change."""
    found = sum(source.count(before) for source in SOURCES)
    assert found == 1, f"the ledger has this {found} times: {before!r}"
    entries, module = (_executed(source.replace(before, after)) for source in SOURCES)
    module.__dict__["OpenEntries"] = entries.__dict__["OpenEntries"]
    # What the test compares with has to be of the same kind.
    for name in ("Counts", "Kind"):
        setattr(module, name, getattr(ledger, name))
    return module.Ledger


def _executed(source: str) -> types.ModuleType:
    module = types.ModuleType("mutant")
    sys.modules["mutant"] = module  # where dataclasses look
    try:
        exec(compile(source, "mutant.py", "exec"), module.__dict__)
    finally:
        del sys.modules["mutant"]
    return module


def check_properties(ledger: type[ledger.Ledger]) -> None:
    """The stateful test on this ledger, with the same steps each time."""
    machine = type("Machine", (LedgerMachine,), {"ledger_class": ledger})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=300,
            stateful_step_count=40,
            deadline=None,
            derandomize=True,
            database=None,
            phases=[Phase.generate],
        ),
    )


def test_the_ledger_itself_passes() -> None:
    check_properties(mutant("class Ledger:", "class Ledger:"))


@pytest.mark.parametrize(
    ("before", "after"), MUTATIONS, ids=[f"{before} -> {after}" for before, after in MUTATIONS]
)
def test_one_wrong_line_is_noticed(before: str, after: str) -> None:
    ledger = mutant(before, after)
    with pytest.raises((AssertionError, KeyError)):
        check_properties(ledger)
