"""Files in requests: from JSON or a form to the form for the model server, and what is refused."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyworker.data_types import Form, JsonDataException, Upload
from tests.support.growth import assert_linear
from tests.workers.test_openai_wav import wav
from workers.openai import uploads
from workers.openai.data_types.files import ImageEdit, Transcription, VideoSync
from workers.openai.data_types.forms import UploadPayload

WAV = wav(8000)
PNG = b"\x89PNG\r\n\x1a\n" + bytes(20)
JPEG = b"\xff\xd8\xff\xe0" + bytes(20)
MP4 = bytes(4) + b"ftypisom" + bytes(20)


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def uri(data: bytes, kind: str = "audio/wav") -> str:
    return f"data:{kind};base64,{b64(data)}"


def form_of(cls: type[UploadPayload], json_msg: Mapping[str, Any]) -> Form:
    return cls.from_json_msg(json_msg).form


def faults_of(cls: type[UploadPayload], msg: Mapping[str, Any] | Form) -> dict[str, Any]:
    parse: Any = cls.from_form if isinstance(msg, Form) else cls.from_json_msg
    with pytest.raises(JsonDataException) as raised:
        parse(msg)
    return dict(raised.value.json_msg)


# -- from JSON -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "value",
    [
        *(b64(WAV), uri(WAV), uri(WAV, "audio/x-wav"), uri(WAV, ""), uri(WAV, "audio/wav;codecs=1")),
        *(f" {b64(WAV)[:40]}\n{b64(WAV)[40:]}\r\n", uri(WAV).replace("data:", "DATA:")),
    ],
)
def test_base64_becomes_a_file(value: str) -> None:
    form = form_of(Transcription, {"file": value})
    assert form.uploads == [("file", Upload(WAV, "file.wav", "audio/wav"))]
    assert form.fields == []


def test_everything_else_becomes_fields_in_their_order() -> None:
    form = form_of(
        Transcription,
        {
            "language": "de",
            "file": b64(WAV),
            "temperature": 0.25,
            "stream": True,
            "prompt": None,
            "unknown": {"a": [1, None]},
            "timestamp_granularities": ["word", "segment"],
            "include[]": ["logprobs"],
            "filename": "a b.WAV",
        },
    )
    assert form.fields == [
        ("language", "de"),
        ("temperature", "0.25"),
        ("stream", "true"),
        ("unknown", '{"a": [1, null]}'),
        ("timestamp_granularities[]", "word"),
        ("timestamp_granularities[]", "segment"),
        ("include[]", "logprobs"),
    ]
    assert form.uploads == [("file", Upload(WAV, "a b.WAV", "audio/wav"))]


def test_input_may_be_wrapped() -> None:
    assert form_of(Transcription, {"input": {"file": b64(WAV)}, "language": "de"}) == form_of(
        Transcription, {"language": "de", "file": b64(WAV)}
    )


def test_several_files_with_their_names() -> None:
    form = form_of(
        ImageEdit,
        {
            "image": [b64(PNG), uri(JPEG, "image/jpg"), "https://example.com/a.png"],
            "image_filename": ["one.png"],
            "mask": b64(PNG),
            "mask_filename": "hole.webp",
            "prompt": "a dog",
        },
    )
    assert form.uploads == [
        ("image[]", Upload(PNG, "one.png", "image/png")),
        ("image[]", Upload(JPEG, "image.jpg", "image/jpeg")),
        ("mask", Upload(PNG, "hole.webp", "image/webp")),
    ]
    assert form.fields == [("image[]", "https://example.com/a.png"), ("prompt", "a dog")]


@pytest.mark.parametrize(
    ("data", "ending"),
    [
        (WAV, "wav"),
        (b"fLaC" + bytes(9), "flac"),
        (b"OggS" + bytes(9), "ogg"),
        (b"ID3" + bytes(9), "mp3"),
        (b"\x1aE\xdf\xa3" + bytes(9), "webm"),
        (MP4, "mp4"),
        (b"something else", "wav"),
    ],
)
def test_a_file_without_a_name_is_called_by_its_content(data: bytes, ending: str) -> None:
    [(_, upload)] = form_of(Transcription, {"file": b64(data)}).uploads
    assert upload == Upload(data, f"file.{ending}", uploads.AUDIO[ending])


@pytest.mark.parametrize("data", [PNG, MP4])
def test_a_video_may_begin_with_a_picture_or_a_video(data: bytes) -> None:
    [(name, _)] = form_of(VideoSync, {"prompt": "x", "input_reference": b64(data)}).uploads
    assert name == "input_reference"


def test_addresses_travel_as_text() -> None:
    reference = {"image_url": "https://example.com/a.png", "file_id": "file-1"}
    form = form_of(VideoSync, {"image_reference": reference, "audio_reference": uri(WAV)})
    assert form.fields == [("image_reference", json.dumps(reference)), ("audio_reference", uri(WAV))]
    edit = form_of(ImageEdit, {"url": ["http://example.com/a", uri(PNG, "image/png")]})
    assert edit.fields == [("url[]", "http://example.com/a"), ("url[]", uri(PNG, "image/png"))]


# -- from a form -----------------------------------------------------------------------------------------


def test_a_form_stays_as_it_is() -> None:
    form = Form(
        [("model", "whisper"), ("prompt", ""), ("timestamp_granularities[]", "word")],
        [("file", Upload(WAV, "speech.wav", "audio/wav"))],
    )
    assert Transcription.from_form(form).form == form


def test_the_kind_of_a_file_is_told_by_its_name() -> None:
    form = Form([], [("file", Upload(b"x", "speech.ogg", "text/html"))])
    [(_, upload)] = Transcription.from_form(form).form.uploads
    assert upload.content_type == "audio/ogg"


@given(
    st.lists(st.tuples(st.sampled_from(["prompt", "a", "b[]", "c[]"]), st.text(max_size=9)), max_size=6),
    st.lists(st.tuples(st.just("image[]"), st.binary(min_size=1, max_size=9)), max_size=4),
    st.binary(max_size=9),
)
def test_json_and_form_are_one(
    fields: list[tuple[str, str]], files: list[tuple[str, bytes]], mask: bytes
) -> None:
    once = [field for index, field in enumerate(fields) if field[0] not in dict(fields[:index])]
    pictures = [(name, Upload(data, f"{index}.png", "image/png")) for index, (name, data) in enumerate(files)]
    masks = [("mask", Upload(mask, "mask.png", "image/png"))] if mask else []
    form = Form(once, [*pictures, *masks])
    payload = ImageEdit.from_form(form)
    assert ImageEdit.from_json_msg(payload.generate_payload_json()).form == form


# -- what is refused -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "fault"),
    [
        ("*not base64*", "must be base64 or a data URI"),
        ("abc", "must be base64 or a data URI"),
        ("é" * 40, "must be base64 or a data URI"),
        (7, "must be base64 or a data URI"),
        ({"a": 1}, "must be base64 or a data URI"),
        ("", "the file is empty"),
        ("data:audio/wav,abc", "a data URI must be base64"),
        ("data:audio/wav;base64", "a data URI must be base64"),
        (uri(WAV, "text/html"), "must be one of wav, "),
        ("file:///etc/passwd", "only http, https and data URIs are taken as references"),
        ("FILE:///etc/passwd", "only http, https and data URIs are taken as references"),
        ("s3://bucket/key", "only http, https and data URIs are taken as references"),
        (None, "missing parameter"),
        ([], "missing parameter"),
    ],
)
def test_what_is_no_file_is_named(value: object, fault: str) -> None:
    [(name, told)] = faults_of(Transcription, {"file": value}).items()
    assert name == "file"
    assert told.startswith(fault)


def test_a_file_must_be_there() -> None:
    assert faults_of(Transcription, {"language": "de"}) == {"file": "missing parameter"}
    assert faults_of(Transcription, Form([("language", "de")], [])) == {"file": "missing parameter"}


@pytest.mark.parametrize(
    "name", ["speech.exe", "speech", "../speech.wav", "a\\b.wav", "a\r\nb.wav", 'a".wav', "x" * 300 + ".wav"]
)
def test_a_file_name_must_be_plain_and_of_a_kind_that_is_taken(name: str) -> None:
    fault = faults_of(Transcription, {"file": b64(WAV), "filename": name})["file"]
    assert "its file name must" in fault
    fault = faults_of(Transcription, Form([], [("file", Upload(WAV, name, ""))]))["file"]
    assert "its file name must" in fault


def test_a_file_name_must_be_a_text() -> None:
    assert faults_of(Transcription, {"file": b64(WAV), "file_filename": 7}) == {
        "file": "its file name must be a string"
    }


@pytest.mark.parametrize(
    "reference",
    [
        "file:///etc/passwd",
        " https://example.com",
        "ftp://example.com/a",
        "/etc/passwd",
        '{"image_url": "file:///etc/passwd"}',
        '{"broken',
        {"image_url": "file:///etc/passwd"},
        {"image_url": {"inner_url": "gopher://x"}},
        {"a": 1, "image_url": ["https://example.com", "file:///x"]},
    ],
)
def test_references_are_http_https_or_data(reference: object) -> None:
    told = "only http, https and data URIs are taken as references"
    assert faults_of(VideoSync, {"prompt": "x", "image_reference": reference}) == {"image_reference": told}
    text = reference if isinstance(reference, str) else json.dumps(reference)
    assert faults_of(VideoSync, Form([("image_reference", text)], [])) == {"image_reference": told}


def test_a_file_field_of_a_form_may_be_an_address_but_no_path() -> None:
    assert ImageEdit.from_form(Form([("image", "https://example.com/a.png")], [])).form.fields
    assert "image" in faults_of(ImageEdit, Form([("image", "file:///etc/passwd")], []))


def test_each_fault_is_named() -> None:
    msg = {"image": [b64(PNG), "file:///x", 7], "mask": "file:///y", "n": 0, "size": "auto"}
    assert set(faults_of(ImageEdit, msg)) == {"image.1", "image.2", "mask"}
    assert faults_of(ImageEdit, {"image": b64(PNG), "n": 0}) == {"n": "must be a whole number above 0"}


@pytest.mark.parametrize("value", ["0", "-1", "1.5", "x", "9" * 20, "१", True])
def test_numbers_that_the_workload_needs_are_checked(value: object) -> None:
    assert faults_of(ImageEdit, {"image": b64(PNG), "n": value}) == {"n": "must be a whole number above 0"}


@pytest.mark.parametrize("value", ["0", "-1", "nan", "inf", "x", "9" * 40, "1e400"])
def test_seconds_are_a_number(value: object) -> None:
    assert faults_of(VideoSync, {"seconds": value}) == {"seconds": "must be a number above 0"}


def test_a_route_takes_files_in_its_own_fields_only() -> None:
    form = Form([], [("file", Upload(WAV, "a.wav", "")), ("other", Upload(b"x", "a.wav", ""))])
    assert faults_of(Transcription, form) == {"other": "this route takes no file in this field"}


# -- limits ----------------------------------------------------------------------------------------------


def test_a_file_has_a_limit() -> None:
    most = Upload(bytes(uploads.MAX_FILE), "a.wav", "audio/wav")
    assert Transcription.from_form(Form([], [("file", most)]))
    more = Upload(most.data + b"x", "a.wav", "audio/wav")
    assert faults_of(Transcription, Form([], [("file", more)])) == {"file": "is larger than 25 MiB"}
    assert faults_of(Transcription, {"file": b64(more.data)}) == {"file": "is larger than 25 MiB"}


def test_a_request_has_a_limit() -> None:
    large = Upload(bytes(22 * 2**20), "a.png", "image/png")
    form = Form([], [("image", large)] * 3)
    assert faults_of(ImageEdit, form) == {"image": "the files are larger than 64 MiB in all"}


def test_so_many_files_are_too_many() -> None:
    small = b64(PNG)
    assert form_of(ImageEdit, {"image": [small] * 16})
    assert faults_of(ImageEdit, {"image": [small] * 17}) == {"image[]": "17 files are more than 16"}


def test_thousands_of_faults_are_counted() -> None:
    with pytest.raises(JsonDataException) as raised:
        form_of(ImageEdit, {"image": [7] * 5000})
    assert len(raised.value.json_msg) == 20
    assert raised.value.more == 4980


@pytest.mark.parametrize("kind", ["a", "\n", ";", "{", "data:", "data:;base64,\n"])
@pytest.mark.parametrize("field", ["file", "filename", "url"])
def test_time_grows_with_the_length_alone(field: str, kind: str) -> None:
    cls = ImageEdit if field == "url" else Transcription

    def parse(text: str) -> UploadPayload:
        return cls.from_json_msg({"file": b64(WAV), field: text})

    assert_linear(parse, lambda size: "data:" + (kind * size)[:size], 100_000)
    assert_linear(parse, lambda size: (kind * size)[:size], 100_000)
