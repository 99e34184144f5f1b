"""llama.cpp's server on this machine, from the package xllamacpp, with a very small model."""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import os
import signal
import sys
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pyworker.local.tiny_llama import CONTEXT, write_model

DEFAULT_PORT = 18_000
MODEL_NAME = "tiny-llama"
_DEFAULT_CONTEXT = 4096
_ENDING = (signal.SIGTERM, signal.SIGINT)
_PACKAGES = ("xllamacpp", "gguf", "numpy")


def is_available() -> bool:
    """Whether the packages are there that this module runs on."""
    return all(importlib.util.find_spec(name) is not None for name in _PACKAGES)


def parse_options(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Ends the program with one line if an argument is wrong."""
    parser = argparse.ArgumentParser(
        prog="python -m pyworker.local.llama_engine",
        description="llama.cpp's own server, with its routes and errors. Without --model it serves a very "
        "small model, written when it starts: what that says looks like sentences and means nothing. "
        f"Needs the packages {', '.join(_PACKAGES)}.",
    )
    add = parser.add_argument
    add("--host", default="127.0.0.1", help="address to listen at (default: %(default)s)")
    add("--port", type=int, default=DEFAULT_PORT, help="(default: %(default)s)")
    add(
        "--log-file",
        type=Path,
        metavar="PATH",
        help="append the server's log to this file (default: the terminal)",
    )
    add("--model", type=Path, metavar="PATH", help="a GGUF file (default: a very small model)")
    add(
        "--context",
        type=int,
        default=_DEFAULT_CONTEXT,
        metavar="N",
        help=f"tokens of a prompt and its response in all, at most {CONTEXT} (default: %(default)s)",
    )
    add(
        "--parallel",
        type=int,
        default=4,
        metavar="N",
        help="responses that are generated concurrently; further requests are queued (default: %(default)s)",
    )
    add("--threads", type=int, default=1, metavar="N", help="processors to use (default: %(default)s)")
    add("--embeddings", action="store_true", help="serve embeddings, and nothing else")
    return parser.parse_args(arguments)


def serve(options: argparse.Namespace, model: Path) -> int:
    """Serve until SIGTERM or SIGINT, which are blocked; the exit status."""
    start = _Start(options, model)
    start.thread.start()
    signal.sigwait(_ENDING)
    if start.fault:
        sys.stderr.write(f"pyworker.local.llama_engine: {start.fault}\n")
    return 1 if start.fault else 0


class _Start:
    """Starts the server on a thread of its own, which asks for the end if that fails. It is never ended."""

    def __init__(self, options: argparse.Namespace, model: Path) -> None:
        self.server: Any = None
        self.fault = ""
        self.thread = threading.Thread(
            target=self._run, args=(options, model), name="pyworker-llama-start", daemon=True
        )

    def _run(self, options: argparse.Namespace, model: Path) -> None:
        xllamacpp: Any = importlib.import_module("xllamacpp")
        try:
            self.server = xllamacpp.Server(_parameters(xllamacpp, options, model))
        except (AttributeError, RuntimeError) as error:
            newer = " (pip install --upgrade xllamacpp)" if isinstance(error, AttributeError) else ""
            self.fault = f"{error}{newer}"
            os.kill(os.getpid(), signal.SIGTERM)


def _parameters(xllamacpp: Any, options: argparse.Namespace, model: Path) -> Any:
    parameters = xllamacpp.CommonParams()
    parameters.model.path = str(model)
    parameters.model_alias = {MODEL_NAME}
    parameters.hostnames = [options.host]
    parameters.port = options.port
    parameters.n_ctx = options.context * options.parallel
    parameters.n_parallel = options.parallel
    parameters.cpuparams.n_threads = options.threads
    parameters.cpuparams_batch.n_threads = options.threads
    parameters.endpoint_metrics = True
    if options.embeddings:
        parameters.embedding = True
        parameters.pooling_type = xllamacpp.llama_pooling_type.LLAMA_POOLING_TYPE_MEAN
    return parameters


def main(arguments: Sequence[str] | None = None) -> int:
    """The program; its exit status."""
    options = parse_options(arguments)
    if not is_available():
        sys.stderr.write(f"pyworker.local.llama_engine: first: pip install {' '.join(_PACKAGES)}\n")
        return 2
    # The server sets handlers of its own, which would end its loop and leave this process without anything to
    # do. No thread gets a signal that is blocked before any thread starts, so the main one can wait for it.
    signal.pthread_sigmask(signal.SIG_BLOCK, _ENDING)
    if options.log_file is not None:
        _log_to(options.log_file)
    if options.model is not None:
        return serve(options, options.model)
    with tempfile.TemporaryDirectory(prefix="pyworker-llama-") as folder:
        model = Path(folder) / f"{MODEL_NAME}.gguf"
        write_model(model)
        return serve(options, model)


def _log_to(path: Path) -> None:
    """The server writes to the descriptors themselves, as supervisors of a real one expect."""
    with path.open("ab") as log:
        os.dup2(log.fileno(), sys.stdout.fileno())
        os.dup2(log.fileno(), sys.stderr.fileno())


if __name__ == "__main__":
    status = main()
    sys.stdout.flush()
    sys.stderr.flush()
    # The server's own end waits forever for a loop that has not begun yet.
    os._exit(status)
