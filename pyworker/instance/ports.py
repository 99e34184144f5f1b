"""Whether ports can be listened at, and who does already, as /proc tells: ss and lsof may be missing."""

from __future__ import annotations

import argparse
import socket
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

LISTENING = "0A"
#: On the command line of each worker.
WORKER = b"pyworker:create_app"

FAULT = 1
HELD_BY_A_WORKER = 3


def holders(port: int) -> list[int]:
    """Processes that listen on the port, as far as this user may see."""
    inodes = set(_listening_inodes(port))
    return sorted(process for process in _processes() if inodes & set(_open_files(process)))


def fault_of(host: str, name: str, text: str, before: set[int]) -> str:
    """Why the port called `name` cannot be used; empty where it can. Adds it to `before`."""
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
    """The processes with their names."""
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
    """Nothing for a process that is gone, or another user's."""
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


def main(arguments: Sequence[str]) -> int:
    """The program; its exit status."""
    parser = argparse.ArgumentParser(
        prog="ports.py",
        description="Print a line for each port that is no port, given twice, or taken.",
        epilog=f"Exit status: 0 where all are free, {HELD_BY_A_WORKER} where a worker has one, else {FAULT}.",
    )
    parser.add_argument("--host", default="127.0.0.1", help="the address to listen at (default: %(default)s)")
    parser.add_argument("--holder", metavar="PORT", help="print who listens on this port, and nothing else")
    parser.add_argument("ports", metavar="NAME=PORT", nargs="*", help="a port and the variable that sets it")
    options = parser.parse_args(arguments)
    if options.holder is not None:
        sys.stdout.write(described(holders(int(options.holder))) if is_port(options.holder) else "")
        return 0
    seen: set[int] = set()
    given = [argument.partition("=") for argument in options.ports]
    faults = [found for name, _, port in given if (found := fault_of(options.host, name, port, seen))]
    sys.stdout.writelines(f"{fault}\n" for fault in faults)
    if not faults:
        return 0
    return HELD_BY_A_WORKER if any(_is_worker(who) for port in seen for who in holders(port)) else FAULT


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
