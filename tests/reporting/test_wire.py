"""What the autoscaler hears: every request once, every unit of work once, whatever happens on the way."""

from __future__ import annotations

import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

from tests.support.http import next_request_idx
from tests.support.ports import free_port
from tests.support.scripted import Act, whole
from tests.support.stack import MASTER_TOKEN, NewStack, Stack
from tests.support.waiting import DEADLINE

LIMITED = "/serial/limited"


def total(stack: Stack, field: str) -> float:
    """A figure added up over all accepted reports."""
    return sum(report[field] for report in stack.reports)


def wait_reported(stack: Stack, request_indices: list[int], timeout: float = DEADLINE) -> None:
    """Until the end of each of these was reported, and a status report came after the last of them."""
    expected = set(request_indices)
    found = stack.autoscaler.fleet.wait_for(
        lambda fleet: (
            expected <= {record.request_idx for record in fleet.finished}
            and stack.reports[-1]["num_requests_working"] == 0
        ),
        timeout,
    )
    assert found, f"not reported: {expected - {r.request_idx for r in stack.autoscaler.fleet.finished}}"


def assert_totals(stack: Stack, received: int, **expected: float) -> None:
    """So many requests came, these figures add up over all reports, and a later one repeats nothing."""

    def totals() -> dict[str, float]:
        return {field: total(stack, field) for field in expected}

    found = stack.autoscaler.fleet.wait_for(
        lambda _: all(total(stack, field) >= amount for field, amount in expected.items()), DEADLINE
    )
    assert found, f"they add up to {totals()}, not {expected}"
    assert stack.reports[-1]["num_requests_recieved"] == received
    assert stack.post("/pass", work=0.0).status == 200
    stack.wait_for_report(lambda report: report["num_requests_recieved"] == received + 1, "one more report")
    assert totals() == expected


def do_some_of_everything(stack: Stack) -> dict[int, str]:
    """Requests with every outcome; what each of them must be reported with."""
    expected: dict[int, str] = {}

    def note(outcome: str) -> int:
        index = next_request_idx()
        expected[index] = outcome
        return index

    for _ in range(5):
        assert stack.post("/pass", request_idx=note("Success"), work=10.0).status == 200
    stack.model.once("/json", whole(b"broken", status="500 Broken"))
    assert stack.post("/json", request_idx=note("Error"), work=100.0).status == 502
    stack.model.once("/stream", Act.HANG)
    with stack.open("/stream", request_idx=note("Cancelled"), work=1000.0):
        stack.model.request("/stream")
    gate = threading.Event()
    stack.model.once(LIMITED, gate, whole(b"{}"))
    with stack.open(LIMITED, request_idx=note("Success"), work=3000.0) as first:
        stack.model.wait_for(lambda: stack.model.requests(LIMITED), "the first of two")
        refused = stack.post(LIMITED, request_idx=note("Rejected"), work=10000.0)
        assert refused.status == 429
        gate.set()
        assert first.answer().status == 200
    stack.model.forget()
    return expected


def assert_reported_once(stack: Stack, expected: dict[int, str]) -> None:
    wait_reported(stack, list(expected))
    records = [record for record in stack.autoscaler.fleet.finished if record.request_idx in expected]
    assert Counter(record.request_idx for record in records) == Counter(list(expected))
    assert {record.request_idx: record.status for record in records} == expected
    for record in records:
        assert record.success == (record.status in ("Success", "Cancelled"))
        if record.status == "Success":
            assert record.entered_queue_at <= record.work_started_at <= record.work_completed_at


def test_each_request_and_each_unit_of_work_is_reported_once(new_stack: NewStack) -> None:
    stack = new_stack()
    stack.start_ready()
    expected = do_some_of_everything(stack)
    assert_reported_once(stack, expected)
    assert_totals(stack, len(expected), cur_perf=3050, new_load=3150, rej_load=10000)
    assert {report["mtoken"] for report in stack.reports} == {MASTER_TOKEN}


def test_nothing_is_lost_while_the_autoscaler_is_down(new_stack: NewStack) -> None:
    stack = new_stack()
    stack.start_ready()
    before = do_some_of_everything(stack)
    stack.autoscaler.stop()
    during = do_some_of_everything(stack) | do_some_of_everything(stack)
    stack.worker.wait_for_log("a report was not accepted")
    stack.autoscaler.start()
    after = do_some_of_everything(stack)
    expected = before | during | after
    assert_reported_once(stack, expected)
    assert_totals(stack, len(expected), cur_perf=4 * 3050, new_load=4 * 3150, rej_load=4 * 10000)
    assert sum(1 for report in stack.reports if report["loadtime"]) == 1


def test_refused_reports_are_sent_again(new_stack: NewStack) -> None:
    stack = new_stack()
    # The very first report, so that the load time is among what is refused.
    stack.autoscaler.faults.fail_with(500, "/worker_status/", times=1)
    stack.start_ready()
    sent = [next_request_idx() for _ in range(10)]
    for request_idx in sent:
        assert stack.post("/pass", request_idx=request_idx, work=10.0).status == 200
    assert_reported_once(stack, dict.fromkeys(sent, "Success"))
    assert_totals(stack, 10, cur_perf=100, new_load=100)
    loadtimes = [report["loadtime"] for report in stack.reports if report["loadtime"]]
    assert len(loadtimes) == 1


def test_what_arrives_while_a_report_is_on_its_way_belongs_to_the_next(new_stack: NewStack) -> None:
    stack = new_stack()
    stack.start_ready()
    status = stack.autoscaler.faults.hang("/worker_status/")
    sent = [next_request_idx() for _ in range(6)]
    assert stack.post("/pass", request_idx=sent[0], work=1.0).status == 200
    assert status.arrived.wait(DEADLINE)
    # The report with the first is held; these come meanwhile.
    for request_idx in sent[1:3]:
        assert stack.post("/pass", request_idx=request_idx, work=10.0).status == 200
    finished = stack.autoscaler.faults.hang("/delete_requests/")
    status.release()
    assert finished.arrived.wait(DEADLINE)
    for request_idx in sent[3:]:
        assert stack.post("/pass", request_idx=request_idx, work=100.0).status == 200
    finished.release()
    assert_reported_once(stack, dict.fromkeys(sent, "Success"))
    assert_totals(stack, 6, cur_perf=321, new_load=321)


def test_the_second_address_is_used_where_the_first_is_dead(new_stack: NewStack) -> None:
    stack = new_stack()
    stack = new_stack({"REPORT_ADDR": f"http://127.0.0.1:{free_port()}, {stack.autoscaler.url}"})
    stack.start_ready()
    request_idx = next_request_idx()
    assert stack.post("/pass", request_idx=request_idx).status == 200
    assert stack.outcome(request_idx) == "Success"


def test_a_burst_from_many_clients_adds_up(new_stack: NewStack) -> None:
    stack = new_stack()
    stack.start_ready()
    sent = [next_request_idx() for _ in range(300)]

    def post(request_idx: int) -> int:
        return stack.post("/pass", request_idx=request_idx, work=float(request_idx % 7)).status

    with ThreadPoolExecutor(16) as pool:
        assert set(pool.map(post, sent)) == {200}
    assert_reported_once(stack, dict.fromkeys(sent, "Success"))
    work = sum(request_idx % 7 for request_idx in sent)
    assert_totals(stack, 300, cur_perf=work, new_load=work)


def test_a_request_in_hand_is_named_in_the_report(new_stack: NewStack) -> None:
    stack = new_stack()
    stack.start_ready()
    gate = threading.Event()
    stack.model.script("/pass", gate, whole(b"{}"))
    indices = [next_request_idx() for _ in range(2)]
    with (
        stack.open("/pass", request_idx=indices[0], work=3.0) as first,
        stack.open("/pass", request_idx=indices[1], work=4.0) as second,
    ):
        stack.wait_in_hand(2)
        report = stack.reports[-1]
        assert sorted(report["working_request_idxs"]) == indices
        assert report["cur_load"] == 7.0
        gate.set()
        assert first.answer().status == second.answer().status == 200
    stack.wait_in_hand(0)
