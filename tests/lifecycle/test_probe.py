"""One look at the model server's health: one deadline for all of it, and bounded memory."""

from __future__ import annotations

import threading
import time
import tracemalloc
from collections.abc import Iterator, Sequence

import pytest

from pyworker.lifecycle.probe import MAX_BODY, HealthProbe, HealthResponse, ProbeFailed
from tests.support.scripted import Act, ScriptedServer, Step, chunk, head, whole
from tests.support.waiting import wait_event

PATH = "/health"
SOON = 0.5
#: Of a drip that would go on for half a minute.
DRIPS = 300


@pytest.fixture
def probe(scripted_model: ScriptedServer) -> Iterator[HealthProbe]:
    probe = HealthProbe(scripted_model.url + PATH, timeout=SOON)
    yield probe
    probe.close()


class Pause(threading.Event):
    """An event that nobody sets: the script goes on after a tenth of a second."""

    def wait(self, timeout: float | None = None) -> bool:
        super().wait(0.1)
        return True


def dripping(data: bytes) -> Sequence[Step]:
    """Again and again, with pauses that are shorter than any timeout."""
    return [step for _ in range(DRIPS) for step in (data, Pause())]


def seconds_of(probe: HealthProbe) -> tuple[str, float]:
    began = time.monotonic()
    problem = probe.problem()
    return problem, time.monotonic() - began


def test_the_status_line_decides_however_the_rest_drips(
    scripted_model: ScriptedServer, probe: HealthProbe
) -> None:
    for script in (
        [b"HTTP/1.1 200 OK\r\nX-Slow: ", *dripping(b"x")],
        [head("Content-Length: 300"), *dripping(b"x")],
        [head("Transfer-Encoding: chunked"), *dripping(b"1\r\n")],
        [head("Content-Length: 9"), Act.CLOSE],
    ):
        scripted_model.script(PATH, *script)
        problem, seconds = seconds_of(probe)
        assert problem == ""
        assert seconds < SOON


@pytest.mark.parametrize(
    "drip", [b"x", b"HTTP/1.1 102 Processing\r\n\r\n", b"HTTP/1.1 100 Continue\r\nX: y\r\n"]
)
def test_a_status_line_that_drips_is_given_up_at_the_deadline(
    scripted_model: ScriptedServer, probe: HealthProbe, drip: bytes
) -> None:
    scripted_model.script(PATH, *dripping(drip))
    problem, seconds = seconds_of(probe)
    assert problem == f"{probe.name} did not answer in 0.5 s"
    assert seconds < SOON + 0.5


def test_interim_responses_are_passed_over(scripted_model: ScriptedServer, probe: HealthProbe) -> None:
    interim = head("X-Progress: 1", status="102 Processing")
    scripted_model.script(PATH, interim * 20 + whole(b"fine", status="503 Busy"))
    assert probe.problem() == f"{probe.name} answered 503"
    assert probe.fetch() == HealthResponse(503, [], b"fine")


def test_a_body_of_three_hundred_megabytes_costs_no_memory(scripted_model: ScriptedServer) -> None:
    probe = HealthProbe(scripted_model.url + PATH)
    piece = b"x" * 2**20
    scripted_model.script(PATH, head(f"Content-Length: {300 * 2**20}"), *[piece] * 300)
    tracemalloc.start()
    try:
        assert probe.problem() == ""
        assert probe.fetch().body is None, "half a body looks like a whole one"
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 8 * MAX_BODY


@pytest.mark.parametrize(
    "script",
    [
        [head("Content-Length: 9"), b"half", Act.CLOSE],
        [head("Transfer-Encoding: chunked"), chunk(b"half"), Act.CLOSE],
        [head("Transfer-Encoding: chunked"), chunk(b"half"), Act.HANG],
        [head("Transfer-Encoding: chunked"), b"zz\r\n", Act.CLOSE],
        [head(), b"x" * (MAX_BODY + 1), Act.CLOSE],
    ],
    ids=["cut", "cut chunks", "silence", "no chunk", "too long"],
)
def test_a_body_that_is_not_whole_is_not_handed_out(
    scripted_model: ScriptedServer, probe: HealthProbe, script: list[Step]
) -> None:
    scripted_model.script(PATH, *script)
    assert probe.fetch() == HealthResponse(200, [], None)


def test_bodies_with_and_without_a_length(scripted_model: ScriptedServer, probe: HealthProbe) -> None:
    scripts: list[list[Step]] = [
        [whole(b"fine")],
        [head("Transfer-Encoding: chunked"), chunk(b"fi"), chunk(b"ne"), chunk(b"")],
        [head(), b"fine", Act.CLOSE],
    ]
    for script in scripts:
        scripted_model.script(PATH, *script)
        assert probe.fetch() == HealthResponse(200, [], b"fine")


def test_headers_without_end_are_not_kept(scripted_model: ScriptedServer) -> None:
    probe = HealthProbe(scripted_model.url + PATH)
    line = b"X: " + b"y" * 60_000 + b"\r\n"
    scripted_model.script(PATH, b"HTTP/1.1 200 OK\r\n", *[line] * 50, Act.HANG)
    with pytest.raises(ProbeFailed):
        probe.fetch()


def test_close_ends_a_probe_under_way(scripted_model: ScriptedServer) -> None:
    probe = HealthProbe(scripted_model.url + PATH)
    scripted_model.script(PATH, Act.HANG)
    problems: list[str] = []
    done = threading.Event()

    def ask() -> None:
        problems.append(probe.problem())
        done.set()

    thread = threading.Thread(target=ask, name="test-probe")
    thread.start()
    scripted_model.request(PATH)
    probe.close()
    wait_event(done, "the end of the probe", 2)
    thread.join()
    assert problems == [f"{probe.name} cannot be reached"]
    assert probe.problem() == f"{probe.name} cannot be reached", "and refuses others"
    assert len(scripted_model.requests(PATH)) == 1


def test_user_password_and_query_are_sent_and_not_told(scripted_model: ScriptedServer) -> None:
    address = scripted_model.url.removeprefix("http://")
    path = f"{PATH}?token=secret"
    probe = HealthProbe(f"http://me:p%40ss@{address}{path}", "a-key")
    scripted_model.script(path, whole(b"", status="500 No"))
    assert probe.problem() == f"http://{address}/health answered 500"
    assert scripted_model.request(path).header("Authorization") == "Basic bWU6cEBzcw=="
    assert "secret" not in repr(probe)
    assert "p%40ss" not in repr(probe)


def test_a_path_is_quoted(scripted_model: ScriptedServer) -> None:
    assert HealthProbe(scripted_model.url + "/my health/é?a=b c").problem() == ""
    assert scripted_model.requests()[0].path == "/my%20health/%C3%A9?a=b%20c"
