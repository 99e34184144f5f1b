"""What is asked for of conversations, and where in a payload they stand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

from pyworker.errors import ConfigError
from pyworker.loadtest.answers import OPENAI
from pyworker.loadtest.distribution import Distribution
from pyworker.loadtest.fields import OPTION, value_at
from pyworker.loadtest.payloads import Payloads

MOST_TURNS = 1_000
LONGEST_THINKING = 3_600.0


@dataclass(frozen=True)
class TalkPlan:
    """What is asked for. think: seconds between an answer and the next question.

    messages: the path of the list of messages in a payload. answer: where an answer stands in a response.
    """

    turns: Distribution
    think: Distribution | None = None
    messages: str = "messages"
    answer: Sequence[str] = OPENAI

    def __str__(self) -> str:
        thinking = "" if self.think is None else f", thinking {self.think} s"
        return f"conversations of {self.turns} turns{thinking}"

    @property
    def pause(self) -> float:
        """Mean time between two requests of a user without the requests themselves, in seconds."""
        turns = max(1.0, self.turns.mean)
        return 0.0 if self.think is None else self.think.mean * (turns - 1) / turns

    def check(self, payloads: Payloads) -> None:
        """Raises `ConfigError` if there is no place for the turns of a conversation."""
        for prepared in payloads.every:
            for fields in (prepared.fields, prepared.for_model):
                if fields is not None:
                    self._check(fields, payloads)

    def _check(self, fields: Mapping[str, object], payloads: Payloads) -> None:
        messages = messages_at(fields, self.messages)
        if not messages or not isinstance(messages[-1], Mapping):
            raise ConfigError(
                f"--turns: the payload has no list of messages in {self.messages!r}, in which a conversation "
                "could grow; take a route for chats, such as --route /v1/chat/completions, or name the list "
                f"with {OPTION} LIST.0.content"
            )
        shape = payloads.shape
        last = f"{self.messages}.{len(messages) - 1}."
        if shape is not None and shape.plan.has_input and not shape.plan.fields[0].startswith(last):
            raise ConfigError(
                f"{OPTION}: with --turns the input has to stand in the last message, such as {last}content"
            )


def messages_at(fields: Mapping[str, object], path: str) -> list[object]:
    """Empty if there is none."""
    found = value_at(fields, path.split("."))
    return cast("list[object]", found) if isinstance(found, list) else []
