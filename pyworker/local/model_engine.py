"""What the routes of the local model server generate with: the language model, its queue, its pace."""

from __future__ import annotations

import random
import socket
import threading
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TypeVar, cast

import flask

from pyworker.errors import NotReady
from pyworker.local.generation import Ending, Generation
from pyworker.local.language_model import LanguageModel
from pyworker.local.model_log import ModelLog
from pyworker.local.model_stats import ModelStats
from pyworker.runtime.request_queue import RequestQueue

Item = TypeVar("Item")


@dataclass(kw_only=True, eq=False, repr=False)
class Engine:
    """Thread-safe. `log`, `model` and `has_failed` are set by the server while it starts.

    pace: seconds that a token takes; seed: with one, the same prompt always gets the same response.
    """

    queue: RequestQueue
    pace: float
    seed: int | None
    stopping: threading.Event
    log: ModelLog
    stats: ModelStats = field(default_factory=ModelStats)
    model: LanguageModel | None = None
    has_failed: bool = False
    #: Ordered failures, oldest first. A deque's own operations are atomic.
    _breaks: deque[int] = field(default_factory=lambda: deque[int]())

    def loaded_model(self) -> LanguageModel:
        """Raises `NotReady` while it is not loaded."""
        if self.model is None:
            raise NotReady(f"the model {'could not be loaded' if self.has_failed else 'is loading'}")
        return self.model

    def rng(self, prompt: str, seed: int | None = None) -> random.Random:
        """Where the words of a response come from. seed: the request's own."""
        chosen = self.seed if seed is None else seed
        return random.Random() if chosen is None else random.Random(f"{chosen}:{prompt!r}")

    def break_next(self, after: int) -> None:
        """Let the next generation fail after so many tokens."""
        self._breaks.append(after)

    def generate(
        self, source: Iterator[Item], on_end: Callable[[Ending, int, float], None]
    ) -> Generation[Item]:
        """The generation of `source` for the request at hand."""
        return Generation(
            source=source,
            pace=self.pace,
            queue=self.queue,
            client=cast("socket.socket", flask.request.environ["werkzeug.socket"]),
            stopping=self.stopping,
            on_end=on_end,
            break_after=self._breaks.popleft() if self._breaks else None,
        )

    def __repr__(self) -> str:
        return f"<Engine {self.queue!r} {self.stats!r}>"
