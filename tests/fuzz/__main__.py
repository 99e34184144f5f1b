"""Fuzz one target for a while: python -m tests.fuzz envelope --seconds 60."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import sys
import tempfile
from pathlib import Path
from typing import Any

from tests.fuzz.timely import LIMIT


def main() -> None:
    """Ends with status 0 where nothing was found; else the fuzzer prints the input and how to repeat it."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.fuzz",
        description="Coverage-guided fuzzing; first: pip install -r tests/fuzz/requirements.txt",
    )
    parser.add_argument(
        "target",
        choices=["request", "envelope", "answers", "stream"],
        help="a client's request as far as its framing goes, its body, the model server's response, or the "
        "chunks of one that is relayed",
    )
    parser.add_argument("--seconds", type=int, default=60, help="how long (default: %(default)s)")
    options = parser.parse_args()
    try:
        atheris: Any = importlib.import_module("atheris")
    except ImportError:
        parser.error("atheris is not installed: pip install -r tests/fuzz/requirements.txt")
    with atheris.instrument_imports(include=["pyworker", "gunicorn.http", "http.client", "requests"]):
        targets: Any = importlib.import_module("tests.fuzz.targets")
        relayed: Any = importlib.import_module("tests.fuzz.relayed")
    with tempfile.TemporaryDirectory() as corpus, contextlib.ExitStack() as ending:
        if options.target == "envelope":
            target, seeds = targets.envelope, targets.ENVELOPES
        elif options.target == "request":
            target, seeds = ending.enter_context(targets.Requests()), targets.REQUESTS
        elif options.target == "stream":
            target, seeds = relayed.Streams(), relayed.STREAMS
        else:
            target, seeds = ending.enter_context(targets.Answers()), targets.ANSWERS
        for number, seed in enumerate(seeds):
            Path(corpus, f"seed-{number}").write_bytes(seed)
        arguments = [
            sys.argv[0],
            corpus,
            f"-max_total_time={options.seconds}",
            # Seconds for one input: what is slow is a finding.
            f"-timeout={LIMIT:.0f}",
            "-rss_limit_mb=2048",
        ]
        atheris.Setup(arguments, target)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
