"""`python -m pyworker.top`: against workers and fleets, and against what is none."""

from __future__ import annotations

import io
import json
import os
import pty
import select
import signal
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

import pytest
from rich.console import Console

from pyworker.local.autoscaler import Autoscaler
from pyworker.local.serving import LocalServer
from pyworker.top.__main__ import main
from pyworker.top.fields import figure, figures, items, pairs, text
from pyworker.top.words import bars, clock, number, seconds, span
from pyworker.top.worker_screen import worker_screen
from tests.support.http import ask
from tests.support.ports import own_address
from tests.support.process import ROOT
from tests.support.scripted import Act, ScriptedServer, head, whole
from tests.support.stack import INFO_LINE, LOADED_LINE, MASTER_TOKEN, NewStack, Stack
from tests.support.status import status_report
from tests.support.waiting import DEADLINE, wait_until

Capture = pytest.CaptureFixture[str]
STREAM = "Content-Type: text/event-stream"


def top(
    *arguments: str, width: int = 140, variables: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pyworker.top", *arguments],
        cwd=ROOT,
        env={**os.environ, "COLUMNS": str(width), "PYTHONUTF8": "1", **(variables or {})},
        capture_output=True,
        text=True,
        timeout=2 * DEADLINE,
        check=False,
    )


def refusal(capsys: Capture, *arguments: str) -> str:
    """The one line of a program that has nothing to show."""
    assert main([*arguments, "--once"]) == 1
    done = capsys.readouterr()
    assert done.out == ""
    assert done.err.startswith("pyworker.top: ")
    assert done.err.count("\n") == 1
    return done.err


@pytest.mark.parametrize("width", [140, 60])
def test_a_worker_at_once(stack: Stack, width: int) -> None:
    forged = {"auth_data": stack.auth_data(signature="AAAA"), "payload": {"prompt": "x"}}
    assert ask(stack.url, "POST", "/pass", json.dumps(forged).encode()).status == 401
    stack.worker.say(f"{INFO_LINE} \x1b[31m[bold]hello[/bold]")
    stack.post("/pass", work=50.0)
    done = top(f"{stack.url}/status", "--once", width=width)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("● Ready for ")
    for shown in (
        "In hand",
        "Last requests",
        "the signature does not",
        "/pass",
        "Model log",
        "[bold]hello[/bold]",
    ):
        assert shown in done.stdout
    assert "\x1b" not in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= width


def test_a_worker_that_loads_says_what_it_waits_for(capsys: Capture, new_stack: NewStack) -> None:
    stack = new_stack({"WORKER_HOST": "0.0.0.0"})
    stack.worker.start()
    address = f"{own_address()}:{stack.worker.port}"
    assert "set MASTER_TOKEN, or give --token" in refusal(capsys, address)
    assert "refused this token" in refusal(capsys, address, "--token", "wrong")
    done = top(address, "--once", variables={"MASTER_TOKEN": MASTER_TOKEN})
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("● Loading for ")
    assert f"'{LOADED_LINE}' was not seen" in done.stdout


def test_a_fleet_at_once() -> None:
    with Autoscaler() as autoscaler:
        for report in (
            status_report(id=1, url="http://worker-1:3000", max_perf=1234.0, num_requests_working=2),
            status_report(id=2, url="http://worker-2:3000", error_msg="out of [red]memory"),
        ):
            assert ask(autoscaler.url, "POST", "/worker_status/", json.dumps(report).encode()).status == 200
        done = top(autoscaler.url, "--once")
        assert (done.returncode, done.stderr) == (0, "")
        assert "Fleet: 1 errored, 1 ready" in done.stdout
        assert "1,234/s" in done.stdout
        assert "out of [red]memory" in done.stdout
        narrow = top(autoscaler.url.removeprefix("http://"), "--once", width=50)
        assert max(map(len, narrow.stdout.splitlines())) <= 50


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("http://127.0.0.1:1", "cannot connect to http://127.0.0.1:1: connection refused"),
        ("http://user:secret@127.0.0.1:1", "cannot connect to http://***@127.0.0.1:1"),
        ("ftp://127.0.0.1", "not a URL"),
        ("127.0.0.1:99999", "not a URL"),
        ("http://", "not a URL"),
    ],
)
def test_nothing_is_there(capsys: Capture, url: str, said: str) -> None:
    shown = refusal(capsys, url)
    assert said in shown
    assert "secret" not in shown


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ([whole(b"{}", "Content-Type: application/json")], "responded with status 200"),
        ([head(STREAM), b"data: {\n\n", Act.CLOSE], "sent what is no event"),
        ([head(STREAM), b"event: status\ndata: 1\n\n", Act.CLOSE], "did not tell everything"),
        ([head(STREAM), b"event: x\ndata: 1\n\n", Act.RESET], "broke off"),
        ([head(STREAM), b"data: " + b"x" * 5_000_000, Act.CLOSE], "longer than"),
    ],
)
def test_a_server_that_is_something_else(
    capsys: Capture, scripted_model: ScriptedServer, script: Any, said: str
) -> None:
    scripted_model.script("/status/events", *script)
    assert said in refusal(capsys, scripted_model.url)


def test_a_certificate_that_is_not_there(capsys: Capture) -> None:
    assert "--ca: there is no file none.pem" in refusal(capsys, "https://127.0.0.1:1", "--ca", "none.pem")


def test_a_web_server_is_neither(capsys: Capture) -> None:
    def app(_environ: Any, start_response: Any) -> list[bytes]:
        start_response("404 Not Found", [("Content-Type", "text/html")])
        return [b"nothing"]

    server = LocalServer(app, name="pyworker-neither")
    server.start()
    try:
        assert "neither a worker nor a local autoscaler" in refusal(capsys, server.url)
    finally:
        server.stop()


def test_on_a_terminal_it_goes_on_until_ctrl_c(stack: Stack) -> None:
    controller, terminal = pty.openpty()
    program = subprocess.Popen(
        [sys.executable, "-m", "pyworker.top", stack.url],
        cwd=ROOT,
        env={**os.environ, "TERM": "xterm", "COLUMNS": "100", "LINES": "40", "PYTHONUTF8": "1"},
        stdin=terminal,
        stdout=terminal,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    os.close(terminal)
    shown = ""

    def read() -> str:
        nonlocal shown
        if select.select([controller], [], [], 0.1)[0]:
            shown += os.read(controller, 65536).decode("utf-8", "replace")
        return shown

    try:
        wait_until(lambda: "Ready for" in read(), "the first picture")
        stack.post("/pass", work=12_345.0)
        wait_until(lambda: "12,345" in read(), "the request")
        program.send_signal(signal.SIGINT)
        wait_until(lambda: "\x1b[?1049l" in read() or program.poll() is not None, "the terminal as it was")
        assert program.wait(DEADLINE) == 0
        assert program.stderr is not None
        assert program.stderr.read() == b""
    finally:
        program.kill()
        program.wait()
        if program.stderr is not None:
            program.stderr.close()
        os.close(controller)


@pytest.mark.parametrize("width", [60, 140])
def test_a_long_text_cuts_nothing_but_itself(width: int) -> None:
    request = {"ended_at": 0.0, "status": 502, "total": 1.0, "route": "/pass", "reason": "because " * 200}
    refusal = {"at": 0.0, "status": 422, "count": 3, "route": "/r" * 999, "reason": "no field"}
    sections = {"status": {"last_refusals": [refusal]}, "requests": [request]}
    screen = Console(width=width, record=True, file=io.StringIO())
    screen.print(worker_screen(sections, "", width, None))
    shown = screen.export_text().splitlines()
    assert [" 502 " in line and " /pass " in line for line in shown].count(True) == 1
    assert [" 422 " in line and " 3 " in line for line in shown].count(True) == 1
    assert max(map(len, shown)) <= width


# -- figures and words -----------------------------------------------------------------------------------


def test_what_is_not_of_its_kind_is_left_out() -> None:
    value: dict[str, Any] = {
        "a": {"b": True, "c": float("nan"), "d": 2},
        "e": [1, "x", None],
        "f": "a\x1b[1m\nb",
    }
    assert [figure(value, "a", name) for name in "bcdz"] == [None, None, 2.0, None]
    assert figure(value, "e", "b") is None
    assert figure({"a": 10**400}, "a") is None
    assert figures(value, "e") == [1.0, None, None]
    assert (items(value, "a"), pairs(value, "e")) == ([], {})
    assert text(value, "f") == "a [1m b"
    assert len(text({"f": "x" * 10_000}, "f")) == 2_000


def test_numbers_durations_and_bars() -> None:
    assert [number(value) for value in (None, 0.0, 0.123, 1.0, 12.34, 1234.5, 2.5e7)] == (
        ["-", "0", "0.12", "1", "12.3", "1,234", "2.50e+07"]
    )
    assert [seconds(value) for value in (None, 0.0, 0.0012, 0.5, 2.345, 59.0, 61.0)] == (
        ["-", "0 s", "1.2 ms", "500 ms", "2.35 s", "59.0 s", "1 min 1 s"]
    )
    assert [span(value) for value in (-1.0, 59.6, 3_600.0, 90_061.0)] == ["0 s", "1 min", "1 h", "1 d 1 h"]
    assert clock(1e300) == "-"
    assert bars([None, 0.0, 1.0, 2.0], 3) == "▁▅█"
    assert (bars([None, 0.0], 9), bars([1.0], 0)) == (" ▁", "")
