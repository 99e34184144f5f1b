"""Payload classes made of what a program gives: functions, or a payload class after the public SDK's."""

from __future__ import annotations

import copy
import inspect
import json
import logging
import math
import random
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, cast

from typing_extensions import Self

from pyworker.data_types import ApiPayload, Form, Upload
from pyworker.errors import JsonDataException, shortened
from pyworker.sdk.config import BenchmarkConfig, HandlerConfig, Json

logger = logging.getLogger(__name__)

#: The work of a request that nothing measures.
DEFAULT_WORKLOAD = 100.0
_SHOWN = 200


class Rules(ABC):
    """What a program says of a route's payloads. Thread-safe if the program's functions are."""

    @abstractmethod
    def parse(self, payload: Json) -> Any:
        """What `workload` and `model_json` take. Raises `JsonDataException`."""

    @abstractmethod
    def example(self) -> Any:
        """The same for a request of the benchmark."""

    @abstractmethod
    def workload(self, parsed: Any) -> float:
        """At least 0."""

    @abstractmethod
    def model_json(self, parsed: Any) -> Any:
        """The JSON for the model server."""

    def model_form(self, parsed: Any) -> Form | None:  # noqa: ARG002
        """The form for it instead, if it takes one."""
        return None


class FunctionRules(Rules):
    """By the functions of a `HandlerConfig`."""

    def __init__(self, config: HandlerConfig) -> None:
        self._route = config.route
        self._parser = config.request_parser
        self._calculator = config.workload_calculator
        self._benchmark = config.benchmark_config or BenchmarkConfig()
        self._parameters = None if config.remote_function is None else _parameters_of(config.remote_function)

    def parse(self, payload: Json) -> Any:
        parsed = payload if self._parser is None else _parsed_by(self._parser, payload)
        if self._parameters is not None:
            try:
                self._parameters.bind(**parsed)
            except TypeError as error:
                raise JsonDataException({"parameters": shortened(str(error), _SHOWN)}) from error
        return parsed

    def example(self) -> Json:
        if self._benchmark.dataset:
            return random.choice(self._benchmark.dataset).copy()
        assert self._benchmark.generator is not None, "checked when the route was made"
        return dict(self._benchmark.generator())

    def workload(self, parsed: Any) -> float:
        if self._calculator is None:
            return DEFAULT_WORKLOAD
        try:
            workload = float(self._calculator(parsed))
        except Exception as error:  # noqa: BLE001  the program's
            # Not its message, which may quote the payload.
            self._complain(f"raised {type(error).__name__}")
            return DEFAULT_WORKLOAD
        if not math.isfinite(workload) or workload < 0:
            self._complain(f"returned {workload}")
            return DEFAULT_WORKLOAD
        return workload

    def _complain(self, what: str) -> None:
        logger.warning(
            "workload_calculator of %s %s; the request counts %g", self._route, what, DEFAULT_WORKLOAD
        )

    def model_json(self, parsed: Any) -> Any:
        return parsed


class ClassRules(Rules):
    """By a class with the methods of the public SDK's `ApiPayload`."""

    def __init__(self, payload_class: Any, example: Any = None) -> None:
        """example: makes a payload; default: the class's `for_test`."""
        self._class = payload_class
        self._example = example or payload_class.for_test

    def parse(self, payload: Json) -> Any:
        return _parsed_by(self._class.from_json_msg, payload)

    def example(self) -> Any:
        return self._example()

    def workload(self, parsed: Any) -> float:
        return float(parsed.count_workload())

    def model_json(self, parsed: Any) -> Any:
        return parsed.generate_payload_json()

    def model_form(self, parsed: Any) -> Form | None:
        make = getattr(parsed, "generate_payload_multipart", None)
        fields = None if make is None else make()
        return None if fields is None else form_of(fields)


@dataclass
class SdkPayload(ApiPayload):
    """What the client sent, and what the rules made of it."""

    rules: ClassVar[Rules]

    sent: Json
    parsed: Any

    @classmethod
    def for_test(cls) -> Self:
        parsed = cls.rules.example()
        return cls(cls.rules.model_json(parsed), parsed)

    @classmethod
    def from_json_msg(cls, json_msg: Mapping[str, Any]) -> Self:
        return cls(cast("Json", json_msg), cls.rules.parse(cast("Json", json_msg)))

    def count_workload(self) -> float:
        return self.rules.workload(self.parsed)

    def generate_payload_json(self) -> dict[str, Any]:
        return self.rules.model_json(self.parsed)

    def generate_payload_multipart(self) -> Form | None:
        return self.rules.model_form(self.parsed)


class BridgedPayload(SdkPayload):
    """For the bridge: the client's payload as the response generator sees it, and the model server's."""

    @classmethod
    def from_json_msg(cls, json_msg: Mapping[str, Any]) -> Self:
        # A parser may change what it is given.
        return cls(copy.deepcopy(cast("Json", json_msg)), cls.rules.parse(cast("Json", json_msg)))

    def generate_payload_json(self) -> dict[str, Any]:
        return {"payload": self.sent, "model": self.rules.model_json(self.parsed)}

    def generate_payload_multipart(self) -> None:
        return None


def payload_class(rules: Rules, *, bridged: bool) -> type[SdkPayload]:
    """A payload class with these rules. bridged: its requests go to the bridge."""
    base: type[SdkPayload] = BridgedPayload if bridged else SdkPayload
    return cast("type[SdkPayload]", type(base.__name__, (base,), {"rules": rules}))


def _parsed_by(parse: Any, payload: Json) -> Any:
    try:
        return parse(payload)
    except JsonDataException:
        raise
    except Exception as error:
        # The public SDK's, which holds the same.
        faults: object = getattr(error, "message", None)
        if type(error).__name__ == "JsonDataException" and isinstance(faults, Mapping):
            raise JsonDataException(cast("Mapping[str, str]", faults)) from error
        raise


def _parameters_of(function: Callable[..., Any]) -> inspect.Signature | None:
    """None for one that does not tell, such as some written in C."""
    try:
        return inspect.signature(function)
    except (TypeError, ValueError):
        return None


def form_of(fields: Mapping[str, Any]) -> Form:
    """The form of the public SDK's fields: `(filename, bytes, content_type)` is a file, a list repeats its
    field, None is left out, an object or a list within a list is sent as JSON, all else as text.

    Raises `TypeError` for bare bytes.
    """
    texts: list[tuple[str, str]] = []
    uploads: list[tuple[str, Upload]] = []
    for name, item in _items(fields):
        if isinstance(item, tuple):
            filename, data, content_type = cast("tuple[str, bytes, str]", item)
            uploads.append((name, Upload(bytes(data), filename, content_type or "")))
        elif isinstance(item, bytes | bytearray):
            raise TypeError(f"the field {name} of a form holds bytes: write (filename, bytes, content_type)")
        elif isinstance(item, dict | list | bool):
            texts.append((name, json.dumps(item)))
        else:
            texts.append((name, str(item)))
    return Form(texts, uploads)


def _items(fields: Mapping[str, Any]) -> Iterator[tuple[str, object]]:
    for name, value in fields.items():
        values = cast("list[object]", value) if isinstance(value, list) else [value]
        for item in values:
            if item is not None:
                yield name, item
