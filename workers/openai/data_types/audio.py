"""Speech and sounds from text: the workload is in the characters spoken."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, cast

from pydantic import Field
from typing_extensions import Self

from workers.openai.data_types.base import UNIT, OpenAIPayload, scaled
from workers.openai.data_types.pooling import text_of
from workers.openai.faults import Faults
from workers.openai.settings import OpenAISettings
from workers.openai.uploads import reference_fault

#: Characters of an ordinary request.
SPOKEN = 500
_BATCH = 4

#: Voices to imitate: addresses of recordings, or the recordings themselves as data URIs.
References = str | list[str] | None


def _count(references: object) -> int:
    if isinstance(references, list):
        return len(cast("list[object]", references))
    return 0 if references is None else 1


def _check(name: str, references: object, faults: Faults) -> None:
    if fault := reference_fault(references):
        faults.add(name, fault)


@dataclass(kw_only=True)
class Speech(OpenAIPayload):
    """`audio/speech`."""

    input: str
    ref_audio: References = None

    @classmethod
    def from_json_msg(cls, json_msg: Mapping[str, Any]) -> Self:
        payload = super().from_json_msg(json_msg)
        faults = Faults()
        _check("ref_audio", payload.ref_audio, faults)
        faults.throw()
        return payload

    def count_workload(self) -> float:
        return scaled(len(self.input) / SPOKEN) + UNIT * _count(self.ref_audio)

    @classmethod
    def for_benchmark(cls, options: OpenAISettings) -> Self:
        return cls.from_json_msg({"input": text_of(SPOKEN), **_voice(options)})


@dataclass(kw_only=True)
class SpeechBatch(OpenAIPayload):
    """`audio/speech/batch`: several texts in `items`."""

    items: Annotated[list[dict[str, Any]], Field(min_length=1)]
    ref_audio: References = None

    @classmethod
    def from_json_msg(cls, json_msg: Mapping[str, Any]) -> Self:
        payload = super().from_json_msg(json_msg)
        faults = Faults()
        _check("ref_audio", payload.ref_audio, faults)
        for number, item in enumerate(payload.items):
            if not isinstance(item.get("input"), str):
                faults.add(f"items.{number}.input", "must be a string")
            _check(f"items.{number}.ref_audio", item.get("ref_audio"), faults)
        faults.throw()
        return payload

    def count_workload(self) -> float:
        spoken = sum(len(item["input"]) for item in self.items)
        references = _count(self.ref_audio) + sum(_count(item.get("ref_audio")) for item in self.items)
        return scaled(spoken / SPOKEN) + UNIT * references

    @classmethod
    def for_benchmark(cls, options: OpenAISettings) -> Self:
        items = [{"input": text_of(SPOKEN // _BATCH)} for _ in range(_BATCH)]
        return cls.from_json_msg({"items": items, **_voice(options)})


@dataclass(kw_only=True)
class AudioGenerate(OpenAIPayload):
    """`audio/generate`: a sound from its description."""

    input: str

    def count_workload(self) -> float:
        return UNIT

    @classmethod
    def for_benchmark(cls, options: OpenAISettings) -> Self:
        return cls.from_json_msg({"input": text_of(100)})


def _voice(options: OpenAISettings) -> dict[str, str]:
    return {"voice": options.benchmark_speech_voice} if options.benchmark_speech_voice else {}
