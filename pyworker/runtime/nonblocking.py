"""`send`, `recv` and a small `pwrite` that never block, and therefore hold the GIL during the system call.

The methods of `socket.socket` release it for each call, and then wait for it behind every other thread.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import functools
import os
import select
import socket
from typing import Any

from pyworker.runtime.limits import COPY_SIZE
from pyworker.runtime.thread_pool import waiting

# PyDLL, unlike CDLL, does not release the GIL. `send` and `recv` have no `argtypes`, which take longer than
# the call: an int is passed as an int of C, bytes as a pointer to them, everything else as what it is.
_libc = ctypes.PyDLL(None, use_errno=True)
_send = _libc.send
_send.restype = ctypes.c_ssize_t
_recv = _libc.recv
_recv.restype = ctypes.c_ssize_t

_pwrite = _libc.pwrite
_pwrite.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_size_t, ctypes.c_long)
_pwrite.restype = ctypes.c_ssize_t

# Most tokens of a stream have one of a few lengths.
_size = functools.lru_cache(maxsize=1024)(ctypes.c_size_t.from_param)
_READ_FLAGS = int(socket.MSG_DONTWAIT)
_SEND_FLAGS = int(socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
_PEEK_FLAGS = int(socket.MSG_DONTWAIT | socket.MSG_PEEK)
_NOT_NOW = (errno.EAGAIN, errno.EWOULDBLOCK, errno.EINTR)


def send(descriptor: int, data: bytes) -> int:
    """How many of these bytes the kernel took; 0 if its buffer is full. Raises OSError."""
    count: int = _send(descriptor, data, _size(len(data)), _SEND_FLAGS)
    return count if count >= 0 else _nothing_or_raise()


def send_all(connection: socket.socket, data: bytes, seconds: float | None = None) -> None:
    """As `connection.sendall`, for a plain socket: waits only for what the kernel does not take immediately.

    seconds: how long the peer may take nothing; TimeoutError after that. Raises OSError.
    """
    sent = send(connection.fileno(), data) if len(data) <= COPY_SIZE else 0
    if sent < len(data):
        with waiting:
            _send_patiently(connection, memoryview(data)[sent:], seconds)


def _send_patiently(connection: socket.socket, data: memoryview, seconds: float | None) -> None:
    # Not with a timeout of the socket, which begins anew with each call: a call that sends a little before
    # its timeout would give a peer that reads no more the same time again.
    poll = select.poll()
    poll.register(connection, select.POLLOUT)
    while data:
        with contextlib.suppress(BlockingIOError):
            data = data[connection.send(data, _SEND_FLAGS) :]
        if data and not poll.poll(None if seconds is None else seconds * 1000):
            raise TimeoutError("the peer takes nothing")


def pwrite(descriptor: int, data: bytes, offset: int) -> None:
    """Write a few bytes into a file, a copy into the page cache. Raises OSError unless all were written."""
    count: int = _pwrite(descriptor, data, len(data), offset)
    if count != len(data):
        number = ctypes.get_errno() if count < 0 else errno.ENOSPC
        raise OSError(number, os.strerror(number))


def is_silent(descriptor: int) -> bool:
    """Whether nothing can be read: no byte, no end and no error."""
    count: int = _recv(descriptor, _peeked, _size(1), _PEEK_FLAGS)
    return count < 0 and ctypes.get_errno() in _NOT_NOW


# Written by every thread and read by none.
_peeked = ctypes.byref(ctypes.c_char())


class Receiver:
    """Reads into one buffer of its own. Belongs to one thread."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._buffer: Any = ctypes.create_string_buffer(size)
        # Made once: to convert them takes longer than the call.
        self._arguments = ctypes.byref(self._buffer), ctypes.c_size_t.from_param(size)

    def receive(self, descriptor: int) -> bytes | None:
        """What has arrived, None for nothing, empty at the end of the connection; raises OSError."""
        buffer, size = self._arguments
        count: int = _recv(descriptor, buffer, size, _READ_FLAGS)
        if count >= 0:
            data: bytes = self._buffer[:count]
            return data
        _nothing_or_raise()
        return None


def _nothing_or_raise() -> int:
    number = ctypes.get_errno()
    if number in _NOT_NOW:
        return 0
    raise OSError(number, os.strerror(number))
