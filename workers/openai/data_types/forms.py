"""A payload with files, which the model server gets as multipart/form-data."""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from typing_extensions import Self

from pyworker.data_types import Form, OpenPayload
from workers.openai.data_types.base import unwrapped
from workers.openai.faults import Fault, Faults
from workers.openai.settings import OpenAISettings
from workers.openai.uploads import FileField, form_of_form, form_of_json

_MAX_DIGITS = 12


@dataclass(kw_only=True)
class UploadPayload(OpenPayload):
    """A form: files, and texts that travel on untouched.

    files: the fields that hold files, the main one first. references: those that hold addresses of files.
    whole, numbers: those that must be whole numbers, or numbers, above 0 if they are there.
    """

    files: ClassVar[Sequence[FileField]]
    references: ClassVar[Sequence[str]] = ()
    whole: ClassVar[Sequence[str]] = ()
    numbers: ClassVar[Sequence[str]] = ()
    in_tokens: ClassVar[bool] = False

    form: Form

    @classmethod
    def from_json_msg(cls, json_msg: Mapping[str, Any]) -> Self:
        """Files are base64 or data URIs. Raises `JsonDataException`."""
        return cls(form=form_of_json(unwrapped(json_msg), cls.files, cls.references))._checked()

    @classmethod
    def from_form(cls, form: Form) -> Self:
        """Of a client that sent a form itself. Raises `JsonDataException`."""
        return cls(form=form_of_form(form, cls.files, cls.references))._checked()

    def _checked(self) -> Self:
        faults = Faults()
        for names, read in ((self.whole, whole_number), (self.numbers, number)):
            for name in names:
                try:
                    read(self.text(name))
                except Fault as fault:
                    faults.add(name, fault)
        faults.throw()
        return self

    def text(self, name: str) -> str | None:
        """The value of a field; None if it is not there, or empty."""
        return next(
            (text.strip() for field, text in self.form.fields if field == name and text.strip()), None
        )

    def generate_payload_multipart(self) -> Form:
        return self.form

    def generate_payload_json(self) -> dict[str, Any]:
        """As a client sends it: files as base64, each with its name."""
        msg: dict[str, Any] = {}
        for name, text in self.form.fields:
            _put(msg, name, name.endswith("[]"), text)
        for name, upload in self.form.uploads:
            is_listed = name.endswith("[]")
            _put(msg, name, is_listed, base64.b64encode(upload.data).decode("ascii"))
            _put(msg, f"{name.removesuffix('[]')}_filename", is_listed, upload.filename)
        return msg

    @classmethod
    def for_test(cls) -> Self:
        return cls.for_benchmark(OpenAISettings())

    @classmethod
    def for_benchmark(cls, options: OpenAISettings) -> Self:
        """One request of the benchmark, which no cache of the model has seen."""
        raise NotImplementedError(cls.__name__)


def whole_number(text: str | None, otherwise: int = 1) -> int:
    """A whole number above 0. Raises `Fault`."""
    if text is None:
        return otherwise
    if not (text.isascii() and text.isdigit() and len(text) <= _MAX_DIGITS and int(text) > 0):
        raise Fault("must be a whole number above 0")
    return int(text)


def number(text: str | None, otherwise: float = 1.0) -> float:
    """A number above 0. Raises `Fault`."""
    if text is None:
        return otherwise
    try:
        value = float(text) if len(text) <= 2 * _MAX_DIGITS else math.nan
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise Fault("must be a number above 0")
    return value


def _put(msg: dict[str, Any], name: str, is_listed: bool, value: str) -> None:
    if is_listed:
        msg.setdefault(name.removesuffix("[]"), []).append(value)
    else:
        msg[name] = value
