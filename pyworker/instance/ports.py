"""Whether a port is free, and which processes listen on it: from /proc, since ss and lsof may be missing."""

from __future__ import annotations

import contextlib
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
    processes = (int(path.name) for path in Path("/proc").glob("[0-9]*"))
    return sorted(process for process in processes if inodes & open_files(process))


def require_free(host: str, ports: Mapping[str, str]) -> None:
    """Raise `StartError` with a line for each port, by the variable that sets it, that cannot be used."""
    seen: set[int] = set()
    if faults := [found for name, text in ports.items() if (found := fault_of(host, name, text, seen))]:
        # A worker that listens there is healthy, whatever becomes of this start.
        listening = [process for port in seen for process in holders(port)]
        healthy = any(WORKER in _about(process, "cmdline") for process in listening)
        raise StartError(*faults, reported=not healthy)


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
        holder = described(holders(port)) or "a process of another user"
        return f"port {text} is taken by {holder}: end it, or set {name} to another port"
    return ""


def is_port(text: str) -> bool:
    """Whether this is the number of a port."""
    return text.isascii() and text.isdigit() and 1 <= int(text) <= 65535


def described(processes: Sequence[int]) -> str:
    """The processes with their names; empty for none."""
    names = ((process, _about(process, "comm").decode("utf-8", "replace").strip()) for process in processes)
    return ", ".join(f"process {process} ({name or 'gone'})" for process, name in names)


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


def open_files(process: int) -> set[str]:
    """Paths and other names of them; none if the process has ended or belongs to another user."""
    found: set[str] = set()
    with contextlib.suppress(OSError):
        for entry in Path(f"/proc/{process}/fd").iterdir():
            with contextlib.suppress(OSError):  # closed meanwhile
                found.add(str(entry.readlink()))
    return found


def _about(process: int, file: str) -> bytes:
    """Empty if the process has ended."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{process}/{file}").read_bytes()
    return b""
