"""Both ends of a TCP connection, and a way to break it."""

from __future__ import annotations

import contextlib
import socket
import struct
from collections.abc import Generator

Ends = tuple[socket.socket, socket.socket]


@contextlib.contextmanager
def connected() -> Generator[Ends]:
    """The near and the far end."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        near = socket.create_connection(listener.getsockname())
        far, _ = listener.accept()
    with near, far:
        yield near, far


def reset(connection: socket.socket) -> None:
    """Close it so that the other end gets an error."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()
