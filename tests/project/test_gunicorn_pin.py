"""The inside of gunicorn that our worker class is built upon, pinned: it may change with any release."""

from __future__ import annotations

import hashlib
import inspect
from typing import Any

import gunicorn
import pytest
from gunicorn import arbiter, sock
from gunicorn.http import body, errors, message, unreader, wsgi
from gunicorn.workers import base, gthread

from tests.support.process import ROOT

#: What is relied upon, what for, and the beginning of the SHA-256 of its source.
PINNED: list[tuple[Any, str, str]] = [
    (gthread.ThreadWorker.__init__, "`worker_connections`; it opens nothing", "5681b8b542ea"),
    (gthread.ThreadWorker.is_parent_alive, "the main loop ends with the master", "3517612f7763"),
    (gthread.ThreadWorker.check_config, "asked by the master, before the fork", "677dafbcca4e"),
    (base.Worker.__init__, "`alive`, `sockets`, `cfg`, `app`", "e0f1de2d6057"),
    (
        base.Worker.init_process,
        "makes `PIPE` and `wsgi`, installs the signals, calls `run` last",
        "114caccd7a0e",
    ),
    (base.Worker.init_signals, "which signal reaches which method, and writes to `PIPE`", "65442e0602b0"),
    (base.Worker.handle_quit, "SIGQUIT and SIGINT end the process by SystemExit", "2944b4132761"),
    (base.Worker.handle_usr1, "extended by our log line", "af6871d0b18b"),
    (base.Worker.handle_error, "overridden: name and arguments", "75426448389b"),
    (base.Worker.notify, "the heartbeat, at least every `timeout` seconds", "7f509bc4046b"),
    (arbiter.Arbiter.spawn_worker, "calls `worker_exit` however the worker ends", "6abc0d90b0b9"),
    (arbiter.Arbiter.signal, "what our handler for SIGTERM in the master passes on to", "8b193e95e16a"),
    (arbiter.Arbiter.start, "calls `when_ready` after `init_signals`", "92668bdb3e86"),
    (arbiter.Arbiter.stop, "drops a second SIGTERM; `WORKERS` empties as they end", "7138b6afd9c4"),
    (sock.ssl_wrap_socket, "takes the socket's own mode over; makes no handshake", "f240092e58c6"),
    (message.Message, "framing: what is refused, and the readers of a body", "1998788a8a48"),
    (
        message.Request,
        "one request from an unreader; `_expected_100_continue`; at most one empty line before it",
        "5fb06ef65d3b",
    ),
    (unreader.Unreader, "`buf`, `chunk`, `unread` and `take_buffered`", "84aaa8f91fcd"),
    (body.Body, "`failed`, `reader`", "2a2afc0b6a50"),
    (body.LengthReader, "`length` is what is still to be read", "3b01bc7c21a2"),
    (body.ChunkedReader, "`parser` is None once the body was read", "c1aa79e0ae04"),
    (
        wsgi.create,
        "`response_class`; sends 100 Continue unless told otherwise; what in the environ differs between "
        "requests with the same head (`heads._OF_CONNECTION`, `_NOT_SHARED`)",
        "2c35d4a2dc62",
    ),
    (
        wsgi.Response,
        "its parts that are overridden: should_close, default_headers, send_headers, write, _emit_body, "
        "close; of a request it asks no more than method, version and should_close "
        "(`heads.CachedHead` has these)",
        "d67f8e6b29d7",
    ),
    (errors, "names of the errors and which is a ParseException; NoMoreData is an OSError", "348906eec2ca"),
]


def _name(part: Any) -> str:
    module: str = getattr(part, "__module__", "")
    return f"{module}.{part.__qualname__}" if module else str(part.__name__)


@pytest.mark.parametrize(("part", "reason", "digest"), PINNED, ids=[_name(part) for part, _, _ in PINNED])
def test_the_parts_of_gunicorn_are_those_that_were_read(part: Any, reason: str, digest: str) -> None:
    source = inspect.getsource(part)

    found = hashlib.sha256(source.encode()).hexdigest()[:12]

    assert found == digest, (
        f"{_name(part)} of gunicorn {gunicorn.__version__} is not the one that "
        f"pyworker was written for, which relies on it for this: {reason}. Read the change, mend "
        f"the modules of pyworker that import gunicorn where need be, then set the digest to {found}."
    )


def test_requirements_allow_no_gunicorn_beyond_the_pinned_one() -> None:
    [line] = [line for line in (ROOT / "requirements.txt").read_text().splitlines() if "gunicorn" in line]

    assert line.partition("#")[0].strip() == "gunicorn>=27.0.1,<27.1"
