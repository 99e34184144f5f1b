"""Routes with files: text from speech, pictures from pictures, videos."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from typing_extensions import Self

from pyworker.data_types import Form, Upload
from pyworker.words import random_words
from workers.openai.data_types.base import UNIT, scaled
from workers.openai.data_types.forms import UploadPayload, number, whole_number
from workers.openai.data_types.images import picture_workload, pixels
from workers.openai.samples import noisy_picture, spoken
from workers.openai.settings import OpenAISettings
from workers.openai.uploads import AUDIO, IMAGE, VIDEO, FileField
from workers.openai.wav import wav_seconds

#: Seconds of an ordinary recording.
HEARD = 30.0
# Of recordings whose length their header does not tell.
_BYTES_PER_SECOND = 16_000
_BY_ENDING = {"flac": 12_000, "ogg": 8_000, "oga": 8_000, "opus": 8_000, "webm": 8_000}

#: An ordinary video, in pixels and frames.
_VIDEO_PIXELS = 832 * 480
_VIDEO_FRAMES = 33
_FRAMES_PER_SECOND = 24.0


def seconds_of(upload: Upload) -> float:
    """How long a recording plays: exactly for WAV, else by its size and kind."""
    exact = wav_seconds(upload.data)
    if exact is not None:
        return exact
    ending = upload.filename.rpartition(".")[2].lower()
    return len(upload.data) / _BY_ENDING.get(ending, _BYTES_PER_SECOND)


@dataclass(kw_only=True)
class Transcription(UploadPayload):
    """`audio/transcriptions`, and `audio/translations`."""

    files: ClassVar = (FileField("file", AUDIO, required=True),)

    def count_workload(self) -> float:
        if not self.form.uploads:
            return UNIT  # an address: its length is not known
        return scaled(sum(seconds_of(upload) for _, upload in self.form.uploads) / HEARD)

    @classmethod
    def for_benchmark(cls, options: OpenAISettings) -> Self:
        speech = Upload(spoken(HEARD), "speech.wav", AUDIO["wav"])
        return cls.from_form(Form([("response_format", "json")], [("file", speech)]))


@dataclass(kw_only=True)
class ImageEdit(UploadPayload):
    """`images/edits`. The picture may also be an address, in `image` or in `url`."""

    files: ClassVar = (
        FileField("image", IMAGE),
        FileField("mask", IMAGE),
        FileField("mask_image", IMAGE),
        FileField("reference_image", IMAGE),
    )
    references: ClassVar = ("url",)
    whole: ClassVar = ("n",)

    def count_workload(self) -> float:
        return picture_workload(whole_number(self.text("n")), self.text("size"))

    @classmethod
    def for_benchmark(cls, options: OpenAISettings) -> Self:
        picture = Upload(noisy_picture(512), "picture.png", IMAGE["png"])
        texts = [("prompt", random_words(20)), ("n", "1"), ("size", "1024x1024")]
        return cls.from_form(Form(texts, [("image", picture)]))


@dataclass(kw_only=True)
class VideoSync(UploadPayload):
    """`videos/sync`: the finished video in the response."""

    files: ClassVar = (
        FileField("input_reference", {**IMAGE, **VIDEO}),
        FileField("control_reference", {**IMAGE, **VIDEO}),
        FileField("source_video", VIDEO),
        FileField("source_audio", AUDIO),
    )
    references: ClassVar = ("image_reference", "video_reference", "audio_reference")
    whole: ClassVar = ("width", "height", "num_frames", "fps", "n", "num_outputs_per_prompt")
    numbers: ClassVar = ("seconds",)

    def count_workload(self) -> float:
        outputs = whole_number(self.text("n") or self.text("num_outputs_per_prompt"))
        return scaled(self._pixels() * self._frames() * outputs / (_VIDEO_PIXELS * _VIDEO_FRAMES))

    def _pixels(self) -> int:
        width, height = self.text("width"), self.text("height")
        if width is not None and height is not None:
            return whole_number(width) * whole_number(height)
        return pixels(self.text("size"), _VIDEO_PIXELS)

    def _frames(self) -> float:
        frames, seconds = self.text("num_frames"), self.text("seconds")
        if frames is not None:
            return whole_number(frames)
        if seconds is not None:
            return number(seconds) * number(self.text("fps"), _FRAMES_PER_SECOND)
        return _VIDEO_FRAMES

    @classmethod
    def for_benchmark(cls, options: OpenAISettings) -> Self:
        size = [("size", "832x480"), ("num_frames", str(_VIDEO_FRAMES))]
        return cls.from_form(Form([("prompt", random_words(20)), *size], []))
