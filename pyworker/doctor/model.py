"""The model's log, and what counts the workload."""

from __future__ import annotations

import functools
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pyworker.data_types import LogAction
from pyworker.doctor.finding import Examination, Finding, NotChecked, fail, ok, warn
from pyworker.errors import shortened
from pyworker.lifecycle.log_lines import LineAssembler, Phrase, clean
from pyworker.lifecycle.log_tail import unfollowable
from pyworker.resources.reach import bounded
from pyworker.tokenizer import TokenCounter
from pyworker.words import corpus_problem

#: Bytes of a log that are read; the loaded line is near its beginning.
MAX_READ = 64 * 2**20
_READ_SIZE = 2**20
_SHOWN_PHRASE = 60
_LOAD_SECONDS = 30.0


@dataclass
class _Sightings:
    """The lines in which one phrase was seen."""

    action: LogAction
    phrase: str
    count: int = 0
    first: int = 0
    last: int = 0

    def __post_init__(self) -> None:
        self.sought = Phrase(self.phrase)

    def see(self, number: int) -> None:
        self.first = self.first or number
        self.last = number
        self.count += 1

    def __str__(self) -> str:
        where = "never"
        if self.count == 1:
            where = f"once, in line {self.first}"
        elif self.count:
            where = f"{self.count} times, in lines {self.first} to {self.last}"
        return f"{self.action.name} {shortened(self.phrase, _SHOWN_PHRASE)!r} {where}"


def model_log(examination: Examination) -> Finding:
    """The log exists, and the worker's phrases occur in it."""
    path = examination.backend.model_log_file
    by_log = examination.backend.readiness.by_log
    if path is None:
        if by_log:
            return fail("MODEL_LOG is not set", "set it to the file that the model server logs to")
        raise NotChecked("MODEL_LOG is not set, and readiness by health needs none")
    sightings = [_Sightings(action, phrase) for action, phrase in examination.backend.log_actions]
    problem = unfollowable(path)
    if problem:
        return fail(f"{path} {problem}", "set MODEL_LOG to a regular file")
    try:
        lines = _look(path, sightings)
        status = path.stat()
    except FileNotFoundError:
        return fail(f"{path} does not exist", "redirect the model server's output to it, or set MODEL_LOG")
    except OSError as error:
        return fail(f"{path} cannot be read ({error.strerror})", "allow it to be read, or set MODEL_LOG")
    age = max(time.time() - status.st_mtime, 0.0)
    found = f"{path}: {status.st_size} bytes, {lines} lines, written {age:.0f} s ago"
    if lines == 0:
        return warn(f"{found}; it is empty", "see whether the model server runs and logs to this file")
    found = "; ".join([found, *map(str, sightings)])
    if by_log and not any(one.count for one in sightings if one.action is LogAction.ModelLoaded):
        return warn(
            f"{found}; nothing says that the model is loaded",
            "wait; if it is loaded, correct the log_actions of the worker or set MODEL_READINESS=either",
        )
    return ok(found)


def _look(path: Path, sightings: list[_Sightings]) -> int:
    """Count the phrases; returns the number of lines that were read."""
    assembler = LineAssembler()
    with path.open("rb") as file:
        while file.tell() < MAX_READ and (data := file.read(_READ_SIZE)):
            _see(assembler, assembler.feed(data), sightings)
    lines = assembler.lines_so_far
    _see(assembler, assembler.flush(), sightings)
    return lines


def _see(assembler: LineAssembler, lines: Iterator[str], sightings: list[_Sightings]) -> None:
    for raw in lines:
        line = clean(raw)
        for one in sightings:
            if one.sought.is_in(line):
                one.see(assembler.number)


def tokenizer(examination: Examination) -> Finding:
    """Workload is counted with the requested tokenizer."""
    counters = {
        counter
        for handler in examination.backend.handlers
        for counter in vars(handler.payload_cls()).values()
        if isinstance(counter, TokenCounter)
    }
    if not counters:
        raise NotChecked("the payloads of this worker hold no TokenCounter")
    for counter in counters:
        load = functools.partial(_load, counter, examination.settings.tokenizer)
        if not bounded(load, _LOAD_SECONDS, "pyworker-doctor-tokenizer"):
            found = f"{counter.name!r} took more than {_LOAD_SECONDS:g} s to load"
            return warn(found, "put it into the hub's cache")
        if counter.problem:
            return warn(
                f"the package's small one stands in for {counter.name!r} ({counter.problem})",
                "let the hub be reached, set HF_TOKEN for a gated one, or set TOKENIZER to a local folder",
            )
    return ok(", ".join(f"{counter.name!r} from {counter.source}" for counter in counters))


def _load(counter: TokenCounter, name: str | None) -> bool:
    counter.load(name)
    return True


def corpus(_examination: Examination) -> Finding:
    """Prompts of tests and the benchmark are made of many words."""
    problem = bounded(corpus_problem, _LOAD_SECONDS, "pyworker-doctor-words")
    if problem is None or problem:
        return warn(
            f"the package's small word list is used ({problem or 'no response in time'})",
            'harmless; nltk.download("words") downloads the corpus if there is a network',
        )
    return ok("nltk's words are installed")
