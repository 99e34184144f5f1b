"""Whether a port is free, and who listens on it: read from /proc, since ss and lsof may be missing."""

from __future__ import annotations

import socket
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from pyworker.instance.output import StartError

LISTENING = "0A"
#: On the command line of each worker.
WORKER = b"pyworker:create_app"


def holders(port: int) -> list[int]:
    """Processes that listen on the port, as far as this user may see."""
    inodes = set(_listening_inodes(port))
    return sorted(process for process in _processes() if inodes & set(_open_files(process)))


def require_free(host: str, ports: Mapping[str, str]) -> None:
    """Raise `StartError` with a line for each port, by the variable that sets it, that cannot be used."""
    seen: set[int] = set()
    if faults := [found for name, text in ports.items() if (found := fault_of(host, name, text, seen))]:
        # A worker that listens there is healthy, whatever becomes of this start.
        raise StartError(*faults, reported=not any(_is_worker(who) for port in seen for who in holders(port)))


def fault_of(host: str, name: str, text: str, before: set[int]) -> str:
    """Why the port called `name` cannot be used; empty if it can. Adds it to `before`."""
    if not is_port(text):
        return f"{name}={text} is not valid: expected a port from 1 to 65535"
    port = int(text)
    if port in before:
        return f"{name}={text}: the same port is given twice"
    before.add(port)
    try:
        _try_to_bind(host, port)
    except PermissionError:
        return f"{name}={text} is reserved for root: set {name} to another port"
    except OSError:
        who = described(holders(port)) or "a process of another user"
        return f"port {text} is taken by {who}: end it, or set {name} to another port"
    return ""


def is_port(text: str) -> bool:
    """Whether this is the number of a port."""
    return text.isascii() and text.isdigit() and 1 <= int(text) <= 65535


def described(processes: Sequence[int]) -> str:
    """The processes with their names; empty for none."""
    return ", ".join(f"process {process} ({_name_of(process)})" for process in processes)


def _try_to_bind(host: str, port: int) -> None:
    try:
        found = socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except socket.gaierror:
        return  # gunicorn says what is wrong with the host
    family, kind, protocol, _, address = found[0]
    with socket.socket(family, kind, protocol) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(address)


def _listening_inodes(port: int) -> Iterator[str]:
    for table in (Path("/proc/net/tcp"), Path("/proc/net/tcp6")):
        lines = table.read_text().splitlines()[1:] if table.exists() else []
        for row in (line.split() for line in lines):
            if row[3] == LISTENING and int(row[1].rpartition(":")[2], 16) == port:
                yield f"socket:[{row[9]}]"


def _processes() -> Iterator[int]:
    return (int(path.name) for path in Path("/proc").glob("[0-9]*"))


def _open_files(process: int) -> Iterator[str]:
    """None for a process that has ended or belongs to another user."""
    try:
        for entry in Path(f"/proc/{process}/fd").iterdir():
            yield str(entry.readlink())
    except OSError:
        pass


def _name_of(process: int) -> str:
    try:
        return Path(f"/proc/{process}/comm").read_text().strip()
    except OSError:
        return "gone"


def _is_worker(process: int) -> bool:
    try:
        return WORKER in Path(f"/proc/{process}/cmdline").read_bytes()
    except OSError:
        return False
