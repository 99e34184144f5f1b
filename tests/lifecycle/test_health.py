"""The probe of the model server, and what follows from its answers."""

from __future__ import annotations

import pytest

from pyworker.lifecycle.health import INTERVAL, LOADING_INTERVAL, HealthMonitor
from pyworker.lifecycle.probe import HealthProbe, HealthResponse
from pyworker.lifecycle.state import Cause, ModelLifecycle, ModelState
from tests.support.scripted import Act, ScriptedServer, head, whole

PATH = "/health"
SICK = whole(b"sick", status="500 Sick")


@pytest.fixture
def probe(scripted_model: ScriptedServer) -> HealthProbe:
    return HealthProbe(scripted_model.url + PATH)


@pytest.fixture
def ready() -> ModelLifecycle:
    """A model that serves."""
    lifecycle = ModelLifecycle()
    assert lifecycle.loaded()
    assert lifecycle.benchmarked(100.0, epoch=lifecycle.status.epoch)
    return lifecycle


@pytest.mark.parametrize("status", ["200 OK", "201 Created", "299 Odd"])
def test_2xx_is_well(scripted_model: ScriptedServer, probe: HealthProbe, status: str) -> None:
    scripted_model.script(PATH, whole(b"fine", status=status))
    assert probe.problem() == ""


def test_204_is_well(scripted_model: ScriptedServer, probe: HealthProbe) -> None:
    scripted_model.script(PATH, head(status="204 No Content"))
    assert probe.problem() == ""


@pytest.mark.parametrize("status", [302, 400, 404, 500, 503])
def test_anything_else_is_not(scripted_model: ScriptedServer, probe: HealthProbe, status: int) -> None:
    scripted_model.script(PATH, whole(b"", "Location: /elsewhere", status=f"{status} Any"))
    assert probe.problem() == f"{scripted_model.url}{PATH} answered {status}"
    assert scripted_model.requests("/elsewhere") == []


@pytest.mark.parametrize(
    "steps", [[Act.RESET], [Act.CLOSE], [b"well\r\n"]], ids=["reset", "close", "no HTTP"]
)
def test_a_broken_answer_is_not(
    scripted_model: ScriptedServer, probe: HealthProbe, steps: list[bytes | Act]
) -> None:
    scripted_model.script(PATH, *steps)
    assert probe.problem() == f"{scripted_model.url}{PATH} cannot be reached"


def test_nobody_listens() -> None:
    with ScriptedServer(listening=False) as model:
        assert HealthProbe(model.url + PATH).problem() == f"{model.url}{PATH} cannot be reached"


def test_each_probe_has_its_own_connection(scripted_model: ScriptedServer, probe: HealthProbe) -> None:
    for _ in range(3):
        assert probe.problem() == ""
    assert [request.connection for request in scripted_model.requests(PATH)] == [1, 2, 3]
    scripted_model.wait_for(lambda: scripted_model.open_connections == 0, "the end of the connections")


def test_the_api_key_is_sent(scripted_model: ScriptedServer) -> None:
    assert HealthProbe(scripted_model.url + PATH, "a-key").problem() == ""
    assert scripted_model.request(PATH).header("Authorization") == "Bearer a-key"
    assert HealthProbe(scripted_model.url + PATH).problem() == ""
    assert scripted_model.request(PATH, 2).header("Authorization") is None


def test_the_whole_answer_is_had(scripted_model: ScriptedServer, probe: HealthProbe) -> None:
    scripted_model.script(
        PATH, whole(b"details", "Content-Type: text/x-gpu", "Set-Cookie: a=b", status="503 Busy")
    )
    assert probe.fetch() == HealthResponse(503, [("Content-Type", "text/x-gpu")], b"details")


def test_failures_in_a_row_make_an_error_and_one_success_mends_it(
    scripted_model: ScriptedServer, probe: HealthProbe, ready: ModelLifecycle
) -> None:
    monitor = HealthMonitor(probe.problem, ready, failures_allowed=3)
    scripted_model.script(PATH, SICK)
    for _ in range(2):
        assert monitor.step() == INTERVAL
        assert ready.state is ModelState.READY
    monitor.step()
    assert ready.state is ModelState.ERRORED
    assert ready.status.cause is Cause.HEALTH
    assert "answered 500" in ready.status.error_msg
    scripted_model.script(PATH, whole(b"well"))
    monitor.step()
    assert ready.status.state is ModelState.READY
    assert ready.status.error_msg == ""
    assert ready.status.throughput == 100.0


def test_a_success_between_failures_counts_from_anew(
    scripted_model: ScriptedServer, probe: HealthProbe, ready: ModelLifecycle
) -> None:
    monitor = HealthMonitor(probe.problem, ready, failures_allowed=2)
    for _ in range(3):
        scripted_model.once(PATH, SICK)
        scripted_model.once(PATH, whole(b"well"))
        monitor.step()
        monitor.step()
    assert ready.state is ModelState.READY
    scripted_model.script(PATH, SICK)
    monitor.step()
    monitor.step()
    assert ready.state is ModelState.ERRORED


def test_a_suspicion_needs_one_failure_only(
    scripted_model: ScriptedServer, probe: HealthProbe, ready: ModelLifecycle
) -> None:
    monitor = HealthMonitor(probe.problem, ready, failures_allowed=3)
    scripted_model.script(PATH, SICK)
    monitor.suspect("its log said: CUDA error")
    monitor.step()
    assert ready.state is ModelState.ERRORED
    assert ready.status.error_msg.endswith("its log said: CUDA error")


def test_a_suspicion_of_a_healthy_model_is_forgotten(
    scripted_model: ScriptedServer, probe: HealthProbe, ready: ModelLifecycle
) -> None:
    monitor = HealthMonitor(probe.problem, ready, failures_allowed=3)
    monitor.suspect("one bad request")
    monitor.step()
    assert ready.state is ModelState.READY
    scripted_model.script(PATH, SICK)
    monitor.step()
    assert ready.state is ModelState.READY, "the old line counts no more"


def test_a_model_that_is_not_serving_yet_is_not_asked(
    scripted_model: ScriptedServer, probe: HealthProbe
) -> None:
    lifecycle = ModelLifecycle()
    monitor = HealthMonitor(probe.problem, lifecycle, failures_allowed=1)
    monitor.step()
    lifecycle.loaded()
    monitor.step()
    lifecycle.failed(Cause.BENCHMARK, "no answer")
    monitor.step()
    assert scripted_model.requests() == []
    assert lifecycle.state is ModelState.ERRORED


def test_health_says_that_the_model_is_loaded_where_it_may(
    scripted_model: ScriptedServer, probe: HealthProbe
) -> None:
    lifecycle = ModelLifecycle()
    monitor = HealthMonitor(probe.problem, lifecycle, failures_allowed=1, loaded_by=PATH)
    scripted_model.script(PATH, SICK)
    assert monitor.step() == LOADING_INTERVAL
    assert lifecycle.state is ModelState.LOADING, "not an error: it is loading"
    scripted_model.script(PATH, whole(b"well"))
    monitor.step()
    assert lifecycle.state is ModelState.BENCHMARKING
    # Nothing is asked while the benchmark decides, and tried again.
    lifecycle.failed(Cause.BENCHMARK, "no answer")
    asked = len(scripted_model.requests())
    monitor.step()
    assert len(scripted_model.requests()) == asked
    assert lifecycle.state is ModelState.ERRORED


def test_health_undoes_an_error_line_where_it_tells_that_the_model_is_loaded(
    scripted_model: ScriptedServer, probe: HealthProbe
) -> None:
    lifecycle = ModelLifecycle()
    lifecycle.failed(Cause.LOG, "a first try failed")
    HealthMonitor(probe.problem, lifecycle, failures_allowed=1, loaded_by=PATH).step()
    assert lifecycle.state is ModelState.BENCHMARKING


def test_health_mends_only_what_health_broke(
    scripted_model: ScriptedServer, probe: HealthProbe, ready: ModelLifecycle
) -> None:
    ready.failed(Cause.LOG, "the log says no")
    HealthMonitor(probe.problem, ready, failures_allowed=1).step()
    assert ready.state is ModelState.ERRORED
    assert ready.status.error_msg == "the log says no"
