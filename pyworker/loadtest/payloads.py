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
from pyworker.registry import Example, sent_fields

LoadPayload = ApiPayload | type[ApiPayload] | Example

MOST = 2_000
MAKING_SECONDS = 3.0


@dataclass(frozen=True)
class Prepared:
    """The payload as a client sends it, which need not be what the worker makes of it for the model."""

    fields: Mapping[str, object]
    workload: float


class Payloads:
    """The payloads of a test, one after the other and then from the first again. Any thread may take one."""

    def __init__(self, prepared: list[Prepared]) -> None:
        self._prepared = prepared

    def of(self, number: int) -> Prepared:
        return self._prepared[number % len(self._prepared)]

    @classmethod
    def made(cls, payload: LoadPayload, count: int | None) -> Payloads:
        """A class or example makes a payload for each request, up to MOST; an instance is sent as it is.

        Raises `ConfigError` if it can make none.
        """
        if isinstance(payload, ApiPayload):
            return cls([Prepared(sent_fields(payload), payload.count_workload())])
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
            prepared.append(Prepared(sent_fields(one), one.count_workload()))
            if time.monotonic() > end:
                break
        return cls(prepared)

    @classmethod
    def of_file(cls, path: Path, payload: LoadPayload) -> Payloads:
        """A JSON object in each line, checked and weighed by the worker's payload class.

        Raises `ConfigError` with the number of a line that does not fit.
        """
        made = payload.payload_cls if isinstance(payload, Example) else payload
        kind = made if isinstance(made, type) else type(made)
        try:
            text = path.read_text("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
            raise ConfigError(f"--payload {path} cannot be read: {reason}") from error
        prepared = [
            _of_line(line, kind, f"--payload {path}, line {number}")
            for number, line in enumerate(text.splitlines(), 1)
            if line.strip()
        ]
        if not prepared:
            raise ConfigError(f"--payload {path} is empty; it needs a JSON object in each line")
        return cls(prepared)


def _of_line(line: str, kind: type[ApiPayload], where: str) -> Prepared:
    try:
        value: object = json.loads(line)
    except ValueError as error:
        raise ConfigError(f"{where}: not JSON ({error})") from error
    if not isinstance(value, dict):
        raise ConfigError(f'{where}: a JSON object is needed, such as {{"prompt": "Hello"}}')
    fields = cast("dict[str, object]", value)
    try:
        return Prepared(fields, kind.from_json_msg(fields).count_workload())
    except JsonDataException as error:
        raise ConfigError(f"{where}: {json.dumps(dict(error.json_msg))}") from error
