"""An event loop on a thread of its own, with threads that answer every request at once."""

from __future__ import annotations

import os
import socket
import threading
from contextlib import ExitStack

from pyworker.downstream.acceptor import Listener
from pyworker.downstream.connection import ClientSocket
from pyworker.downstream.event_loop import EventLoop
from pyworker.proxy.disconnect import DisconnectWatcher
from pyworker.runtime.thread_pool import ThreadPool

REQUEST = b"GET / HTTP/1.1\r\n\r\n"
TOGETHER = b"GET /together HTTP/1.1\r\n\r\n"
HELD = b"GET /held HTTP/1.1\r\n\r\n"
ANSWER = b"HTTP/1.1 204 No Content\r\n\r\n"


class Front:
    """An event loop on a thread of its own, with threads that answer every request at once."""

    def __init__(self, ending: ExitStack, max_connections: int) -> None:
        self.pool = ThreadPool(4, self._answer, concurrency=1)
        self.event_loop = EventLoop(
            self.pool.submit,
            DisconnectWatcher().notify,
            self.pool.nudge_stalled,
            max_connections=max_connections,
            max_large=1,
            max_body=2**20,
            keepalive=60,
        )
        listener = ending.enter_context(socket.create_server(("127.0.0.1", 0)))
        self.url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        wake_read, self._wake_write = os.pipe()
        ending.callback(os.close, wake_read)
        ending.callback(os.close, self._wake_write)
        self.event_loop.wake_by(wake_read)
        self.event_loop.listen([Listener(listener, None)])
        self._stopping = False
        self.both = threading.Barrier(2)
        self.release = threading.Event()
        thread = threading.Thread(target=self._serve)
        thread.start()
        ending.callback(self.pool.close)
        ending.callback(thread.join)
        ending.callback(self._stop)

    def _serve(self) -> None:
        while not self._stopping:
            self.event_loop.serve(1.0)
        self.event_loop.drain()
        while not self.event_loop.is_drained:
            self.event_loop.serve(0.1)
        self.event_loop.close()

    def _stop(self) -> None:
        self._stopping = True
        os.write(self._wake_write, b"\0")

    def _answer(self, client: ClientSocket) -> None:
        if client.framing.received == TOGETHER:
            self.both.wait(10)
        if client.framing.received == HELD:
            self.release.wait(10)
        client.sock.sendall(ANSWER)
        self.event_loop.give_back(client, b"")
