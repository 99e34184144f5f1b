"""Images and videos: stripes of the size that was asked for."""

from __future__ import annotations

import base64
import re
import time
from collections.abc import Iterator

import flask
from werkzeug.datastructures import MultiDict

from pyworker.local.openai_api.api_error import ApiError
from pyworker.local.openai_api.events import route, whole
from pyworker.local.openai_api.fields import ImageFields
from pyworker.local.openai_api.media_files import mp4, png
from pyworker.local.openai_api.service import Service

DEFAULT_SIZE = "1024x1024"
MOST_PIXELS = 4096  # of an edge
MOST_IMAGES = 10
FRAMES_PER_SECOND = 24
DEFAULT_SECONDS = 4
MOST_FRAMES = 10_000
_SIZE = re.compile(r"([1-9][0-9]{0,4})x([1-9][0-9]{0,4})")


def add_routes(app: flask.Flask, service: Service) -> None:
    """Images and videos."""

    def generations() -> flask.Response:
        fields = service.fields(ImageFields)
        if fields.response_format != "b64_json":
            raise ApiError("Only 'b64_json' response format is supported", param="response_format")
        return _images(service, fields.n, fields.size)

    def edits() -> flask.Response:
        form = _form(service)
        files = flask.request.files
        if not (files.getlist("image") or files.getlist("image[]") or form.getlist("url")):
            raise ApiError("validation error: image: Field required", param="image")
        return _images(service, _number("n", 1, MOST_IMAGES), form.get("size"))

    def video() -> flask.Response:
        _form(service)
        return _video(service)

    route(app, "/v1/images/generations", generations)
    route(app, "/v1/images/edits", edits)
    route(app, "/v1/videos/sync", video)


def _form(service: Service) -> MultiDict[str, str]:
    form = flask.request.form
    if flask.request.mimetype != "multipart/form-data" or not form.get("prompt"):
        raise ApiError("validation error: prompt: Field required", param="prompt")
    service.check_model(form.get("model"))
    return form


def _images(service: Service, count: int, size: str | None) -> flask.Response:
    size = DEFAULT_SIZE if size in (None, "auto") else size
    width, height = _edges(size)
    images = service.work(_drawn(count, width, height))
    return whole(
        {
            "created": int(time.time()),
            "data": [
                {"b64_json": base64.b64encode(image).decode(), "url": None, "revised_prompt": None}
                for image in images
            ],
            "output_format": "png",
            "size": size,
        }
    )


def _drawn(count: int, width: int, height: int) -> Iterator[bytes]:
    for _ in range(count):
        yield png(width, height)


def _edges(size: str | None) -> tuple[int, int]:
    match = _SIZE.fullmatch(size or "")
    if match is None or max(int(match[1]), int(match[2])) > MOST_PIXELS:
        raise ApiError(
            f"size must be in format 'WIDTHxHEIGHT', with at most {MOST_PIXELS} for each", param="size"
        )
    return int(match[1]), int(match[2])


def _video(service: Service) -> flask.Response:
    form = flask.request.form
    if size := form.get("size"):
        _edges(size)
    rate = _number("fps", FRAMES_PER_SECOND, 120)
    frames = _number("num_frames", _number("seconds", DEFAULT_SECONDS, 600) * rate, MOST_FRAMES)

    def rendered() -> Iterator[int]:
        yield from range(frames)

    body = mp4(len(service.work(rendered())))
    response = flask.Response(body, content_type="video/mp4")
    response.headers["Content-Disposition"] = 'attachment; filename="video.mp4"'
    return response


def _number(name: str, default: int, most: int) -> int:
    """A field of a form."""
    text = flask.request.form.get(name)
    if text is None:
        return min(default, most)
    if not (text.isascii() and text.isdigit() and len(text) < 10 and 1 <= int(text) <= most):
        raise ApiError(f"validation error: {name}: must be a number from 1 to {most}", param=name)
    return int(text)
