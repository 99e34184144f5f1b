"""The local engine's embeddings, similarities, speech, transcriptions, images and videos."""

from __future__ import annotations

import base64
import hashlib
import io
import math
import struct
import wave
import zlib
from collections.abc import Generator

import pytest

from pyworker.local.model_server import ModelServer
from pyworker.local.openai_api.api import OpenAIApi
from pyworker.local.openai_api.media_files import wav
from tests.support.local_engine import Events, good, post, post_form, stream

THREE_SECONDS = wav(bytes(2 * 16_000 * 3))


@pytest.fixture(params=["vllm", "sglang"])
def server(request: pytest.FixtureRequest) -> Generator[ModelServer]:
    with ModelServer(api=OpenAIApi(request.param), seed=1) as running:
        yield running


@pytest.fixture
def vllm() -> Generator[ModelServer]:
    with ModelServer(api=OpenAIApi("vllm"), seed=1) as running:
        yield running


@pytest.fixture
def sglang() -> Generator[ModelServer]:
    with ModelServer(api=OpenAIApi("sglang"), seed=1) as running:
        yield running


# --- embeddings ------------------------------------------------------------------------------------------


def test_embeddings_are_vectors_of_length_one(server: ModelServer) -> None:
    body = good(server, "/v1/embeddings", input=["the sea", "the sea", "rain"], dimensions=8)

    assert [item["index"] for item in body["data"]] == [0, 1, 2]
    one, same, other = (item["embedding"] for item in body["data"])
    assert len(one) == 8
    assert math.isclose(sum(number * number for number in one), 1)
    assert one == same != other
    assert body["usage"]["prompt_tokens"] == body["usage"]["total_tokens"] == 8
    assert (server.stats.prompt_tokens, server.stats.completion_tokens) == (8, 0)


def test_embeddings_in_base64_are_the_same_as_32_bit_floats(server: ModelServer) -> None:
    plain = good(server, "/v1/embeddings", input="the sea")["data"][0]["embedding"]
    packed = good(server, "/v1/embeddings", input="the sea", encoding_format="base64")["data"][0]["embedding"]
    floats = struct.unpack(f"<{len(plain)}f", base64.b64decode(packed))
    assert floats == pytest.approx(plain, rel=1e-6)


@pytest.mark.parametrize(
    "fields", [{"input": []}, {"input": "x", "dimensions": 4096}, {"input": "x", "encoding_format": "hex"}]
)
def test_embeddings_that_cannot_be_made_are_refused(server: ModelServer, fields: dict[str, object]) -> None:
    assert post(server, "/v1/embeddings", **fields).status_code == 400


# --- similarity ------------------------------------------------------------------------------------------

DOCUMENTS = ["rain falls", {"text": "the sea is wide"}, "the sea"]


def test_rerank_of_vllm(vllm: ModelServer) -> None:
    body = good(vllm, "/v1/rerank", query="the sea", documents=DOCUMENTS, top_n=2)
    assert [result["index"] for result in body["results"]] == [2, 1]
    assert body["results"][0]["document"]["text"] == "the sea"
    assert body["results"][0]["relevance_score"] == pytest.approx(1)
    assert body["usage"]["total_tokens"] == 5 + 7 + 5


def test_rerank_of_sglang(sglang: ModelServer) -> None:
    body = good(sglang, "/v1/rerank", query="the sea", documents=DOCUMENTS)
    assert [result["index"] for result in body] == [2, 1, 0]
    assert [result["document"] for result in body] == ["the sea", "the sea is wide", "rain falls"]


def test_score_of_vllm(vllm: ModelServer) -> None:
    body = good(vllm, "/v1/score", text_1="the sea", text_2=["the sea", "rain"])
    scores = [item["score"] for item in body["data"]]
    assert scores[0] == pytest.approx(1)
    assert scores[0] > scores[1]
    assert post(vllm, "/v1/score", text_1=["a", "b"], text_2=["a"]).status_code == 400


def test_score_of_sglang(sglang: ModelServer) -> None:
    body = good(sglang, "/v1/score", query="the sea", items=["the sea", "rain"], label_token_ids=[1, 2])
    assert [len(scores) for scores in body["scores"]] == [2, 2]
    assert body["scores"][0][0] > body["scores"][1][0]


# --- speech ----------------------------------------------------------------------------------------------


def seconds_of(data: bytes) -> float:
    with wave.open(io.BytesIO(data)) as reader:
        return reader.getnframes() / reader.getframerate()


def test_speech_is_a_wav_file(vllm: ModelServer) -> None:
    response = post(vllm, "/v1/audio/speech", input="Hello, you there!", voice="ann")
    assert response.headers["Content-Type"] == "audio/wav"
    assert seconds_of(response.content) == pytest.approx(17 * 0.06)
    assert int(response.headers["Content-Length"]) == len(response.content)


def test_speech_may_be_streamed_as_bytes_or_as_events(vllm: ModelServer) -> None:
    fields = {"input": "Hello, you there!"}
    whole = post(vllm, "/v1/audio/speech", **fields, response_format="pcm")
    raw = post(vllm, "/v1/audio/speech", **fields, stream_format="audio")
    events = stream(vllm, "/v1/audio/speech", **fields, stream=True)

    assert raw.headers["Transfer-Encoding"] == "chunked"
    assert raw.content.startswith(b"RIFF")
    assert raw.content[44:] == whole.content
    assert set(events.names[:-1]) == {"speech.audio.delta"}
    assert b"".join(base64.b64decode(event["audio"]) for event in events.data[:-1]) == whole.content
    assert events.data[-1]["usage"]["output_tokens"] == len(events.data) - 1


def test_a_batch_of_speech_tells_of_each(vllm: ModelServer) -> None:
    body = good(vllm, "/v1/audio/speech/batch", items=[{"input": "Hello"}, {"input": ""}])
    assert (body["total"], body["succeeded"], body["failed"]) == (2, 1, 1)
    assert seconds_of(base64.b64decode(body["results"][0]["audio_data"])) == pytest.approx(0.3)
    assert body["results"][1]["status"] == "error"


def test_audio_of_a_length(vllm: ModelServer) -> None:
    response = post(vllm, "/v1/audio/generate", input="waves", audio_length=1.5)
    assert seconds_of(response.content) == pytest.approx(1.5)


@pytest.mark.parametrize("path", ["/v1/audio/speech", "/v1/audio/generate"])
def test_a_format_that_cannot_be_made_is_refused(vllm: ModelServer, path: str) -> None:
    response = post(vllm, path, input="x", response_format="mp3")
    assert (response.status_code, response.json()["error"]["param"]) == (400, "response_format")


# --- transcriptions --------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/v1/audio/transcriptions", "/v1/audio/translations"])
def test_a_file_is_heard(vllm: ModelServer, path: str) -> None:
    file = {"file": ("talk.wav", THREE_SECONDS, "audio/wav")}
    plain = post_form(vllm, path, file, model="local-model")
    text = post_form(vllm, path, file, response_format="text")
    verbose = post_form(vllm, path, file, response_format="verbose_json", language="fr").json()

    assert plain.json()["usage"] == {"type": "duration", "seconds": 3}
    assert len(plain.json()["text"].split()) > 3
    assert text.headers["Content-Type"].startswith("text/plain")
    assert text.text == plain.json()["text"] + "\n"
    assert (verbose["duration"], verbose["language"]) == ("3.0", "fr")
    assert verbose["segments"][0]["text"] == verbose["text"]


def test_a_transcription_may_be_streamed(vllm: ModelServer) -> None:
    file = {"file": ("talk.wav", THREE_SECONDS, "audio/wav")}
    whole = post_form(vllm, "/v1/audio/transcriptions", file).json()["text"]
    response = post_form(vllm, "/v1/audio/transcriptions", file, stream="true", stream_include_usage="true")
    events = Events.of(response.content)
    assert events.data.pop() == "[DONE]"
    assert events.data.pop()["usage"]["completion_tokens"] == 7
    assert "".join(event["choices"][0]["delta"]["content"] for event in events.data) == whole


def test_what_was_uploaded_is_known_to_the_byte(vllm: ModelServer) -> None:
    file = {"file": ("talk.wav", THREE_SECONDS, "audio/x-wav")}
    post_form(vllm, "/v1/audio/transcriptions", file, prompt="hello ünï", temperature="0.5")
    [request] = vllm.stats.requests("/v1/audio/transcriptions")
    assert sorted(request.fields) == [("prompt", "hello ünï"), ("temperature", "0.5")]
    [upload] = request.files
    assert (upload.field, upload.filename, upload.content_type) == ("file", "talk.wav", "audio/x-wav")
    assert upload.size == len(THREE_SECONDS)
    assert upload.sha256 == hashlib.sha256(THREE_SECONDS).hexdigest()


@pytest.mark.parametrize(
    ("data", "fields", "named"),
    [
        (b"", {}, "file"),
        (b"RIFFnothing", {}, "file"),
        (THREE_SECONDS, {"response_format": "srt"}, "response_format"),
        (THREE_SECONDS, {"response_format": "verbose_json", "stream": "true"}, "response_format"),
    ],
)
def test_an_upload_that_cannot_be_heard_is_refused(
    vllm: ModelServer, data: bytes, fields: dict[str, str], named: str
) -> None:
    response = post_form(vllm, "/v1/audio/transcriptions", {"file": ("a.wav", data, "audio/wav")}, **fields)
    assert (response.status_code, response.json()["error"]["param"]) == (400, named)


def test_a_transcription_without_a_form_is_refused(vllm: ModelServer) -> None:
    assert post(vllm, "/v1/audio/transcriptions", file="x").json()["error"]["param"] == "file"
    unknown = post_form(
        vllm, "/v1/audio/transcriptions", {"file": ("a.wav", THREE_SECONDS, "audio/wav")}, model="other"
    )
    assert unknown.status_code == 404


# --- images and videos -----------------------------------------------------------------------------------


def size_of(image: bytes) -> tuple[int, int]:
    """Width and height of a PNG file, whose pixels are all there."""
    assert image.startswith(b"\x89PNG")
    width, height = struct.unpack(">II", image[16:24])
    length = struct.unpack(">I", image[33:37])[0]
    assert len(zlib.decompress(image[41 : 41 + length])) == height * (1 + (width + 7) // 8)
    return width, height


def test_images_have_the_size_that_was_asked_for(vllm: ModelServer) -> None:
    body = good(vllm, "/v1/images/generations", prompt="a tide", n=2, size="300x200")
    images = [base64.b64decode(item["b64_json"]) for item in body["data"]]
    assert [size_of(image) for image in images] == [(300, 200)] * 2
    default = good(vllm, "/v1/images/generations", prompt="a tide")
    assert size_of(base64.b64decode(default["data"][0]["b64_json"])) == (1024, 1024)


def test_an_image_is_edited(vllm: ModelServer) -> None:
    image = {"image": ("a.png", b"\x89PNG", "image/png")}
    body = post_form(vllm, "/v1/images/edits", image, prompt="blue", n="2", size="64x64").json()
    assert [size_of(base64.b64decode(item["b64_json"])) for item in body["data"]] == [(64, 64)] * 2
    assert post_form(vllm, "/v1/images/edits", {}, prompt="blue").status_code == 400
    assert post_form(vllm, "/v1/images/edits", image).status_code == 400


@pytest.mark.parametrize("size", ["1024", "0x5", "99999x1", "1x1x1", "-1x5"])
def test_a_size_that_is_none_is_refused(vllm: ModelServer, size: str) -> None:
    response = post(vllm, "/v1/images/generations", prompt="x", size=size)
    assert (response.status_code, response.json()["error"]["param"]) == (400, "size")


def test_a_video_is_bytes(vllm: ModelServer) -> None:
    image = {"input_reference": ("a.png", b"\x89PNG", "image/png")}
    response = post_form(vllm, "/v1/videos/sync", image, prompt="waves", seconds="2", size="832x480")
    assert response.headers["Content-Type"] == "video/mp4"
    assert response.content[4:8] == b"ftyp"
    assert len(response.content) == 28 + 8 + 48
    frames = post_form(vllm, "/v1/videos/sync", image, prompt="waves", num_frames="33")
    assert len(frames.content) == 28 + 8 + 33
    assert post_form(vllm, "/v1/videos/sync", image, prompt="waves", num_frames="x").status_code == 400
