"""Who counts the tokens of a payload."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from pyworker.data_types import ApiPayload
from pyworker.loadtest.texts import WORDS_PER_TOKEN
from pyworker.tokenizer import TokenCounter


@dataclass(frozen=True)
class Counting:
    """count: of the tokens in a text; None: estimated. by: who counts, in words."""

    count: Callable[[str], int] | None
    by: str


def counting(name: str | None, kind: type[ApiPayload] | None) -> Counting:
    """The tokenizer of this name, or that by which a payload class counts workload. Loads it."""
    counter = TokenCounter(name) if name else _counter_of(kind)
    if counter is None:
        return _estimated("no tokenizer is named, see --tokenizer")
    counter.load()
    if counter.problem:
        # What the package has instead is no nearer to the model's than the estimate.
        return _estimated(f"the tokenizer {counter.name} cannot be loaded: {counter.problem}")
    return Counting(counter.count, f"the tokenizer {counter.name}")


def _estimated(reason: str) -> Counting:
    return Counting(None, f"an estimate, {WORDS_PER_TOKEN:g} words for each ({reason})")


def _counter_of(kind: type[ApiPayload] | None) -> TokenCounter | None:
    values = () if kind is None else (value for cls in kind.__mro__ for value in vars(cls).values())
    return next((value for value in values if isinstance(value, TokenCounter)), None)
