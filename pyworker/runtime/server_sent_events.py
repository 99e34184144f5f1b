"""Server-sent events with JSON in them, written and read.

https://html.spec.whatwg.org/multipage/server-sent-events.html#parsing-an-event-stream
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator

CONTENT_TYPE = "text/event-stream"
#: Fields of the header block of a stream: nobody on the way keeps it, or waits for more of it.
HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
#: Bytes of one event.
MAX_EVENT = 4 * 2**20


def event(name: str, value: object) -> bytes:
    """One event. JSON has no line ends outside its strings, where they are escaped."""
    data = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return f"event: {name}\ndata: {data}\n\n".encode("utf-8", "replace")


def read(pieces: Iterable[bytes]) -> Iterator[tuple[str, object]]:
    """Name and value of each event of a stream that arrives in these pieces.

    Raises ValueError for an event that is no JSON, or longer than `MAX_EVENT`.
    """
    for lines in _blocks(pieces):
        fields = [line.partition(": ") for line in lines]
        data = [value for name, _, value in fields if name == "data"]
        if data:
            names = [value for name, _, value in fields if name == "event"]
            yield (names[-1] if names else "message"), json.loads("\n".join(data))


def _blocks(pieces: Iterable[bytes]) -> Iterator[list[str]]:
    """The lines up to each empty one."""
    lines: list[str] = []
    rest = bytearray()
    size = 0
    for piece in pieces:
        searched = len(rest)
        rest += piece
        size += len(piece)
        if size > MAX_EVENT:
            raise ValueError(f"an event of the stream is longer than {MAX_EVENT} bytes")
        if rest.find(b"\n", searched) < 0:
            continue
        *whole, last = bytes(rest).split(b"\n")
        rest = bytearray(last)
        for line in whole:
            if line.strip():
                lines.append(line.decode("utf-8", "replace").rstrip("\r"))
                continue
            yield lines
            lines, size = [], len(rest)
