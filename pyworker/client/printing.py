"""What the example clients of workers share: printing a text as it comes, and saying why there is none."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable

import requests

from pyworker.client.errors import ClientError


def print_pieces(program: str, pieces: Iterable[str]) -> int:
    """Print each piece at once, and a line end behind them.

    Returns the exit status: 1 if the call failed, 130 after Ctrl-C, 141 if the output was closed early.
    """
    try:
        for piece in pieces:
            sys.stdout.write(piece)
            sys.stdout.flush()
        sys.stdout.write("\n")
        sys.stdout.flush()
    except ClientError as error:
        sys.stderr.write(f"{program}: {error}\n")
        return 1
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # the reader has seen enough, as `| head` has
        # Or the interpreter would complain when it writes out the rest at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    return 0


def text_in(response: requests.Response) -> str:
    """The body of a 2xx response; raises `ClientError` with that of any other."""
    text = response.content.decode("utf-8", "replace")
    if not 200 <= response.status_code < 300:
        raise ClientError(f"the worker responded with {response.status_code}: {text}")
    return text
