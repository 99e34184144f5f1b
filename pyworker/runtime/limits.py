"""Limits and sizes that more than one part of the package shares."""

from __future__ import annotations

#: Bytes asked of a socket in one call, by everything that reads without knowing how much will come.
READ_SIZE = 64 * 1024
#: Bytes of the largest header block, of a request as of a response.
MAX_HEADER_BLOCK = 64 * 1024
#: Bytes of the largest request body that is received before its request gets a thread, and before its
#: signature is looked at: far more than a prompt, and little enough for thousands of clients.
SMALL_BODY = 64 * 1024
#: Bytes up to which `send` and copies keep the GIL: releasing and taking it again costs as much as the copy.
COPY_SIZE = 64 * 1024
