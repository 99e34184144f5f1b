"""A process full of clients that nobody wants: `python -m tests.support.crowd URL`, until its input ends."""

from __future__ import annotations

import contextlib
import random
import resource
import sys
import threading
from collections import Counter

from tests.support.hostile import KINDS
from tests.support.http import RawClient

#: Connections of each kind, and threads that keep them up.
_OF_A_KIND = 40
_THREADS = 2


class Crowd:
    """Keeps so many connections of each kind open, whatever becomes of them. `run` belongs to one thread."""

    def __init__(self, url: str, stop: threading.Event, seed: int) -> None:
        self._url = url
        self._stop = stop
        self._random = random.Random(seed)
        self._clients: dict[str, list[RawClient]] = {kind: [] for kind in KINDS}
        self.connected: Counter[str] = Counter()

    def run(self) -> None:
        """Until told to stop."""
        while not self._stop.wait(0.05):
            for kind, (_, piece) in KINDS.items():
                self._clients[kind] = [client for client in self._clients[kind] if _is_open(client, piece)]
                self._replace(kind)

    def _replace(self, kind: str) -> None:
        """Somebody leaves in the ordinary way or with a reset, and others come."""
        clients = self._clients[kind]
        if clients and self._random.random() < 0.2:
            leaver = clients.pop(self._random.randrange(len(clients)))
            self._random.choice((leaver.close, leaver.reset))()
        for _ in range(min(_OF_A_KIND // _THREADS - len(clients), 4)):
            with contextlib.suppress(OSError, EOFError):  # refused or hung up on, as it deserves
                clients.append(KINDS[kind][0](self._url))
                self.connected[kind] += 1


def _is_open(client: RawClient, piece: bytes) -> bool:
    """Whether the worker has not hung up on it; it sends a piece more. What came is not kept."""
    client.socket.settimeout(0)
    try:
        while client.socket.recv(65536):
            pass
    except OSError as error:
        # Nothing for now, over TLS by another name.
        if isinstance(error, BlockingIOError) or type(error).__name__ in (
            "SSLWantReadError",
            "SSLWantWriteError",
        ):
            with contextlib.suppress(OSError):
                client.socket.send(piece)
            return True
    client.close()
    return False


def main(url: str) -> None:
    """Says in the end how many connections there were."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 65536), hard))
    stop = threading.Event()
    crowds = [Crowd(url, stop, seed) for seed in range(_THREADS)]
    threads = [threading.Thread(target=crowd.run) for crowd in crowds]
    for thread in threads:
        thread.start()
    sys.stdin.read()
    stop.set()
    for thread in threads:
        thread.join()
    connected = sum((crowd.connected for crowd in crowds), Counter[str]())
    kinds = ", ".join(f"{count} {kind}" for kind, count in connected.most_common())
    sys.stdout.write(f"{connected.total()} connections: {kinds}\n")


if __name__ == "__main__":
    main(sys.argv[1])
