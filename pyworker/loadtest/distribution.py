"""How a number that differs from request to request is spread, such as a length in tokens."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from typing import Literal

Kind = Literal["constant", "uniform", "normal", "lognormal", "exponential"]
_ARGUMENTS: dict[str, int] = {"normal": 2, "lognormal": 2, "exponential": 1}
FORMS = "N, LOW:HIGH, normal:MEAN,SD, lognormal:MEAN,SD or exponential:MEAN"


@dataclass(frozen=True)
class Distribution:
    """Drawn numbers are at least `least` and at most `most`, whatever the distribution says.

    first and second: the number; the lowest and the highest; or the mean and the standard deviation of what
    is drawn (not of its logarithm). text: as it was asked for.
    """

    text: str
    kind: Kind
    first: float
    second: float
    least: float
    most: float

    @classmethod
    def parsed(cls, text: str, least: float, most: float) -> Distribution:
        """Raises `ValueError` with what is wrong."""
        name, colon, rest = text.partition(":")
        kind: Kind = "constant"
        parts = [text]
        if name in _ARGUMENTS:
            kind, parts = _named(name), rest.split(",")
        elif colon:
            kind, parts = "uniform", [name, rest]
        try:
            numbers = [float(part) for part in parts]
        except ValueError:
            numbers = []
        if len(numbers) != _ARGUMENTS.get(kind, 2 if kind == "uniform" else 1):
            raise ValueError(f"{text} is none of {FORMS}")
        first, second = numbers[0], numbers[-1]
        if not all(math.isfinite(number) for number in numbers) or not least <= first <= most:
            raise ValueError(f"{text} is out of bounds: from {least:.10g} to {most:.10g}")
        if kind == "uniform" and not first <= second <= most:
            raise ValueError(f"{text} is no range: it needs LOW:HIGH, up to {most:.10g}")
        if kind in ("normal", "lognormal") and second < 0:
            raise ValueError(f"{text} has a standard deviation below 0")
        return cls(text, kind, first, second, least, most)

    def draw(self, generator: random.Random) -> float:
        return min(self.most, max(self.least, self._drawn(generator)))

    def whole(self, generator: random.Random) -> int:
        """A whole number; each of a range as likely as any other."""
        if self.kind == "uniform":
            return generator.randint(math.ceil(self.first), max(math.ceil(self.first), int(self.second)))
        return round(self.draw(generator))

    @property
    def mean(self) -> float:
        """But for what the bounds change."""
        return (self.first + self.second) / 2 if self.kind == "uniform" else self.first

    @property
    def highest(self) -> float:
        """Of what can be drawn."""
        bounds = {"constant": self.first, "uniform": self.second}
        return bounds.get(self.kind, self.most)

    def _drawn(self, generator: random.Random) -> float:
        if self.kind == "uniform":
            return generator.uniform(self.first, self.second)
        if self.kind == "normal":
            return generator.gauss(self.first, self.second)
        if self.kind == "lognormal" and self.first > 0:
            variance = math.log1p((self.second / self.first) ** 2)
            return generator.lognormvariate(math.log(self.first) - variance / 2, math.sqrt(variance))
        if self.kind == "exponential" and self.first > 0:
            return generator.expovariate(1 / self.first)
        return self.first

    def __str__(self) -> str:
        return self.text


def _named(name: str) -> Kind:
    return "normal" if name == "normal" else "lognormal" if name == "lognormal" else "exponential"
