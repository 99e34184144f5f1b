"""Conversations: a user asks, reads the answer, thinks, and asks again with all that was said before.

They start as requests do, on schedule or by so many users; what follows in one depends on the answers (a
partly open system: Schroeder et al., "Open Versus Closed: A Cautionary Tale", 2006).
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Mapping, Sequence
from typing import cast

from pyworker.loadtest.answers import Answer
from pyworker.loadtest.exchange import Exchange, Line
from pyworker.loadtest.fields import with_value
from pyworker.loadtest.measurement import Measurement, Talked
from pyworker.loadtest.payloads import Payloads, Prepared
from pyworker.loadtest.record import Record
from pyworker.loadtest.sessions import Sessions
from pyworker.loadtest.talk import TalkPlan, messages_at

#: Between the payloads whose questions follow each other, if lengths do not say what is asked.
_STRIDE = 7_919


class Talker:
    """Any thread may send.

    first: the number of the first conversation, as of a request. seconds: after the begin of the test, in
    which questions may be asked.
    """

    def __init__(
        self,
        plan: TalkPlan,
        payloads: Payloads,
        measurement: Measurement,
        exchange: Exchange,
        sessions: Sessions,
        *,
        seconds: float,
        first: int = 0,
        seed: int | None = None,
    ) -> None:
        self.stopping = threading.Event()
        self._plan = plan
        self._payloads = payloads
        self._measurement = measurement
        self._exchange = exchange
        self._sessions = sessions
        self._seconds = seconds
        self._first = first
        self._seed = seed

    def send(self, number: int, due: float) -> None:
        """One conversation."""
        number += self._first
        generator = random.Random(None if self._seed is None else f"{self._seed} {number}")
        turns = self._plan.turns.whole(generator)
        think = self._plan.think
        pauses = [0.0 if think is None else think.draw(generator) for _ in range(turns - 1)]
        self._measurement.talking()
        with self._sessions.line(max(pauses, default=0.0)) as line:
            self._measurement.talked(self._talk(number, due, pauses, line))

    def close(self) -> None:
        """End the sessions that are left."""
        self._sessions.close()

    @property
    def described(self) -> str:
        """How the turns of a conversation found their worker."""
        return self._sessions.described

    def _talk(self, number: int, due: float, pauses: Sequence[float], line: Line) -> Talked:
        before: list[object] = []
        for turn, pause in enumerate((0.0, *pauses), 1):
            prepared = self._question(number, turn, before)
            if turn > 1:
                due = max(due + pause, time.monotonic())
                if not self._wait_until(due):
                    return "stopped"
            record = Record(
                due, time.monotonic(), prepared.workload, turn=turn, input_tokens=prepared.input_tokens
            )
            answer = Answer(self._plan.answer)
            fields = self._exchange.fields(prepared)
            self._exchange.perform(line, fields, record, answer)
            if record.failure is not None:
                return "broken"
            due = record.ended
            said = {"role": "assistant", "content": answer.text}
            before = [*messages_at(fields, self._plan.messages), said]
        return "whole"

    def _wait_until(self, due: float) -> bool:
        """False if the test ends before; then at its end, so that a user who thinks begins nothing else."""
        end = self._measurement.begin + self._seconds
        stopped = self.stopping.wait(max(0.0, min(due, end) - time.monotonic()))
        return not stopped and due < end

    def _question(self, number: int, turn: int, before: Sequence[object]) -> Prepared:
        """The payload of a turn. before: what was said."""
        own = self._payloads.of(number, turn)
        if turn == 1:
            return own
        shape = self._payloads.shape
        asked = own
        if shape is None or not shape.plan.has_input:
            asked = self._payloads.of(number + (turn - 1) * _STRIDE, turn)
        fields = self._continued(own.fields, asked.fields, before)
        model = own.for_model
        if model is not None and asked.for_model is not None:
            model = self._continued(model, asked.for_model, before)
        return Prepared(fields, self._payloads.workload(fields, own.workload), model)

    def _continued(
        self, own: Mapping[str, object], asked: Mapping[str, object], before: Sequence[object]
    ) -> Mapping[str, object]:
        question = messages_at(asked, self._plan.messages)[-1]
        made = with_value(own, self._plan.messages.split("."), [*before, question])
        return cast("Mapping[str, object]", made)
