"""A program of the public SDK as it is started: `python worker.py`."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from pyworker.local.autoscaler import Autoscaler
from pyworker.local.signing import Signer
from tests.support.leaks import share_port, unshare_port
from tests.support.ports import free_port
from tests.support.process import environment
from tests.support.scripted import Act, ScriptedServer, chunk, head, whole
from tests.support.sdk_program import PROGRAMS, ProgramStack
from tests.support.waiting import DEADLINE, wait_until

BEGIN = head("Content-Type: text/plain", "Transfer-Encoding: chunked")


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory, signing_key: Signer) -> Iterator[ProgramStack]:
    """Ready, with a benchmark of its own."""
    folder = tmp_path_factory.mktemp("program")
    with Autoscaler(signer=signing_key) as autoscaler, ScriptedServer() as model:
        servers = {
            urlsplit(autoscaler.url).port or 0: "pyworker-autoscaler",
            model.port: f"scripted-{model.port}",
        }
        for port, thread in servers.items():
            share_port(port, thread)
        stack = ProgramStack(folder, autoscaler, model, PROGRAMS / "everything.py")
        try:
            stack.worker.start()
            stack.wait_loaded()
            yield stack
        finally:
            stack.worker.stop()
            for port in servers:
                unshare_port(port)


@pytest.fixture
def stack(program: ProgramStack) -> ProgramStack:
    """Its model server has no orders yet."""
    program.model.forget()
    return program


def test_an_option_without_effect_is_in_the_log(stack: ProgramStack) -> None:
    stack.worker.wait_for_log(
        "HandlerConfig(route='/misjudged'): healthcheck has no effect: use WorkerConfig."
    )


def test_a_parser_refuses_a_payload(stack: ProgramStack) -> None:
    answer, _ = stack.call("/named", {"nom": "x"})
    assert answer.status == 422
    assert answer.object()["payload"] == {"name": "missing parameter"}
    assert stack.model.requests("/named") == []


def test_parameters_that_a_function_does_not_take_are_refused(stack: ProgramStack) -> None:
    for payload, fault in (({}, "missing a required argument: 'name'"), ({"nom": 1}, "name")):
        answer, _ = stack.call("/serial", payload)
        assert answer.status == 422
        assert fault in answer.object()["payload"]["parameters"]


def test_a_workload_that_fails_counts_a_hundred(stack: ProgramStack) -> None:
    before = stack.work_served(0)
    answer, index = stack.call("/misjudged", {"secret": "of the client"})
    assert (answer.status, stack.outcome(index)) == (200, "Success")
    assert stack.work_served(before + 100) == before + 100
    stack.worker.wait_for_log("workload_calculator of /misjudged raised KeyError; the request counts 100")
    assert "of the client" not in stack.worker.log


def test_pieces_come_one_by_one(stack: ProgramStack) -> None:
    go_on = threading.Event()
    stack.model.script("/piecewise", BEGIN, chunk(b"ebb"), go_on, chunk(b"flow"), chunk(b""))
    client, index = stack.begin("/piecewise", {})
    with client:
        assert client.head() == 200
        assert client.chunk() == b"<ebb>"
        go_on.set()
        assert client.chunk() == b"<flow>"
        assert client.chunk() == b""
    assert stack.outcome(index) == "Success"


def test_a_generator_that_raises_in_the_middle_cuts_its_response(stack: ProgramStack) -> None:
    go_on = threading.Event()
    stack.model.script("/piecewise", BEGIN, chunk(b"ebb"), go_on, chunk(b"stop"), chunk(b""))
    client, index = stack.begin("/piecewise", {})
    with client:
        assert client.head() == 200
        assert client.chunk() == b"<ebb>"
        go_on.set()
        assert not client.rest().endswith(b"0\r\n\r\n")
    assert stack.outcome(index) == "Error"


def test_a_client_that_hangs_up_ends_the_call_of_the_model_server(stack: ProgramStack) -> None:
    never = threading.Event()
    stack.model.script("/piecewise", BEGIN, chunk(b"ebb"), never, chunk(b""))
    client, index = stack.begin("/piecewise", {})
    with client:
        assert client.head() == 200
        client.chunk()
        client.close()
    assert stack.model.request("/piecewise").gone.wait(DEADLINE)
    assert stack.outcome(index) == "Cancelled"
    never.set()


def test_a_function_on_a_thread_runs_alone_to_its_end(stack: ProgramStack) -> None:
    folder = stack.folder
    client, index = stack.begin("/serial", {"name": "first"})
    with client:
        wait_until((folder / "began-first").exists, "the first call")
    assert stack.outcome(index) == "Cancelled"
    second, index = stack.begin("/serial", {"name": "second"})
    with second:
        (folder / "end-second").touch()
        stack.wait_in_hand(1)
        assert not (folder / "began-second").exists()
        (folder / "end-first").touch()
        answer = second.answer()
    assert answer.object() == {"result": {"together": ["second"], "thread": "pyworker-sdk-call"}}
    assert stack.outcome(index) == "Success"


def test_a_model_server_that_breaks_off_or_refuses(stack: ProgramStack) -> None:
    stack.model.script("/piecewise", Act.RESET)
    answer, index = stack.call("/piecewise", {})
    assert (answer.status, stack.outcome(index)) == (502, "Error")
    assert answer.object() == {"error": "/piecewise: the model server cannot be reached"}
    stack.model.script("/piecewise", whole(b"", status="503 Busy"))
    answer, index = stack.call("/piecewise", {})
    assert (answer.status, stack.outcome(index)) == (503, "Rejected")


ONE_ROUTE = (
    "handler = HandlerConfig('/a', benchmark_config=BenchmarkConfig([{}]))\n"
    "config = WorkerConfig('http://127.0.0.1', handlers=[handler], model_healthcheck_url='/')\n"
)


@pytest.mark.parametrize(
    ("program", "reason"),
    [
        (
            "Worker(WorkerConfig(handlers=[])).run()",
            "ConfigError: WorkerConfig.handlers is empty: give a HandlerConfig for each route",
        ),
        (
            "import types\n"
            "torch = sys.modules['torch'] = types.ModuleType('torch')\n"
            "torch.cuda = types.SimpleNamespace(is_initialized=lambda: True)\n"
            "Worker(config).run()",
            "load the model in WorkerConfig.lifecycle or at the first request",
        ),
        (
            "import threading\n"
            "own = threading.Thread(target=lambda: Worker(config).run())\n"
            "own.start(), own.join(), sys.exit(1)",
            "ConfigError: Worker.run() handles signals: call it on the main thread",
        ),
        (
            "import os, threading\n"
            "os.environ['WORKER_PORT'] = 'none'\n"
            "threading.Thread(target=threading.Event().wait, name='prefetcher', daemon=True).start()\n"
            "Worker(config).run()",
            "go on in this process, and do not exist in the one that serves: prefetcher",
        ),
    ],
    ids=["handlers", "cuda", "thread", "threads"],
)
def test_a_program_that_is_wrong_is_told_why(program: str, reason: str, tmp_path: Path) -> None:
    text = f"import sys\nfrom pyworker.sdk import *\n{ONE_ROUTE}{program}\n"
    (tmp_path / "worker.py").write_text(text, "utf-8")
    done = subprocess.run(
        [sys.executable, "worker.py"],
        cwd=tmp_path,
        env=environment(tmp_path, free_port(), {"CONTAINER_ID": ""}),  # nobody is told
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=False,
    )
    assert done.returncode == 1
    assert reason in done.stderr


@pytest.mark.parametrize(
    ("variables", "reason"),
    [
        ({"WORKER_THREADS": "few"}, "pyworker: WORKER_THREADS='few' is not valid: expected an integer"),
        ({"MODEL_LOG": "", "MODEL_READINESS": "logs"}, "cannot start: MODEL_LOG is not set: set it to the"),
    ],
)
def test_a_program_that_cannot_start_says_so_to_the_autoscaler(
    variables: dict[str, str],
    reason: str,
    tmp_path: Path,
    local_autoscaler: Autoscaler,
    scripted_model: ScriptedServer,
) -> None:
    program = PROGRAMS / "everything.py"
    stack = ProgramStack(tmp_path, local_autoscaler, scripted_model, program, variables=variables)
    stack.worker.launch()
    stack.wait_for_report(lambda report: str(report["error_msg"]).startswith(reason), "the reason")
    assert stack.worker.wait() not in (0, None)


def test_a_worker_process_that_dies_is_followed_by_another(stack: ProgramStack) -> None:
    first = stack.worker.worker_pid
    os.kill(first, signal.SIGKILL)
    wait_until(lambda: stack.worker.children not in ([], [first]), "another process")
    wait_until(stack.worker.answers_ping, "its answer")
    stack.wait_for_next_report(lambda report: report["max_perf"] > 0, "a report of a ready worker")
    answer, index = stack.call("/piecewise", {})
    assert (answer.body, stack.outcome(index)) == (b'<{"ok": true}>', "Success")
    assert not (stack.folder / "ended").exists()


def test_sigterm_ends_the_program_once_and_with_status_0(stack: ProgramStack) -> None:
    """After all others."""
    stack.worker.terminate()
    assert stack.worker.wait() == 0
    # As its supervisor on an instance expects.
    assert "requests in hand have 7 s" in stack.worker.log
    assert (stack.folder / "ended").read_text("utf-8") == "once\n"
