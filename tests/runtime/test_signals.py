"""Signals by which gunicorn reloads and scales: there is one process of one identity at any moment."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from pyworker.runtime.signals import REFUSED_SIGNALS
from tests.support.http import ask
from tests.support.ports import free_port
from tests.support.process import ROOT, environment
from tests.support.stack import ECHO_WORKER, NewStack, Stack
from tests.support.waiting import wait_until


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text("ascii").split()]


@pytest.mark.parametrize("number", REFUSED_SIGNALS, ids=lambda number: number.name)
def test_a_signal_that_reloads_or_scales_is_refused(stack: Stack, number: signal.Signals) -> None:
    before = stack.worker.worker_pid
    said = stack.worker.log.count(f"{number.name} is refused")
    os.kill(stack.worker.pid, number)
    wait_until(lambda: stack.worker.log.count(f"{number.name} is refused") > said, "a line about the refusal")
    # Handled one after the other: once this one was, whatever the first began would show.
    lines = stack.worker.log.count("<HardenedThreadWorker")
    os.kill(stack.worker.pid, signal.SIGUSR1)
    wait_until(lambda: stack.worker.log.count("<HardenedThreadWorker") > lines, "SIGUSR1 keeps its meaning")
    assert stack.worker.children == [before]
    assert ask(stack.url, "GET", "/ping").body == b"pong"


@pytest.mark.parametrize("number", REFUSED_SIGNALS, ids=lambda number: number.name)
def test_the_worker_process_ignores_it(stack: Stack, number: signal.Signals) -> None:
    """A closing terminal or `kill -HUP -PGID` reaches it past the master."""
    before = stack.worker.worker_pid
    os.kill(before, number)
    assert ask(stack.url, "GET", "/ping").body == b"pong"
    assert stack.post("/pass").status == 200
    assert stack.worker.worker_pid == before
    state = Path(f"/proc/{before}/stat").read_text("ascii").rpartition(")")[2].split()[0]
    assert state not in "TtZX", "neither stopped nor ended"


def test_a_process_that_is_killed_is_replaced_after_a_refusal(new_stack: NewStack) -> None:
    stack = new_stack()
    stack.start_ready()
    os.kill(stack.worker.pid, signal.SIGTTOU)
    os.kill(stack.worker.pid, signal.SIGHUP)
    stack.worker.wait_for_log("SIGHUP is refused")
    first = stack.worker.worker_pid
    os.kill(first, signal.SIGKILL)
    wait_until(lambda: stack.worker.children not in ([], [first]), "a new process")
    wait_until(stack.worker.answers_ping, "an answer of the new process")
    assert len(stack.worker.children) == 1


def test_a_terminal_that_closes_ends_nothing(tmp_path: Path) -> None:
    port = free_port()
    terminal, theirs = pty.openpty()
    server = subprocess.Popen(
        [sys.executable, "-m", "gunicorn", "-c", str(ROOT / "gunicorn.conf.py"), ECHO_WORKER],
        env=environment(tmp_path, port, {"REPORT_ADDR": "http://127.0.0.1:9", "DRAIN_TIMEOUT": "1"}),
        cwd=tmp_path,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
        preexec_fn=_take_terminal,
    )
    os.close(theirs)
    try:
        wait_until(lambda: _answers(port), "an answer of the worker")
        [worker] = children(server.pid)
        os.close(terminal)  # the kernel sends SIGHUP to the session's leader and the foreground group
        for _ in range(20):
            assert _answers(port)
        os.kill(server.pid, signal.SIGTTIN)
        assert _answers(port)
        assert server.poll() is None
        assert children(server.pid) == [worker]
    finally:
        server.terminate()
        server.wait(45)


def _take_terminal() -> None:
    """In the child: its stdin is the terminal of its session."""
    import fcntl
    import termios

    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


def _answers(port: int) -> bool:
    try:
        return ask(f"http://127.0.0.1:{port}", "GET", "/ping").body == b"pong"
    except OSError:
        return False
