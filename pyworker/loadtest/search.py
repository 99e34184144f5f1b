"""Which load a sweep tries next: up until one does not hold, then between the best and the worst."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

#: How often the first load is halved if even that does not hold.
HALVINGS = 6
HIGHEST = 1e6
_NUMBER = r"\d{1,7}(?:\.\d{1,6})?"
_GROWTH = re.compile(rf"(?:({_NUMBER}):)?(?:({_NUMBER}):)?([x+])({_NUMBER})")
FORM = "1,2,5,10 or [FROM:[TO:]]xFACTOR or [FROM:[TO:]]+STEP, such as x2, 4:x1.5 or 1:50:+5"


@dataclass(frozen=True)
class Steps:
    """Loads to try in turn: those `listed`, or from `first` by `factor` and `step` up to `last`."""

    listed: tuple[float, ...] = ()
    first: float | None = None
    factor: float = 1.0
    step: float = 0.0
    last: float = HIGHEST

    def after(self, load: float) -> float:
        return min(load * self.factor + self.step, self.last)

    @classmethod
    def parsed(cls, text: str) -> Steps:
        """Raises `ValueError` with the expected form."""
        fault = f"{text!r} are no stages; they are {FORM}"
        if found := _GROWTH.fullmatch(text):
            first, last, sign, size = found[1], found[2], found[3], float(found[4])
            steps = cls(
                first=float(first) if first else None,
                last=float(last) if last else HIGHEST,
                factor=size if sign == "x" else 1.0,
                step=size if sign == "+" else 0.0,
            )
            grows = steps.factor > 1 or steps.step > 0
            if not grows or steps.first == 0 or (steps.first or 0) > steps.last:
                raise ValueError(fault)
            return steps
        parts = text.split(",")
        if not all(re.fullmatch(_NUMBER, part) for part in parts):
            raise ValueError(fault)
        listed = tuple(float(part) for part in parts)
        if listed[0] <= 0 or sorted(set(listed)) != list(listed):
            raise ValueError(f"{text!r}: stages rise, from one above 0")
        return cls(listed=listed)


class Search:
    """Finds the highest load that holds. It is told of each load that was tried; of one thread.

    precision: the search ends once the lowest load that failed is at most this share above the highest that
    held. whole: loads are whole numbers.
    """

    def __init__(self, steps: Steps, first: float, precision: float, *, whole: bool) -> None:
        self._steps = steps
        self._listed = iter(steps.listed)
        self._first = steps.first or first
        self._precision = precision
        self._whole = whole
        self.held: float | None = None
        """The highest load that held."""
        self.failed: float | None = None
        """The lowest that did not."""

    def tell(self, load: float, *, holds: bool) -> None:
        if holds:
            self.held = load
        else:
            self.failed = load

    def next(self) -> float | None:
        """None once the search has ended."""
        if self._steps.listed:
            return None if self.failed is not None else next(self._listed, None)
        if self.failed is None:
            return self._first if self.held is None else self._up(self.held)
        if self.held is None:
            lower = self._rounded(self.failed / 2)
            return lower if 0.99 * self._first / 2**HALVINGS < lower < self.failed else None
        return self._between(self.held, self.failed)

    def _up(self, load: float) -> float | None:
        higher = self._steps.after(load)
        if self._whole:
            higher = min(float(math.ceil(higher)), math.floor(self._steps.last))
        return higher if higher > load else None

    def _between(self, low: float, high: float) -> float | None:
        if high <= low * (1 + self._precision):
            return None
        middle = self._rounded(math.sqrt(low * high))
        if self._whole and middle == low:
            middle += 1
        return middle if low < middle < high else None

    def _rounded(self, load: float) -> float:
        """To three digits, which are easier to read in a table."""
        return float(round(load)) if self._whole else float(f"{load:.3g}")

    def __repr__(self) -> str:
        return f"<Search [held {self.held}, failed {self.failed}]>"
