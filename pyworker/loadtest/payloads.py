"""What is sent: payloads made before the test begins, so that the test does not wait for them."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from pyworker.data_types import ApiPayload, JsonDataException
from pyworker.errors import ConfigError
from pyworker.loadtest.fields import OPTION
from pyworker.loadtest.shape import Shape
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
    input_tokens: int = 0
    """If they are known."""


class Payloads:
    """The payloads of a test, one after the other and then from the first again. Any thread may take one."""

    def __init__(
        self, prepared: Sequence[Prepared], kind: type[ApiPayload] | None = None, shape: Shape | None = None
    ) -> None:
        """kind: counts the workload of what is changed. shape: what changes them."""
        self.every = prepared
        """Each payload, before it is shaped."""
        self.kind = kind
        self.shape = shape

    def of(self, number: int, turn: int = 0) -> Prepared:
        """turn: of a conversation, from 1."""
        prepared = self.every[number % len(self.every)]
        if self.shape is None:
            return prepared
        shaped = self.shape.shaped(number, turn, prepared.fields)
        model = prepared.for_model
        return Prepared(
            shaped.fields,
            self.workload(shaped.fields, float(shaped.input + shaped.output) or prepared.workload),
            None if model is None else self.shape.shaped(number, turn, model).fields,
            shaped.input,
        )

    def workload(self, fields: Mapping[str, object], otherwise: float) -> float:
        """As the worker counts it; `otherwise` if it is not known, or refuses them."""
        if self.kind is None:
            return otherwise
        try:
            return self.kind.from_json_msg(fields).count_workload()
        except Exception:  # noqa: BLE001 - the code of an author, on a thread that must not end
            return otherwise

    def shaped(self, shape: Shape) -> Payloads:
        """With other lengths; raises `ConfigError` if a payload has no place for them."""
        for prepared in self.every:
            shape.check(prepared.fields)
            if prepared.for_model is not None:
                shape.check(prepared.for_model)
        made = Payloads(self.every, self.kind, shape)
        if self.kind is not None:
            try:
                self.kind.from_json_msg(made.of(0).fields)
            except JsonDataException as error:
                fault = json.dumps(dict(error.json_msg))
                raise ConfigError(f"{OPTION}: the worker would refuse it: {fault}") from error
        return made

    @classmethod
    def made(cls, payload: LoadPayload, count: int | None, *, for_model: bool = False) -> Payloads:
        """A class or example makes a payload for each request, up to MOST; an instance is sent as it is.

        for_model: also as the model server takes them. Raises `ConfigError` if it can make none.
        """
        if isinstance(payload, ApiPayload):
            return cls([_prepared(payload, sent_fields(payload), for_model=for_model)], type(payload))
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
        return cls(prepared, _kind_of(payload))

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
        return cls(prepared, None if payload is None else _kind_of(payload))

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
    try:
        return _prepared(_kind_of(payload).from_json_msg(fields), fields, for_model=for_model)
    except JsonDataException as error:
        raise ConfigError(f"{where}: {json.dumps(dict(error.json_msg))}") from error


def _kind_of(payload: LoadPayload) -> type[ApiPayload]:
    made = payload.payload_cls if isinstance(payload, Example) else payload
    return made if isinstance(made, type) else type(made)
