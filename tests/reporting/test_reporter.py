"""Reports and keys over real sockets, to an autoscaler that answers whatever the test wants."""

from __future__ import annotations

import gzip
import json
import logging
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, cast

import pytest
from Crypto.PublicKey import RSA

from pyworker.data_types import AuthData
from pyworker.errors import AutoscalerError
from pyworker.proxy.auth import SignatureVerifier
from pyworker.reporting.autoscaler_client import AutoscalerClient
from pyworker.reporting.figures import Limits
from pyworker.reporting.journal import Journal
from pyworker.reporting.ledger import Ledger
from pyworker.reporting.public_key import KeyFetcher
from pyworker.reporting.reporter import MAX_INTERVAL, MIN_INTERVAL, Reporter
from pyworker.reporting.wire import Identity, ModelFigures, Outcome
from pyworker.runtime.services import Loop
from tests.support.dripping import DRIPS, Dripping
from tests.support.waiting import wait_until

IDENTITY = Identity(17, "s3cret-token", "http://203.0.113.7:40123")
URL = "http://203.0.113.7:40123"


@dataclass(frozen=True)
class Answer:
    """What the autoscaler answers. missing: bytes that it declares and never sends; drop: it hangs up."""

    status: int = 200
    body: bytes = b"{}"
    headers: Mapping[str, str] = field(default_factory=dict[str, str])
    missing: int = 0
    drop: bool = False


class FakeAutoscaler:
    """A real HTTP server: it records what it was sent, and answers what the test set. Thread-safe."""

    def __init__(self) -> None:
        self._server = _Server(self)
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.02,), name="test-autoscaler"
        )
        # Guards _answers and _received.
        self._lock = threading.Lock()
        self._answers: dict[str, list[Answer]] = {}
        self._received: list[tuple[str, object]] = []
        self.slow_by = 0.0
        self.pause = threading.Event()
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def answer(self, path: str, *answers: Answer) -> None:
        """Answer so from now on: one after the other, the last one for ever."""
        with self._lock:
            self._answers[path] = list(answers)

    def take(self, path: str, body: object) -> Answer:
        with self._lock:
            self._received.append((path, body))
            answers = self._answers.get(path, [Answer()])
            return answers[0] if len(answers) == 1 else answers.pop(0)

    def received(self, path: str) -> list[dict[str, Any]]:
        """The bodies sent to this path so far."""
        with self._lock:
            return [cast("dict[str, Any]", body) for sent_to, body in self._received if sent_to == path]

    @property
    def calls(self) -> list[str]:
        with self._lock:
            return [path for path, _ in self._received]

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Server(ThreadingHTTPServer):
    def __init__(self, autoscaler: FakeAutoscaler) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.autoscaler = autoscaler

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that hangs up is part of these tests."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._answer(None)

    def do_POST(self) -> None:
        self._answer(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

    def _answer(self, body: object) -> None:
        server = cast("_Server", self.server).autoscaler
        answer = server.take(self.path, body)
        server.pause.wait(server.slow_by)
        if answer.drop:
            self.close_connection = True
            return
        self.send_response(answer.status)
        for name, value in answer.headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(answer.body) + answer.missing))
        self.end_headers()
        self.wfile.write(answer.body)
        if answer.missing:
            self.close_connection = True

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name of the base class
        """Silent."""


@pytest.fixture
def autoscaler() -> Iterator[FakeAutoscaler]:
    running = FakeAutoscaler()
    yield running
    running.close()


@pytest.fixture
def second() -> Iterator[FakeAutoscaler]:
    running = FakeAutoscaler()
    yield running
    running.close()


@pytest.fixture
def nobody() -> Iterator[str]:
    """An address where nobody listens; the socket keeps the port from being given to somebody else."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{unused.getsockname()[1]}"


class Bench:
    """A reporter on a ledger of its own."""

    def __init__(self, *addresses: str) -> None:
        self.client = AutoscalerClient(addresses)
        self.journal = Journal()
        self.ledger = Ledger(self.journal.append)
        self.figures = ModelFigures(50.0, "")
        self.reporter = Reporter(self.client, self.ledger, self.journal, IDENTITY, lambda: self.figures)
        self._next = 0

    def __enter__(self) -> Bench:
        return self

    def __exit__(self, *_: object) -> None:
        self.client.close()

    def serve(self, count: int = 1, workload: float = 1.0, outcome: Outcome = Outcome.SUCCESS) -> None:
        """Requests that came and ended; their indices count up from 0."""
        for _ in range(count):
            auth_data = AuthData("s", URL, "e", 1, 0, self._next)
            self._next += 1
            self.ledger.admit(auth_data, workload, Limits()).end(outcome)


def indices(autoscaler: FakeAutoscaler) -> list[int]:
    """The finished requests in the order in which they were told."""
    batches = autoscaler.received("/delete_requests/")
    return [request["request_idx"] for batch in batches for request in batch["requests"]]


def total(autoscaler: FakeAutoscaler, name: str) -> float:
    return sum(report[name] for report in autoscaler.received("/worker_status/"))


# -- what is sent, and when ------------------------------------------------------------------------------


def test_the_two_messages(autoscaler: FakeAutoscaler) -> None:
    with Bench(autoscaler.url) as bench:
        bench.serve(workload=2.5)
        bench.reporter.report_once(100.0)

    [finished] = autoscaler.received("/delete_requests/")
    [request] = finished.pop("requests")
    assert finished == {"worker_id": 17, "mtoken": "s3cret-token"}
    assert set(request) == {
        "request_idx",
        "success",
        "status",
        "entered_queue_at",
        "work_started_at",
        "work_completed_at",
    }
    assert (request["request_idx"], request["success"], request["status"]) == (0, True, "Success")
    [status] = autoscaler.received("/worker_status/")
    assert len(status) == 18
    assert (status["id"], status["mtoken"], status["url"]) == (17, "s3cret-token", URL)
    assert (status["cur_perf"], status["new_load"], status["max_perf"]) == (2.5, 2.5, 50.0)
    assert status["disk_usage"] > 0


def test_a_report_is_due_when_something_changed_or_after_ten_seconds(autoscaler: FakeAutoscaler) -> None:
    with Bench(autoscaler.url) as bench:
        report_once = bench.reporter.report_once
        assert report_once(100.0) == MAX_INTERVAL
        assert report_once(105.0) == 5.0, "nothing changed"
        bench.ledger.touch()
        assert report_once(100.0 + 0.9 * MIN_INTERVAL) > 0
        assert len(autoscaler.calls) == 1, "at most once a second"
        assert report_once(100.0 + MIN_INTERVAL) == MAX_INTERVAL
        assert len(autoscaler.calls) == 2
        assert report_once(101.0 + 0.999 * MAX_INTERVAL) == pytest.approx(0.01)
        assert len(autoscaler.calls) == 2
        report_once(101.0 + MAX_INTERVAL)
        assert len(autoscaler.calls) == 3

    assert set(autoscaler.calls) == {"/worker_status/"}, "no batch without a finished request"


def test_the_figures_are_those_of_the_moment(autoscaler: FakeAutoscaler) -> None:
    with Bench(autoscaler.url) as bench:
        bench.figures = ModelFigures(0.0, "out of memory")
        bench.reporter.report_once(0.0)
        bench.figures = ModelFigures(75.0, "")
        bench.reporter.report_once(20.0)

    told = [(report["max_perf"], report["error_msg"]) for report in autoscaler.received("/worker_status/")]
    assert told == [(0.0, "out of memory"), (75.0, "")]


def test_many_finished_requests_go_in_batches(autoscaler: FakeAutoscaler) -> None:
    with Bench(autoscaler.url) as bench:
        bench.serve(1201)
        assert bench.reporter.report_once(0.0) == 0.0, "more is due at once"
        assert len(autoscaler.received("/worker_status/")) == 1, "the status does not wait for all of them"
        assert bench.reporter.report_once(0.1) == 0.0
        assert bench.reporter.report_once(0.2) == pytest.approx(MAX_INTERVAL - 0.2)

    batches = [len(batch["requests"]) for batch in autoscaler.received("/delete_requests/")]
    assert batches == [500, 500, 201]
    assert indices(autoscaler) == list(range(1201))


# -- which address ---------------------------------------------------------------------------------------


def test_addresses_are_tried_in_order_until_one_accepts(
    autoscaler: FakeAutoscaler, second: FakeAutoscaler, nobody: str
) -> None:
    with Bench(nobody, autoscaler.url, second.url) as bench:
        autoscaler.answer("/worker_status/", Answer(500), Answer())
        bench.reporter.report_once(0.0)
        assert (len(autoscaler.calls), len(second.calls)) == (1, 1)

        bench.reporter.report_once(20.0)
        assert (len(autoscaler.calls), len(second.calls)) == (1, 2), "the one that accepted last comes first"

        second.answer("/worker_status/", Answer(500))
        bench.reporter.report_once(40.0)
        assert (len(autoscaler.calls), len(second.calls)) == (2, 3), "and then the others, in their order"


def test_where_none_accepts_the_error_names_each(autoscaler: FakeAutoscaler, nobody: str) -> None:
    autoscaler.answer("/worker_status/", Answer(503))
    with Bench(nobody, autoscaler.url) as bench, pytest.raises(AutoscalerError) as caught:
        bench.client.send_status({})

    assert str(caught.value) == (
        f"{nobody}/worker_status/: cannot be reached; {autoscaler.url}/worker_status/: answered 503"
    )


# -- what counts as accepted -----------------------------------------------------------------------------

REFUSED = [
    Answer(400),
    Answer(401),
    Answer(404),
    Answer(500),
    Answer(503),
    Answer(302, headers={"Location": "/elsewhere/"}),
    Answer(307, headers={"Location": "/elsewhere/"}),
    Answer(304, b""),
    Answer(drop=True),
]
ACCEPTED = [
    Answer(200, b""),
    Answer(201),
    Answer(204, b""),
    Answer(200, b"<html>no JSON</html>"),
    Answer(200, b"\xff\xfe\x00 no text"),
    Answer(200, b"short", missing=100),
    Answer(200, b"", missing=100),
    Answer(200, b"not gzip at all", headers={"Content-Encoding": "gzip"}),
    Answer(200, b"x" * 5_000_000),
    Answer(200, gzip.compress(b"x" * 5_000_000, mtime=0), headers={"Content-Encoding": "gzip"}),
]


@pytest.mark.parametrize("refusal", REFUSED, ids=lambda answer: "drop" if answer.drop else answer.status)
def test_a_refused_report_keeps_its_figures(autoscaler: FakeAutoscaler, refusal: Answer) -> None:
    with Bench(autoscaler.url) as bench:
        autoscaler.answer("/worker_status/", refusal, Answer())
        bench.ledger.model_ready()
        bench.serve(3, 2.0)
        bench.serve(1, 5.0, Outcome.CANCELLED)
        assert bench.reporter.report_once(0.0) == 1.0
        bench.serve(1, 10.0)
        assert bench.reporter.report_once(1.0) == MAX_INTERVAL
        bench.reporter.report_once(20.0)

    refused, accepted, last = autoscaler.received("/worker_status/")
    assert (refused["cur_perf"], refused["new_load"]) == (6.0, 6.0)
    assert (accepted["cur_perf"], accepted["new_load"]) == (16.0, 16.0)
    assert accepted["loadtime"] == refused["loadtime"] > 0
    assert (last["cur_perf"], last["new_load"], last["loadtime"]) == (0.0, 0.0, 0.0)
    assert "/elsewhere/" not in autoscaler.calls


@pytest.mark.parametrize("answer", ACCEPTED, ids=range(len(ACCEPTED)))
def test_a_report_is_accepted_by_its_status_whatever_follows(
    autoscaler: FakeAutoscaler, second: FakeAutoscaler, answer: Answer
) -> None:
    with Bench(autoscaler.url, second.url) as bench:
        autoscaler.answer("/worker_status/", answer)
        autoscaler.answer("/delete_requests/", answer)
        bench.serve(3, 2.0)
        for moment in (0.0, 20.0):
            assert bench.reporter.report_once(moment) == MAX_INTERVAL

    assert total(autoscaler, "cur_perf") == 6.0
    assert indices(autoscaler) == [0, 1, 2]
    assert second.calls == []


def test_finished_requests_are_told_exactly_once_across_outages(autoscaler: FakeAutoscaler) -> None:
    no, yes = Answer(503), Answer()
    autoscaler.answer("/delete_requests/", no, yes, Answer(drop=True), no, yes, yes, no, yes)
    accepted: list[int] = []
    now = 0.0
    with Bench(autoscaler.url) as bench:
        for _ in range(12):
            bench.serve(300)
            now += bench.reporter.report_once(now)
        while bench.journal.oldest(1):
            now += bench.reporter.report_once(now)

    outcomes = [no, yes, no, no, yes, yes, no]
    for number, batch in enumerate(autoscaler.received("/delete_requests/")):
        if number >= len(outcomes) or outcomes[number] is yes:
            accepted.extend(request["request_idx"] for request in batch["requests"])
    assert accepted == list(range(3600))


def test_a_route_that_always_fails_does_not_silence_the_other(autoscaler: FakeAutoscaler) -> None:
    autoscaler.answer("/delete_requests/", Answer(500))
    now = 0.0
    with Bench(autoscaler.url) as bench:
        for count in range(1, 4):
            bench.serve()
            now += bench.reporter.report_once(now)
            assert len(autoscaler.received("/worker_status/")) == count
        assert total(autoscaler, "cur_perf") == 3
        autoscaler.answer("/delete_requests/", Answer())
        bench.reporter.report_once(now + 10)
    assert indices(autoscaler)[-3:] == [0, 1, 2]


def test_a_batch_that_was_accepted_is_not_sent_again_with_the_next(autoscaler: FakeAutoscaler) -> None:
    autoscaler.answer("/delete_requests/", Answer(), Answer(500), Answer())
    with Bench(autoscaler.url) as bench:
        bench.serve(700)
        assert bench.reporter.report_once(0.0) == 0.0
        assert bench.reporter.report_once(0.0) == 1.0
        bench.reporter.report_once(1.0)

    assert [batch["requests"][0]["request_idx"] for batch in autoscaler.received("/delete_requests/")] == [
        0,
        500,
        500,
    ]


# -- pauses ----------------------------------------------------------------------------------------------


def test_pauses_grow_and_end_with_the_first_success(
    autoscaler: FakeAutoscaler, caplog: pytest.LogCaptureFixture
) -> None:
    autoscaler.answer("/worker_status/", Answer(503))
    now = 1000.0
    pauses: list[float] = []
    with Bench(autoscaler.url) as bench, caplog.at_level(logging.INFO, "pyworker.reporting.reporter"):
        for _ in range(7):
            before = len(autoscaler.calls)
            pauses.append(bench.reporter.report_once(now))
            assert len(autoscaler.calls) == before + 1
            bench.ledger.touch()
            assert bench.reporter.report_once(now + 0.5) == pauses[-1] - 0.5
            assert len(autoscaler.calls) == before + 1, "not before the pause is over"
            now += pauses[-1]
        assert pauses == [1.0, 2.0, 4.0, 8.0, 10.0, 10.0, 10.0]

        autoscaler.answer("/worker_status/", Answer())
        assert bench.reporter.report_once(now) == MAX_INTERVAL
        autoscaler.answer("/worker_status/", Answer(503))
        assert bench.reporter.report_once(now + 20) == 1.0, "the next outage begins anew"

    assert "accepts reports again" in caplog.text
    assert "answered 503" in caplog.text
    assert "s3cret-token" not in caplog.text


# -- at the end ------------------------------------------------------------------------------------------


def test_flush_sends_what_is_left_whatever_the_pause(autoscaler: FakeAutoscaler) -> None:
    autoscaler.answer("/worker_status/", Answer(503), Answer())
    with Bench(autoscaler.url) as bench:
        bench.serve(2, 2.0)
        bench.reporter.report_once(0.0)
        bench.serve(1, 3.0)
        bench.reporter.flush()
        calls = len(autoscaler.calls)
        bench.reporter.flush()
        assert len(autoscaler.calls) == calls, "nothing was left"

    assert autoscaler.received("/worker_status/")[-1]["cur_perf"] == 7.0
    assert indices(autoscaler) == [0, 1, 2]


def test_a_flush_that_fails_says_what_is_lost(nobody: str, caplog: pytest.LogCaptureFixture) -> None:
    with Bench(nobody) as bench, caplog.at_level(logging.WARNING, "pyworker.reporting.reporter"):
        bench.serve(3)
        bench.reporter.flush()

    [record] = caplog.records
    assert "3 finished requests unsent" in record.getMessage()


# -- the public key --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pem() -> bytes:
    return RSA.generate(1024).public_key().export_key()


class KeyBench:
    """A fetcher with its verifier."""

    def __init__(self, *addresses: str) -> None:
        self.client = AutoscalerClient(addresses)
        self.verifier = SignatureVerifier(URL, now=lambda: 0.0, on_stale_key=lambda: None)
        self.fetcher = KeyFetcher(self.client, self.verifier.set_public_key)

    def __enter__(self) -> KeyBench:
        return self

    def __exit__(self, *_: object) -> None:
        self.client.close()


def test_the_key_is_fetched_once(autoscaler: FakeAutoscaler, pem: bytes) -> None:
    autoscaler.answer("/pubkey/", Answer(200, pem))
    with KeyBench(autoscaler.url) as bench:
        assert bench.fetcher.fetch_once() is None, "no other try is due"
        assert bench.verifier.has_key

    assert autoscaler.calls == ["/pubkey/"]


@pytest.mark.parametrize(
    "answer",
    [
        Answer(404),
        Answer(500),
        Answer(204, b""),
        Answer(200, b""),
        Answer(200, b"{}"),
        Answer(200, b"\xff\xfe\x00"),
        Answer(200, b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----"),
        Answer(200, b"-----BEGIN PUBLIC KEY-----\n" + b"A" * 10_000_000),
        Answer(200, b"-----BEGIN", missing=500),
        Answer(200, b"not gzip at all", headers={"Content-Encoding": "gzip"}),
        Answer(200, gzip.compress(b"A" * 50_000_000, mtime=0), headers={"Content-Encoding": "gzip"}),
        Answer(302, headers={"Location": "/key-elsewhere/"}),
        Answer(drop=True),
    ],
    ids=range(13),
)
def test_an_answer_without_a_key_is_tried_again(
    autoscaler: FakeAutoscaler, pem: bytes, answer: Answer, caplog: pytest.LogCaptureFixture
) -> None:
    autoscaler.answer("/pubkey/", answer)
    autoscaler.answer("/key-elsewhere/", Answer(200, pem))
    with KeyBench(autoscaler.url) as bench:
        with caplog.at_level(logging.WARNING, "pyworker.reporting.reporter"):
            pauses = [bench.fetcher.fetch_once() for _ in range(3)]
        assert pauses == [0.5, 1.0, 2.0]
        assert not bench.verifier.has_key

        autoscaler.answer("/pubkey/", Answer(200, pem))
        assert bench.fetcher.fetch_once() is None
        assert bench.verifier.has_key

        autoscaler.answer("/pubkey/", Answer(500))
        assert bench.fetcher.fetch_once() == 0.5, "the next outage begins anew"
        assert bench.verifier.has_key, "and leaves the key that is there"

    assert "/key-elsewhere/" not in autoscaler.calls
    assert len(caplog.text) < 5000, "no answer is poured into the log"


def test_pauses_between_keys_end_at_half_a_minute(nobody: str) -> None:
    with KeyBench(nobody) as bench:
        assert [bench.fetcher.fetch_once() for _ in range(8)] == [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0]


def test_the_key_comes_from_the_first_address_that_has_it(
    autoscaler: FakeAutoscaler, second: FakeAutoscaler, nobody: str, pem: bytes
) -> None:
    autoscaler.answer("/pubkey/", Answer(200, b"-----BEGIN", missing=500))
    second.answer("/pubkey/", Answer(200, pem))
    with KeyBench(nobody, autoscaler.url, second.url) as bench:
        assert bench.fetcher.fetch_once() is None
        assert bench.verifier.has_key


@pytest.fixture(params=DRIPS)
def dripping(request: pytest.FixtureRequest) -> Iterator[str]:
    server = Dripping(DRIPS[request.param])
    yield server.url
    server.close()


def test_an_address_that_drips_or_is_silent_costs_bounded_time_and_that_once(
    dripping: str, autoscaler: FakeAutoscaler, pem: bytes
) -> None:
    autoscaler.answer("/pubkey/", Answer(200, pem))
    with Bench(dripping, autoscaler.url) as bench, KeyBench(dripping, autoscaler.url) as keys:
        began = time.monotonic()
        threads = [threading.Thread(target=keys.fetcher.fetch_once)]
        threads[0].start()
        bench.serve(1)
        bench.reporter.report_once(0.0)
        assert time.monotonic() - began < 12
        threads[0].join()
        assert time.monotonic() - began < 12
        assert keys.verifier.has_key
        again = time.monotonic()
        for moment in range(1, 6):
            bench.serve(1)
            bench.reporter.report_once(20.0 * moment)
        assert time.monotonic() - again < 4
    assert total(autoscaler, "cur_perf") == 6


def test_a_status_does_not_wait_for_many_finished_requests(autoscaler: FakeAutoscaler) -> None:
    """60,000 of them wait, and the autoscaler is slow."""
    with Bench(autoscaler.url) as bench:
        bench.serve(60_000)
        autoscaler.slow_by = 0.05
        loop = Loop("test-report", lambda: bench.reporter.report_once(time.monotonic()), hold=MIN_INTERVAL)
        began = time.monotonic()
        loop.start()
        try:
            wait_until(lambda: autoscaler.received("/worker_status/"), "a first status", 5)
            assert time.monotonic() - began < 3
            bench.serve(1, 7.0)
            loop.wake()
            wait_until(lambda: total(autoscaler, "cur_perf") == 60_007, "the next status", 5)
            # Not one batch a second, but one after the other.
            wait_until(lambda: not len(bench.journal), "the end of all batches", 40)
            assert len(autoscaler.received("/worker_status/")) >= 2
        finally:
            loop.stop()
            assert loop.join(10)
    assert indices(autoscaler) == list(range(60_001))
