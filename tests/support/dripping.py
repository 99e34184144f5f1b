"""Servers that respond a byte at a time: no single read ever times out."""

from __future__ import annotations

import contextlib
import socket
import threading

from typing_extensions import Self

DRIPS = {
    "silent": b"",
    "status line": b"HTTP/1.1 200 " + b"x" * 1000,
    "header block": b"HTTP/1.1 200 OK\r\nX: " + b"y" * 1000,
    "interim": b"HTTP/1.1 100 Continue\r\n\r\n" * 100,
    "body": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"1\r\nx\r\n" * 200,
}


class Dripping:
    """Sends `sent` on each connection, `piece` bytes every `pause` seconds; it is silent if that is empty."""

    def __init__(self, sent: bytes, *, piece: int = 1, pause: float = 0.3) -> None:
        self._sent = sent
        self._piece = piece
        self._pause = pause
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.settimeout(pause)
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._run, name="test-dripping")
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    def _run(self) -> None:
        sent: dict[socket.socket, int] = {}
        while not self._done.wait(self._pause):
            with contextlib.suppress(TimeoutError):
                sent[self._listener.accept()[0]] = 0
            for connection, count in sent.items():
                with contextlib.suppress(OSError):
                    connection.send(self._sent[count : count + self._piece])
                sent[connection] = count + self._piece
        for connection in sent:
            connection.close()

    def close(self) -> None:
        self._done.set()
        self._thread.join()
        self._listener.close()
