"""Speech and transcriptions. What is said is a tone, and what is heard are words of the language model."""

from __future__ import annotations

import base64
import contextlib
import time
from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import flask

from pyworker.local.generation import EngineFailure, Generation
from pyworker.local.openai_api.api_error import ApiError, engine_failed
from pyworker.local.openai_api.events import DONE, data, named, route, stream, whole
from pyworker.local.openai_api.fields import AudioFields, SpeechBatchFields, SpeechFields
from pyworker.local.openai_api.media_files import audio_seconds, endless_wav_header, tone, wav
from pyworker.local.openai_api.service import Service, new_id
from pyworker.local.openai_api.text import Sampling, TextJob, count_tokens, text_prompt

SECONDS_PER_CHARACTER = 0.06
MOST_SECONDS = 600.0
DEFAULT_SECONDS = 2.0
WORDS_PER_SECOND = 2.5
FORMATS = {"wav": "audio/wav", "pcm": "audio/pcm"}


def add_routes(app: flask.Flask, service: Service) -> None:
    """All of `/v1/audio`."""
    views = {
        "speech": lambda: _speech(service),
        "speech/batch": lambda: _speech_batch(service),
        "generate": lambda: _audio(service),
        "transcriptions": lambda: _transcription(service, "transcribe"),
        "translations": lambda: _transcription(service, "translate"),
    }
    for name, view in views.items():
        route(app, f"/v1/audio/{name}", view)


# -- speech ------------------------------------------------------------------------------------------------


def _speech(service: Service) -> flask.Response:
    fields = service.fields(SpeechFields)
    _check_format(fields.response_format)
    if not fields.input.strip():
        raise ApiError("Input text cannot be empty", param="input")
    service.take_in(count_tokens(fields.input))
    sound = service.generate(_spoken(fields.input), are_tokens=True)
    if fields.stream_format == "audio":
        pieces = _audio_pieces(sound, fields.response_format)
        return flask.Response(pieces, content_type=FORMATS[fields.response_format])
    if fields.stream or fields.stream_format == "sse":
        return stream(_speech_events(sound, count_tokens(fields.input)))
    return _file(sound, fields.response_format)


def _audio(service: Service) -> flask.Response:
    fields = service.fields(AudioFields)
    _check_format(fields.response_format)
    seconds = DEFAULT_SECONDS if fields.audio_length is None else float(fields.audio_length)
    return _file(service.generate(tone(seconds)), fields.response_format)


def _speech_batch(service: Service) -> flask.Response:
    fields = service.fields(SpeechBatchFields)
    _check_format(fields.response_format)
    results = [_batch_result(service, index, item, fields) for index, item in enumerate(fields.items)]
    good = sum(result["status"] == "success" for result in results)
    return whole(
        {
            "id": new_id("speech-batch"),
            "results": results,
            "total": len(results),
            "succeeded": good,
            "failed": len(results) - good,
        }
    )


def _batch_result(
    service: Service, index: int, item: Mapping[str, Any], fields: SpeechBatchFields
) -> Mapping[str, Any]:
    text = item.get("input")
    if not isinstance(text, str) or not text.strip():
        return {"index": index, "status": "error", "error": "Input text cannot be empty"}
    service.take_in(count_tokens(text))
    sound = b"".join(service.work(_spoken(text), are_tokens=True))
    return {
        "index": index,
        "status": "success",
        "audio_data": base64.b64encode(_encoded(sound, fields.response_format)).decode(),
        "media_type": FORMATS[fields.response_format],
        "error": None,
    }


def _spoken(text: str) -> Iterator[bytes]:
    return tone(min(len(text) * SECONDS_PER_CHARACTER, MOST_SECONDS))


def _check_format(name: str) -> None:
    if name not in FORMATS:
        raise ApiError(f"response_format must be one of {', '.join(FORMATS)}", param="response_format")


def _encoded(samples: bytes, response_format: str) -> bytes:
    return wav(samples) if response_format == "wav" else samples


def _file(sound: Generation[bytes], response_format: str) -> flask.Response:
    with contextlib.closing(sound.items()) as pieces:
        samples = b"".join(pieces)
    body = _encoded(samples, response_format)
    return flask.Response(body, content_type=FORMATS[response_format])


def _audio_pieces(sound: Generation[bytes], response_format: str) -> Generator[bytes]:
    if response_format == "wav":
        yield endless_wav_header()
    with contextlib.closing(sound.items()) as pieces:
        yield from pieces


def _speech_events(sound: Generation[bytes], input_tokens: int) -> Generator[str]:
    try:
        with contextlib.closing(sound.items()) as pieces:
            for piece in pieces:
                audio = base64.b64encode(piece).decode()
                yield named({"type": "speech.audio.delta", "audio": audio})
    except EngineFailure as error:
        yield data({"error": engine_failed(str(error)).as_json()})
        return
    usage = {
        "input_tokens": input_tokens,
        "output_tokens": sound.count,
        "total_tokens": input_tokens + sound.count,
    }
    yield named({"type": "speech.audio.done", "usage": usage})


# -- transcriptions ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Heard:
    """What a request brings to be heard. seconds: of its audio."""

    seconds: float
    language: str
    response_format: str
    is_stream: bool
    wants_usage: bool


def _heard(service: Service) -> Heard:
    form, files = flask.request.form, flask.request.files
    if flask.request.mimetype != "multipart/form-data" or "file" not in files:
        raise ApiError("validation error: file: Field required", param="file")
    service.check_model(form.get("model"))
    response_format = form.get("response_format", "json")
    if response_format not in ("json", "text", "verbose_json"):
        raise ApiError(
            "Currently only support response_format: `text`, `json` or `verbose_json`",
            param="response_format",
        )
    is_stream = form.get("stream", "").lower() in ("true", "1")
    if is_stream and response_format == "verbose_json":
        raise ApiError("verbose_json format doesn't support streaming case", param="response_format")
    seconds = audio_seconds(files["file"].stream.read())
    if seconds is None:
        raise ApiError("Invalid or unsupported audio file.", param="file")
    wants_usage = form.get("stream_include_usage", "").lower() in ("true", "1")
    return Heard(seconds, form.get("language", "en"), response_format, is_stream, wants_usage)


def _transcription(service: Service, task: str) -> flask.Response:
    heard = _heard(service)
    words = max(int(heard.seconds * WORDS_PER_SECOND), 1)
    sampling = Sampling(max_tokens=min(words, service.context // 2), ignore_eos=True)
    job = TextJob(service, [text_prompt(flask.request.form.get("prompt", task))], sampling)
    if heard.is_stream:
        return stream(_transcription_events(service, job, task, wants_usage=heard.wants_usage))
    job.finish()
    text = job.choices[0].text
    if heard.response_format == "text":
        return flask.Response(text + "\n", content_type="text/plain; charset=utf-8")
    if heard.response_format == "verbose_json":
        return whole(_verbose(heard, task, text))
    seconds = max(round(heard.seconds), 1)
    return whole({"text": text, "usage": {"type": "duration", "seconds": seconds}})


def _verbose(heard: Heard, task: str, text: str) -> Mapping[str, Any]:
    segment: dict[str, Any] = {
        "id": 0,
        "avg_logprob": -0.3,
        "compression_ratio": 1.2,
        "end": heard.seconds,
        "no_speech_prob": 0.01,
        "seek": 0,
        "start": 0.0,
        "temperature": 0.0,
        "text": text,
        "tokens": [],
    }
    return {
        "task": task,
        "duration": str(heard.seconds),
        "language": heard.language,
        "text": text,
        "segments": [segment],
        "words": None,
    }


def _transcription_events(service: Service, job: TextJob, task: str, *, wants_usage: bool) -> Generator[str]:
    kind = "transcription.chunk" if task == "transcribe" else "translation.chunk"
    head = {"id": new_id("trsc"), "object": kind, "created": int(time.time()), "model": service.model}
    try:
        with contextlib.closing(job.steps()) as steps:
            for step in steps:
                choice = {
                    "delta": {"content": step.text},
                    "finish_reason": step.choice.finish_reason,
                    "stop_reason": None,
                }
                yield data({**head, "choices": [choice]})
    except EngineFailure as error:
        yield data({"error": engine_failed(str(error)).as_json()})
    else:
        if wants_usage:
            yield data({**head, "choices": [], "usage": job.usage()})
    yield DONE
