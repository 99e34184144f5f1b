"""Everything that a file holds, and the thread that keeps it.

Of a request it is only what `/status/requests` tells, too.
"""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from pyworker.black_box import machine
from pyworker.black_box.folder import BoxFolder, process_mark
from pyworker.black_box.keeper import Keeper
from pyworker.runtime.services import Loop
from pyworker.status.report import status_of
from pyworker.telemetry.record import RequestRecord
from pyworker.worker import Worker

#: Changes if a reader of files has to change.
FORMAT = 1
_REQUESTS = 50
_REFUSED = 20
_LINES = 60


def keep_black_box(worker: Worker) -> None:
    """Have a thread of the worker keep its files. Before the start."""
    settings = worker.settings
    keeper = Keeper(
        BoxFolder(settings.state_dir),
        settings.start_file,
        contents=lambda: contents_of(worker),
        phases=worker.model.phases.all,
        slow_start=settings.model_loading_warn_after,
        on_excerpt=worker.ledger.touch,
    )
    worker.excerpt = lambda: keeper.excerpt
    worker.runtime.add(Loop("pyworker-black-box", keeper.step, on_end=keeper.close))


def contents_of(worker: Worker) -> Mapping[str, object]:
    """Of now. Times in epoch seconds, sizes in bytes."""
    recorder, lines = worker.recorder, worker.last_lines
    return {
        "format": FORMAT,
        "at": time.time(),
        "process": process_mark(str(os.getpid())),
        "worker": worker.backend.benchmark_handler.__class__.__module__,
        "status_report": status_of(worker),
        "requests": _last(list(recorder.recent()), _REQUESTS),
        "refused": _last(list(recorder.recently_refused()), _REFUSED),
        "model_lines": list(lines.model.lines(_LINES)),
        "own_lines": list(lines.own.lines(_LINES)),
        "reports": [report.as_json() for report in worker.reporter.recent()],
        "memory": machine.memory(),
        "disk": machine.disk(worker.settings.state_dir.resolve(), Path("/")),
        "descriptors": machine.descriptors(),
        "threads": machine.threads(),
    }


def _last(records: Sequence[RequestRecord], most: int) -> Sequence[Mapping[str, object]]:
    return [record.as_json() for record in itertools.islice(reversed(records), most)][::-1]
