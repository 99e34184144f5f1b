"""Parses multipart/form-data that a client has sent."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import IO

from werkzeug.datastructures import FileStorage
from werkzeug.exceptions import HTTPException
from werkzeug.formparser import FormDataParser

from pyworker.data_types import Form, Upload
from pyworker.errors import Unprocessable

FORM_DATA = "multipart/form-data"
# Fields and files of one form.
_MAX_PARTS = 256


def parse_form(body: bytes, options: Mapping[str, str]) -> Form:
    """options: of the Content-Type, with the boundary. Raises `Unprocessable` if it is malformed or has more
    than 256 parts.
    """
    parser = FormDataParser(
        stream_factory=_in_memory,
        max_form_memory_size=len(body),
        max_form_parts=_MAX_PARTS,
        silent=False,
    )
    try:
        _, fields, files = parser.parse(io.BytesIO(body), FORM_DATA, len(body), dict(options))
    except (ValueError, HTTPException) as error:
        problem = error.name.lower() if isinstance(error, HTTPException) else str(error)
        raise Unprocessable(f"invalid {FORM_DATA}: {problem}") from error
    return Form(
        list(fields.items(multi=True)),
        [(name, _upload(file)) for name, file in files.items(multi=True)],
    )


def _in_memory(
    total_content_length: int | None,
    content_type: str | None,
    filename: str | None,
    content_length: int | None = None,
) -> IO[bytes]:
    del total_content_length, content_type, filename, content_length
    return io.BytesIO()


def _upload(file: FileStorage) -> Upload:
    return Upload(file.stream.read(), file.filename or "", file.content_type or "")
