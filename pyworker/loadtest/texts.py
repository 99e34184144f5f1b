"""Texts of a given number of tokens: by a tokenizer, or by how many words a token is on average."""

from __future__ import annotations

import functools
import itertools
import random
from bisect import bisect_right
from collections.abc import Callable

from pyworker.resources import resource_path

WORDS_PER_TOKEN = 0.75
"""Of English text, about."""
LONGEST = 2_000_000
_BEFORE = "the"
_SAMPLE = 2_000
#: Words drawn one by one, before a run of the tape: two texts do not begin alike.
_DRAWN = 4


class Texts:
    """Makes texts, each from its own random numbers. Any thread may call any method.

    What a word costs within a text is counted once. A text is then a few words drawn one by one, a run of the
    shuffled words (the tape), and words that fit for what is left.
    """

    def __init__(self, count: Callable[[str], int] | None, seed: int | str) -> None:
        """count: of the tokens in a text; None: estimated by WORDS_PER_TOKEN."""
        self._tape = [*_words()]
        random.Random(seed).shuffle(self._tape)
        costs = [1] * len(self._tape)
        self._begins, self._scale = self._tape, WORDS_PER_TOKEN
        self._first = 1
        if count is not None:
            before = count(_BEFORE)
            costs = [max(1, count(f"{_BEFORE} {word}") - before) for word in self._tape]
            alone = [count(word) for word in self._tape]
            self._first = min(alone)
            self._begins = [word for word, cost in zip(self._tape, alone, strict=True) if cost == self._first]
            self._scale = 1.0
        self._costs = dict(zip(self._tape, costs, strict=True))
        self._by_cost: dict[int, list[str]] = {}
        for word, cost in self._costs.items():
            self._by_cost.setdefault(cost, []).append(word)
        self._ends = [0, *itertools.accumulate(costs)]
        """Tokens of the tape up to each word."""
        if count is not None:
            # 1 but for a tokenizer whose tokens go beyond words.
            sample = self.text(random.Random(seed), _SAMPLE)
            self._scale = _SAMPLE / max(1, count(sample))

    def text(self, generator: random.Random, tokens: int, *, after: bool = False) -> str:
        """after: another text and a space, in which the first word costs less."""
        left = round(tokens * self._scale)
        words: list[str] = []
        if left > 0 and not after:
            words.append(generator.choice(self._begins))
            left -= self._first
        for word in generator.choices(self._tape, k=_DRAWN):
            if self._costs[word] <= left:
                words.append(word)
                left -= self._costs[word]
        begin = generator.randrange(len(self._tape))
        while left > 0:
            end = bisect_right(self._ends, self._ends[begin] + left) - 1
            words += self._tape[begin:end]
            left -= self._ends[end] - self._ends[begin]
            if end < len(self._tape):
                break
            begin = 0
        while fitting := [cost for cost in self._by_cost if cost <= left]:
            words.append(generator.choice(self._by_cost[max(fitting)]))
            left -= max(fitting)
        return " ".join(words)


@functools.cache
def _words() -> list[str]:
    return resource_path("words.txt").read_text("utf-8").split()
