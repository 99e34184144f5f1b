"""The websocket's client by itself: every wait has one deadline, whatever is sent."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Generator, Iterator
from urllib.parse import urlsplit

import pytest

from tests.support.comfyui.server import ComfyServer
from tests.support.comfyui.sockets import ClientSocket, Mode
from tests.support.scripted import Act, ScriptedServer, whole
from tests.support.waiting import DEADLINE
from workers.comfyui.websocket import EventSocket, SocketLost


@pytest.fixture
def comfy() -> Iterator[ComfyServer]:
    with ComfyServer() as running:
        yield running


@contextlib.contextmanager
def listening(url: str, seconds: float = DEADLINE) -> Generator[EventSocket]:
    parts = urlsplit(url)
    with socket.create_connection((parts.hostname or "", parts.port or 0), DEADLINE) as connection:
        events = EventSocket(connection)
        events.open(parts.netloc, "/ws?clientId=me", "", seconds)
        yield events


@contextlib.contextmanager
def sending(act: Callable[[threading.Event], None]) -> Generator[None]:
    """`act(stop)` runs on another thread meanwhile."""
    stop = threading.Event()
    thread = threading.Thread(target=act, args=(stop,), name="test-sending")
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(DEADLINE)


def server_side(comfy: ComfyServer, events: EventSocket) -> ClientSocket:
    first = events.next(DEADLINE)
    assert first is not None
    assert first["type"] == "status"
    [client] = comfy.sockets.open
    return client


def test_events_come_in_order_and_silence_has_an_end(comfy: ComfyServer) -> None:
    with listening(comfy.url) as events:
        client = server_side(comfy, events)
        for number in range(3):
            client.send("progress", {"value": number, "text": "ü" * 40_000})
        values = [events.next(DEADLINE) for _ in range(3)]
        assert [value and value["data"]["value"] for value in values] == [0, 1, 2]
        started = time.monotonic()
        assert events.next(0.3) is None
        assert time.monotonic() - started < 2
        client.drop()
        with pytest.raises(SocketLost, match="connection closed"):
            events.next(DEADLINE)


@pytest.mark.parametrize("frame", [b"\x81\x00", b"\x82\x00", b"\x8a\x00", b"\x81\x01{", b"\x01\x00\x80\x00"])
def test_a_flood_of_frames_that_say_nothing_does_not_put_off_the_deadline(
    comfy: ComfyServer, frame: bytes
) -> None:
    with listening(comfy.url) as events:
        client = server_side(comfy, events)

        def flood(stop: threading.Event) -> None:
            while not stop.is_set():
                client.send_raw(frame * 10_000)

        with sending(flood):
            started = time.monotonic()
            assert events.next(0.5) is None
            assert time.monotonic() - started < 5
            events.close()


def test_a_frame_that_drips_does_not_put_off_the_deadline(comfy: ComfyServer) -> None:
    with listening(comfy.url) as events:
        client = server_side(comfy, events)

        def drip(stop: threading.Event) -> None:
            client.send_raw(b"\x81\x7e\x10\x00")
            while not stop.wait(0.05):
                client.send_raw(b" ")

        with sending(drip):
            started = time.monotonic()
            assert events.next(0.5) is None
            assert time.monotonic() - started < 5


def test_a_handshake_that_is_refused_or_never_answered(comfy: ComfyServer) -> None:
    comfy.sockets.mode = Mode.REFUSED
    with pytest.raises(SocketLost, match="refused with status 503"), listening(comfy.url):
        pass
    comfy.sockets.mode = Mode.UNANSWERED
    with pytest.raises(SocketLost, match=r"no handshake in 0\.3 s"), listening(comfy.url, 0.3):
        pass


@pytest.mark.parametrize(
    "answer",
    [
        b"SSH-2.0-OpenSSH\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
        b"HTTP/1.1 101 X\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: no\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"x" * 10**6,
        whole(b"hello"),
        b"",
    ],
    ids=["ssh", "no-key", "wrong-key", "long", "no-websocket", "nothing"],
)
def test_what_is_no_websocket_is_given_up(scripted_model: ScriptedServer, answer: bytes) -> None:
    scripted_model.script("/ws?clientId=me", answer, Act.CLOSE)
    with pytest.raises(SocketLost), listening(scripted_model.url, 5):
        pass
