"""The command line of the local model server."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

DEFAULT_PORT = 5001


def _number(kind: Callable[[str], float], minimum: float) -> Callable[[str], float]:
    def parse(text: str) -> float:
        try:
            value = kind(text)
        except ValueError:
            value = None
        if value is None or not minimum <= value < float("inf"):
            what = "a whole number" if kind is int else "a number"
            raise argparse.ArgumentTypeError(f"{text!r} is not {what} of at least {minimum:g}")
        return value

    return parse


def _log_file(text: str) -> Path | None:
    return None if text == "-" else Path(text)


def parse_options(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Named as the fields of `ModelServer`. Ends the program with one line if an argument is wrong."""
    parser = argparse.ArgumentParser(
        prog="python -m pyworker.local.model_server",
        description="A stand-in for hello_world's inference server. It serves POST /generate, "
        "POST /generate_stream and GET /healthcheck with the words of a small language model.",
    )
    add = parser.add_argument
    add("--host", default="127.0.0.1", help="address to listen at (default: %(default)s)")
    add("--port", type=_number(int, 0), default=DEFAULT_PORT, help="0 for a free one (default: %(default)s)")
    add(
        "--log-file",
        type=_log_file,
        default="./model.log",
        metavar="PATH",
        help="where to log, besides the terminal; an older file is kept as PATH.old; - for the terminal "
        "only (default: %(default)s)",
    )
    add(
        "--tokens-per-second",
        type=_number(float, 0),
        default=50.0,
        metavar="N",
        help="speed of one response; 0 for no delay (default: %(default)s)",
    )
    add(
        "--parallel",
        type=_number(int, 1),
        default=4,
        metavar="N",
        help="responses that are generated concurrently; further requests are queued (default: %(default)s)",
    )
    add(
        "--load-seconds",
        type=_number(float, 0),
        default=2.0,
        metavar="N",
        help="how long loading takes before the server is ready (default: %(default)s)",
    )
    add("--seed", type=int, metavar="N", help="give the same response to the same prompt (default: vary)")
    add(
        "--model",
        dest="model_path",
        type=Path,
        metavar="PATH",
        help="UTF-8 text to learn the language from (default: the handbook that ships)",
    )
    return parser.parse_args(arguments)
