"""What gunicorn would do by default and must not do here, seen from outside a running worker."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path

import pytest

from tests.support.http import ask
from tests.support.stack import Stack

_LISTENS = "00010000"


def own_sockets(pid: int) -> set[str]:
    """The inodes of a process's sockets."""
    found: set[str] = set()
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            if match := re.fullmatch(r"socket:\[(\d+)\]", str(entry.readlink())):
                found.add(match[1])
    return found


@pytest.mark.parametrize("name", ["PATH_INFO", "SCRIPT_NAME", "X-Forwarded-Path", "X-Script-Name"])
def test_nobody_on_this_machine_rewrites_paths(stack: Stack, name: str) -> None:
    assert ask(stack.url, "GET", "/ping", headers={name: "/pass"}).body == b"pong"
    assert ask(stack.url, "POST", "/elsewhere", headers={name: "/ping"}).status == 404


def test_a_client_cannot_pass_for_another_scheme(stack: Stack) -> None:
    headers = {"X-Forwarded-Proto": "https", "X-Forwarded-Ssl": "on", "Forwarded": "proto=https"}
    assert ask(stack.url, "GET", "/ping", headers=headers).status == 200


def test_there_is_no_control_socket(stack: Stack) -> None:
    listening = {
        fields[6]
        for fields in (line.split() for line in Path("/proc/net/unix").read_text("utf-8").splitlines()[1:])
        if fields[3] == _LISTENS
    }
    for pid in (stack.worker.pid, stack.worker.worker_pid):
        assert not own_sockets(pid) & listening


def test_only_the_two_ports_are_open(stack: Stack) -> None:
    """The clients' port, and the one for the model server, on loopback only."""
    rows = [line.split() for line in Path("/proc/net/tcp").read_text("utf-8").splitlines()[1:]]
    listening = {row[9]: row[1] for row in rows if row[3] == "0A"}
    addresses = {listening[inode] for inode in own_sockets(stack.worker.worker_pid) if inode in listening}
    assert len(addresses) == 2, addresses
    assert {address.split(":")[0] for address in addresses} == {"0100007F"}
    ports = {int(address.split(":")[1], 16) for address in addresses}
    assert stack.worker.port in ports


@pytest.mark.parametrize("method", ["GET", "POST", "HEAD", "OPTIONS"])
@pytest.mark.parametrize(
    "path", ["//ping", "///ping", "//elsewhere/ping", "/ping/", "/pass/", "//pass", "/%2fping"]
)
def test_no_path_leads_to_a_page_or_elsewhere(stack: Stack, method: str, path: str) -> None:
    answer = ask(stack.url, method, path, headers={"Host": "evil.example"})
    assert answer.header("Location") is None
    assert not 300 <= answer.status < 400
    assert "html" not in (answer.header("Content-Type") or "")
    if answer.status >= 400:
        assert answer.header("Content-Type") == "application/json"
        assert method == "HEAD" or answer.object()["error"]
    assert b"evil" not in answer.body
