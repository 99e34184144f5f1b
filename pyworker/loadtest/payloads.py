"""What is sent: payloads made before the test begins, so that the test does not wait for them."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from pyworker.data_types import ApiPayload, JsonDataException
from pyworker.errors import ConfigError
from pyworker.loadtest.trace import Trace
from pyworker.registry import Example, sent_fields

LoadPayload = ApiPayload | type[ApiPayload] | Example

MOST = 2_000
MAKING_SECONDS = 3.0


@dataclass(frozen=True)
class Prepared:
    """The payload as a client sends it, which need not be what the worker makes of it for the model."""

    fields: Mapping[str, object]
    workload: float
    for_model: Mapping[str, object] | None = None
    """What the worker makes of it, if a test of the model server needs that."""


class Payloads:
    """The payloads of a test, one after the other and then from the first again. Any thread may take one."""

    def __init__(self, prepared: list[Prepared]) -> None:
        self._prepared = prepared
        self._trace: Trace | None = None

    def of(self, number: int) -> Prepared:
        prepared = self._prepared[number % len(self._prepared)]
        if self._trace is None:
            return prepared
        fields = self._trace.shaped(number, prepared.fields)
        return Prepared(fields, self._trace.workload(number, prepared.workload))

    def shaped(self, trace: Trace) -> Payloads:
        """With the lengths of a trace; raises `ConfigError` if a payload has no place for them."""
        made = Payloads(self._prepared)
        made._trace = trace
        for prepared in self._prepared:
            trace.check(prepared.fields)
        return made

    @classmethod
    def made(cls, payload: LoadPayload, count: int | None, *, for_model: bool = False) -> Payloads:
        """A class or example makes a payload for each request, up to MOST; an instance is sent as it is.

        for_model: also as the model server takes them. Raises `ConfigError` if it can make none.
        """
        if isinstance(payload, ApiPayload):
            return cls([_prepared(payload, sent_fields(payload), for_model=for_model)])
        make = payload.make if isinstance(payload, Example) else payload.for_test
        prepared: list[Prepared] = []
        try:
            first = make()
        except NotImplementedError as error:
            raise ConfigError(f"{error}; or send payloads of your own with --payload FILE.jsonl") from error
        first.count_workload()  # the first count loads a tokenizer; that is not what the time is for
        end = time.monotonic() + MAKING_SECONDS
        while len(prepared) < min(MOST, MOST if count is None else count):
            one = make() if prepared else first
            prepared.append(_prepared(one, sent_fields(one), for_model=for_model))
            if time.monotonic() > end:
                break
        return cls(prepared)

    @classmethod
    def of_file(cls, path: Path, payload: LoadPayload | None, *, for_model: bool = False) -> Payloads:
        """A JSON object in each line, checked and weighed by the worker's payload class if there is one.

        Raises `ConfigError` with the number of a line that does not fit.
        """
        try:
            text = path.read_text("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
            raise ConfigError(f"--payload {path} cannot be read: {reason}") from error
        lines = [
            (f"--payload {path}, line {number}", line) for number, line in enumerate(text.splitlines(), 1)
        ]
        prepared = [
            _of_text(line, payload, where, for_model=for_model) for where, line in lines if line.strip()
        ]
        if not prepared:
            raise ConfigError(f"--payload {path} is empty; it needs a JSON object in each line")
        return cls(prepared)

    @classmethod
    def of_body(cls, body: str) -> Payloads:
        """One JSON object for every request; raises `ConfigError`."""
        return cls([_of_text(body, None, "--body")])


def _prepared(payload: ApiPayload, fields: Mapping[str, object], *, for_model: bool) -> Prepared:
    made = payload.generate_payload_json() if for_model else None
    return Prepared(fields, payload.count_workload(), made)


def _of_text(text: str, payload: LoadPayload | None, where: str, *, for_model: bool = False) -> Prepared:
    try:
        value: object = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{where}: not JSON ({error})") from error
    if not isinstance(value, dict):
        raise ConfigError(f'{where}: a JSON object is needed, such as {{"prompt": "Hello"}}')
    fields = cast("dict[str, object]", value)
    if payload is None:
        return Prepared(fields, 1.0)
    made = payload.payload_cls if isinstance(payload, Example) else payload
    kind = made if isinstance(made, type) else type(made)
    try:
        return _prepared(kind.from_json_msg(fields), fields, for_model=for_model)
    except JsonDataException as error:
        raise ConfigError(f"{where}: {json.dumps(dict(error.json_msg))}") from error
