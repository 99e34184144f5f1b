"""`python -m pyworker.top URL`: what a worker, or a fleet, does now."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Sequence

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text

from pyworker.config import master_token
from pyworker.runtime.redaction import redacted
from pyworker.top.fleet_screen import fleet_screen
from pyworker.top.stream import WHOLE, Disconnected, Stream, TopError
from pyworker.top.worker_screen import worker_screen

PROG = "python -m pyworker.top"
_RETRY_SECONDS = 2.0
_ONCE_SECONDS = 15.0
_MAX_SECTIONS = 16


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit status: 0 at the end or after Ctrl-C, 1 if there is nothing to show, 141 if nobody reads."""
    options = _parser().parse_args(arguments)
    console = Console()
    try:
        stream = Stream(options.url, options.token or master_token(), options.ca or "")
        try:
            if options.once or not console.is_terminal or console.is_dumb_terminal:
                console.print(_first(stream, console))
            else:
                _go_on(stream, console)
        finally:
            stream.close()
    except TopError as error:
        sys.stderr.write(f"pyworker.top: {error}\n")
        return 1
    except KeyboardInterrupt:
        return 0
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=PROG,
        allow_abbrev=False,
        description="What a worker, or the fleet of a local autoscaler, does now.",
    )
    parser.add_argument("url", metavar="URL", help="such as http://127.0.0.1:3000")
    parser.add_argument(
        "--token",
        metavar="TOKEN",
        help="the worker's MASTER_TOKEN, if it is not on this machine; better in the variable MASTER_TOKEN, "
        "which no list of processes shows",
    )
    parser.add_argument("--ca", metavar="FILE", help="trust this root certificate")
    parser.add_argument("--once", action="store_true", help="print one picture and end")
    return parser


def _first(stream: Stream, console: Console) -> RenderableType:
    """As soon as everything is there. Raises `TopError`."""
    sections: dict[str, object] = {}
    end = time.monotonic() + _ONCE_SECONDS
    for name, value in stream.sections():
        sections[name] = value
        if stream.kind and sections.keys() >= WHOLE[stream.kind]:
            return _screen(stream, sections, console, None)
        if time.monotonic() > end or len(sections) > _MAX_SECTIONS:
            break
    raise TopError(f"{redacted(stream.url)} did not tell everything; it may be of another version")


def _go_on(stream: Stream, console: Console) -> None:
    """Until Ctrl-C. Raises `TopError` if nothing can be shown; a connection that is lost comes again."""
    sections: dict[str, object] = {}
    with Live(console=console, screen=True, auto_refresh=False) as live:
        while True:
            trouble = "the connection was ended"
            try:
                for name, value in stream.sections():
                    if stream.kind and name in WHOLE[stream.kind]:
                        sections[name] = value
                        if sections.keys() >= WHOLE[stream.kind]:
                            live.update(_screen(stream, sections, console, console.height), refresh=True)
            except Disconnected as error:
                if not sections:
                    raise
                trouble = str(error)
            last = _screen(stream, sections, console, console.height - 1)
            live.update(Group(Text(f"{trouble}; trying again", style="yellow"), last), refresh=True)
            time.sleep(_RETRY_SECONDS)


def _screen(
    stream: Stream, sections: dict[str, object], console: Console, height: int | None
) -> RenderableType:
    screen = fleet_screen if stream.kind == "fleet" else worker_screen
    return screen(sections, redacted(stream.url), console.width, height)


if __name__ == "__main__":
    sys.exit(main())
