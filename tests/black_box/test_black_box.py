"""What is left of a worker that failed, was killed or started slowly: real processes and real files."""

from __future__ import annotations

import json
import os
import signal
import threading
from pathlib import Path
from typing import Any

from pyworker.black_box.folder import NAME, BoxFolder, process_mark
from pyworker.black_box.reader import Part
from pyworker.black_box.start_times import load
from pyworker.black_box.story import story
from pyworker.doctor.__main__ import main
from tests.support.http import ask
from tests.support.scripted import whole
from tests.support.stack import ERROR_LINE, LOADED_LINE, MASTER_TOKEN, NewStack, Stack
from tests.support.waiting import wait_until

JSON = "Content-Type: application/json"


def kept(stack: Stack, kind: str) -> list[dict[str, Any]]:
    """The files of this kind, oldest first."""
    paths = BoxFolder(stack.folder).kept()
    return [json.loads(path.read_text("utf-8")) for path in paths if path.name.endswith(f"-{kind}.json")]


def wait_kept(stack: Stack, kind: str) -> dict[str, Any]:
    wait_until(lambda: kept(stack, kind), f"a black box of kind {kind}")
    return kept(stack, kind)[-1]


def told(box: object) -> str:
    return "\n".join(story(Part(box)))


def wait_rolled(stack: Stack) -> None:
    """Until the file on disk knows a request that has ended."""
    file = stack.folder / NAME / "now.json"
    wait_until(lambda: file.exists() and json.loads(file.read_text("utf-8"))["requests"], "the request")


def test_a_killed_worker_and_a_killed_group_leave_one_each(new_stack: NewStack) -> None:
    stack = new_stack()
    stack.start_ready()
    assert stack.post("/pass", "a prompt of nobody").status == 200
    wait_rolled(stack)

    os.kill(stack.worker.worker_pid, signal.SIGKILL)
    box = wait_kept(stack, "ended")
    assert box["what"] == "the worker process was ended by signal 9"
    assert [one["route"] for one in box["requests"]] == ["/pass"]
    assert box["model_lines"] == [LOADED_LINE]
    assert box["status_report"]["state"] == "ready"
    assert any(one["name"] == "MainThread" and one["stack"] for one in box["threads"])
    assert box["memory"]["resident"] > 10**6
    text = told(box)
    assert "SIGKILL" in text
    assert "200 Success /pass" in text
    assert "a prompt of nobody" not in json.dumps(box)
    assert MASTER_TOKEN not in json.dumps(box)

    # The next one crashes: gunicorn's own signal for a main thread that stands still ends it with a status.
    wait_until(stack.worker.answers_ping, "the new process")
    file = stack.folder / NAME / "now.json"
    wait_until(file.exists, "its file")
    crashed = stack.worker.worker_pid
    os.kill(crashed, signal.SIGABRT)
    wait_until(lambda: len(kept(stack, "ended")) == 2, "its black box")
    assert kept(stack, "ended")[-1]["what"] == "the worker process was ended by exit code 1"

    # The new process serves; now everything is killed at once.
    wait_until(lambda: stack.worker.children not in ([], [crashed]), "another process")
    wait_until(stack.worker.answers_ping, "the new process")
    wait_until(file.exists, "its file")
    # Of the child it does not matter whether it is killed, too, or ends as it finds itself alone.
    child = str(stack.worker.worker_pid)
    os.kill(stack.worker.pid, signal.SIGKILL)
    stack.worker.wait()
    wait_until(lambda: not process_mark(child), "the end of the child")
    stack.again()
    stack.worker.start()
    assert "and with it all that had started it" in wait_kept(stack, "ended")["what"]
    stack.worker.wait_for_log("the last run ended unexpectedly")

    before = BoxFolder(stack.folder).kept()
    stack.worker.stop()
    assert BoxFolder(stack.folder).kept() == before, "a clean stop leaves none"
    assert not file.exists()


def test_a_model_that_failed_and_a_folder_that_cannot_be_written(new_stack: NewStack) -> None:
    stack = new_stack()
    (stack.folder / NAME).write_text("in the way", "utf-8")
    stack.start_ready()
    stack.worker.wait_for_log("cannot be written: File exists")
    assert stack.post("/pass").status == 200
    (stack.folder / NAME).unlink()
    wait_until((stack.folder / NAME / "now.json").exists, "the way is free")
    assert load(stack.folder / ".last_start").keys() >= {"loading"}

    stack.worker.say(f"{ERROR_LINE}: no weights")
    box = wait_kept(stack, "errored")
    assert box["what"] == f"the worker became errored: {ERROR_LINE}: no weights"
    assert f"{ERROR_LINE}: no weights" in told(box)
    stack.wait_for_report(lambda report: "tells more" in report["error_msg"], "the excerpt")
    message = stack.reports[-1]["error_msg"]
    assert message.startswith(f"{ERROR_LINE}: no weights (after it was ready")
    assert len(message) < 800


def test_a_start_that_failed_tells_its_phases(new_stack: NewStack) -> None:
    stack = new_stack()
    (stack.folder / ".last_start").write_text('{"loading": 7.0, "benchmarking": 2.0}', "utf-8")
    stack.worker.start()
    stack.worker.say(f"{ERROR_LINE} early")
    box = wait_kept(stack, "errored")
    assert box["what"] == f"the start failed: {ERROR_LINE} early"
    assert box["start"]["last_time"] == {"loading": 7.0, "benchmarking": 2.0}
    assert "s (7.0 s the last time)" in told(box)
    stack.wait_for_report(lambda report: "during the start: loading" in report["error_msg"], "the excerpt")


def test_a_start_that_takes_long_tells_what_it_waits_for(new_stack: NewStack) -> None:
    stack = new_stack({"MODEL_LOADING_WARN_AFTER": "0.5"})
    gate = threading.Event()
    stack.model.script("/benchmark", gate, whole(b"{}", JSON))
    stack.worker.start()
    box = wait_kept(stack, "slow-start")
    assert box["what"] == "the start takes long: the worker is loading still"
    assert f"it waits for: {LOADED_LINE!r} was not seen" in told(box)
    gate.set()


def test_a_worker_package_that_does_not_load_leaves_one(new_stack: NewStack, tmp_path: Path) -> None:
    package = tmp_path / "broken_worker"
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('no such thing')\n", "utf-8")
    stack = new_stack({"PYTHONPATH": f"{Path.cwd()}:{tmp_path}"}, "pyworker:create_app('broken_worker')")
    stack.worker.launch()
    box = wait_kept(stack, "start")
    assert "RuntimeError: no such thing" in box["what"]
    stack.worker.stop()


def test_doctor_reads_the_newest_aloud(stack: Stack, tmp_path: Path, capsys: Any, monkeypatch: Any) -> None:
    monkeypatch.setenv("PYWORKER_STATE_DIR", str(tmp_path))
    assert main(["--black-box"]) == 1
    assert "no worker has failed there" in capsys.readouterr().err
    folder = BoxFolder(tmp_path)
    folder.keep("errored", {"what": "the first"}, now=1e9)
    path = folder.keep("errored", {"what": "the second"}, now=2e9)
    assert main(["--black-box"]) == 0
    assert "the second" in capsys.readouterr().out
    assert main(["--black-box", str(path)]) == 0
    assert ask(stack.url, "GET", "/ping").status == 200
