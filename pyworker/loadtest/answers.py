"""The text of an answer, read from a response that is whole or from the events of a stream."""

from __future__ import annotations

import json
from collections.abc import Sequence

from pyworker.loadtest.fields import value_at
from pyworker.loadtest.record import Failure

OPENAI = ("choices.0.message.content", "choices.0.delta.content", "choices.0.text")
LONGEST = 4_000_000
"""Characters."""


class Answer:
    """Of one response; belongs to the thread that reads it."""

    def __init__(self, fields: Sequence[str]) -> None:
        """fields: where the text may stand in JSON; the first that is there counts."""
        self._fields = fields
        self._pieces: list[str] = []
        self._length = 0

    def hear(self, text: str) -> None:
        """A whole body or an event. What is no JSON, or has no such field, is passed over."""
        try:
            value: object = json.loads(text)
        except (ValueError, RecursionError):
            return
        found = (value_at(value, field.split(".")) for field in self._fields)
        piece = next((one for one in found if isinstance(one, str)), None)
        if piece is not None:
            self._length += len(piece)
            if self._length <= LONGEST:
                self._pieces.append(piece)

    @property
    def text(self) -> str:
        return "".join(self._pieces)

    @property
    def fault(self) -> Failure | None:
        """Why the conversation cannot go on."""
        if self._length > LONGEST:
            return Failure("other", f"the answer is longer than {LONGEST} characters")
        if not self._pieces:
            return Failure("other", f"no answer at {' or '.join(self._fields)}: name its field with --answer")
        return None
