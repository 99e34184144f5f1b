"""The throughput of real requests beside the benchmark's."""

from __future__ import annotations

import logging

import pytest

from pyworker.lifecycle.throughput_watch import FACTOR, PERIOD, Load, ThroughputWatch

BENCHMARK = 100.0


class Server:
    """A worker whose load the test decides."""

    def __init__(self) -> None:
        self.served = 0.0
        self.in_hand = 0
        self.benchmark = BENCHMARK
        self.now = 1000.0
        self.watch = ThroughputWatch(
            lambda: Load(self.served, self.in_hand), lambda: self.benchmark, concurrency=10
        )

    def work(self, seconds: float, rate: float, in_hand: int) -> None:
        """So many seconds at `rate` workload/s."""
        self.in_hand = in_hand
        while seconds > 0:
            pause = self.watch.step(self.now)
            self.now += pause
            self.served += rate * pause
            seconds -= pause


@pytest.mark.parametrize(
    ("rate", "in_hand", "said"),
    [
        (BENCHMARK * FACTOR * 1.1, 3, "the fleet is larger"),
        (BENCHMARK / FACTOR * 0.9, 10, "the fleet is too small"),
    ],
)
def test_a_throughput_far_from_the_benchmark_is_a_warning(
    caplog: pytest.LogCaptureFixture, rate: float, in_hand: int, said: str
) -> None:
    server = Server()
    server.work(PERIOD, rate, in_hand)
    assert not caplog.records
    server.work(20, rate, in_hand)
    [record] = caplog.records
    assert record.levelno == logging.WARNING
    assert said in record.getMessage()
    assert f"{rate:.1f} workload/s" in record.getMessage()
    server.work(PERIOD, rate, in_hand)
    assert len(caplog.records) == 2, "one in each period"


@pytest.mark.parametrize(
    ("rate", "in_hand"),
    [(BENCHMARK * FACTOR * 0.9, 100), (BENCHMARK / FACTOR * 1.1, 100), (1.0, 9), (0.0, 0)],
)
def test_the_usual_is_not_worth_a_word(caplog: pytest.LogCaptureFixture, rate: float, in_hand: int) -> None:
    server = Server()
    server.work(PERIOD * 3, rate, in_hand)
    assert not caplog.records


def test_a_pause_among_busy_minutes_is_not_slow(caplog: pytest.LogCaptureFixture) -> None:
    server = Server()
    for _ in range(10):
        server.work(PERIOD / 2, 1.0, 10)
        server.work(20, 1.0, 2)
    assert not caplog.records


def test_what_was_served_before_the_benchmark_does_not_count(caplog: pytest.LogCaptureFixture) -> None:
    server = Server()
    server.benchmark = 0.0
    server.work(PERIOD * 2, BENCHMARK * 100, 10)
    server.benchmark = BENCHMARK
    server.work(PERIOD * 1.5, BENCHMARK, 10)
    assert not caplog.records
