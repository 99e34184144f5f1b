"""PNG files of one colour."""

from __future__ import annotations

import struct
import zlib

SIGNATURE = b"\x89PNG\r\n\x1a\n"


def png(width: int, height: int, colour: int) -> bytes:
    """colour: 0xRRGGBB."""
    row = b"\x00" + colour.to_bytes(3, "big") * width
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"".join(
        [
            SIGNATURE,
            _chunk(b"IHDR", header),
            _chunk(b"IDAT", zlib.compress(row * height)),
            _chunk(b"IEND", b""),
        ]
    )


def size_of(data: bytes) -> tuple[int, int]:
    """Width and height of a PNG file; AssertionError if its chunks are not whole."""
    assert data.startswith(SIGNATURE), data[:16]
    at = len(SIGNATURE)
    width = height = 0
    kind = b""
    while kind != b"IEND":
        [length] = struct.unpack_from(">I", data, at)
        kind, body = data[at + 4 : at + 8], data[at + 8 : at + 8 + length]
        [checksum] = struct.unpack_from(">I", data, at + 8 + length)
        assert checksum == zlib.crc32(kind + body), kind
        if kind == b"IHDR":
            width, height = struct.unpack_from(">II", body)
        at += 12 + length
    assert at == len(data)
    return width, height


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
