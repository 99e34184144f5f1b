"""The lengths of requests, in tokens, and the beginnings that some of them share."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

from pyworker.errors import ConfigError
from pyworker.loadtest.distribution import Distribution
from pyworker.loadtest.fields import OPTION, value_at, with_value
from pyworker.loadtest.texts import Texts
from pyworker.loadtest.trace import Trace

MOST_PREFIX_TOKENS = 10_000_000
"""Of all prefixes together, which are kept."""


@dataclass(frozen=True)
class ShapePlan:
    """What is asked for. fields: paths of input, output and prefix in a payload, as far as they are needed.

    trace: has lengths instead of the distributions. tokenizer: its name, if it is not the worker's.
    """

    fields: tuple[str, ...]
    input: Distribution | None = None
    output: Distribution | None = None
    trace: Trace | None = None
    prefix_tokens: int = 0
    prefixes: int = 1
    tokenizer: str | None = None

    @property
    def has_input(self) -> bool:
        """Whether the text of a request is made."""
        return self.input is not None or self.trace is not None

    @property
    def has_text(self) -> bool:
        """Whether any text is made."""
        return self.has_input or self.prefix_tokens > 0

    def __str__(self) -> str:
        parts = [f"input {self.input} tokens"] if self.input else []
        parts += [f"output {self.output} tokens"] if self.output else []
        parts += ["input and output tokens of the trace"] if self.trace else []
        if self.prefix_tokens:
            begins = "the same prefix" if self.prefixes == 1 else f"one of {self.prefixes} prefixes"
            parts.append(f"{begins} of {self.prefix_tokens} tokens")
        return ", ".join(parts)


@dataclass(frozen=True)
class Shaped:
    """A payload with its lengths. In tokens; 0: left as it was."""

    fields: Mapping[str, object]
    input: int
    output: int


class Shape:
    """Gives payloads their lengths, the same for the same seed and number. Any thread may call any method."""

    def __init__(self, plan: ShapePlan, texts: Texts, seed: int) -> None:
        self.plan = plan
        self._texts = texts
        self._seed = seed
        self._paths = [name.split(".") for name in plan.fields]
        self._prefixes = [
            texts.text(random.Random(f"{seed} prefix {number}"), plan.prefix_tokens)
            for number in range(plan.prefixes if plan.prefix_tokens else 0)
        ]

    def check(self, fields: Mapping[str, object]) -> None:
        """Raises `ConfigError` if a payload has no place for what is asked for."""
        paths, plan = self._paths, self.plan
        if plan.has_input:
            with_value(fields, paths[0], "")
        if plan.output is not None or plan.trace is not None:
            with_value(fields, paths[1], 1)
        if plan.prefix_tokens and len(paths) == 3:
            with_value(fields, paths[2], "")
        elif plan.prefix_tokens and not plan.has_input and not isinstance(value_at(fields, paths[0]), str):
            raise ConfigError(f"{OPTION}: {plan.fields[0]!r} holds no text that a prefix could begin")

    def shaped(self, number: int, turn: int, fields: Mapping[str, object]) -> Shaped:
        """The request of this number, from a payload that was checked. turn: of a conversation, whose first
        alone has a prefix; or 0.
        """
        generator = random.Random(f"{self._seed} {number} {turn}")
        prefix = generator.choice(self._prefixes) if self._prefixes and turn <= 1 else ""
        tokens, output = self._lengths(number, generator)
        apart = len(self._paths) == 3
        begin = f"{prefix} " if prefix and not apart else ""
        made: object = fields
        if tokens is not None:
            text = self._texts.text(generator, tokens, after=bool(begin))
            made = with_value(made, self._paths[0], begin + text)
        elif begin:
            made = with_value(made, self._paths[0], f"{begin}{value_at(fields, self._paths[0])}")
        if prefix and apart:
            made = with_value(made, self._paths[2], prefix)
        if output is not None:
            made = with_value(made, self._paths[1], output)
        before = self.plan.prefix_tokens if prefix else 0
        return Shaped(
            cast("Mapping[str, object]", made), 0 if tokens is None else before + tokens, output or 0
        )

    def _lengths(self, number: int, generator: random.Random) -> tuple[int | None, int | None]:
        plan = self.plan
        if plan.trace is not None:
            return plan.trace.lengths[number % len(plan.trace.lengths)]
        output = None if plan.output is None else plan.output.whole(generator)
        return None if plan.input is None else plan.input.whole(generator), output
