"""Files in a request: from base64 in JSON, or from a form, to multipart for the model server. With limits.

A client that sends JSON writes a file as base64, as a data URI, or as the address of one; `<field>_filename`
beside it (`filename` for the first of the route's fields) says what kind of file it is. An address is passed
on as text: the model server may fetch it, the worker never does.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

from pyworker.data_types import Form, Upload
from pyworker.validation import MISSING_PARAMETER
from workers.openai.faults import Fault, Faults

_MIB = 2**20
MAX_FILE = 25 * _MIB
MAX_REQUEST = 64 * _MIB
MAX_FILES = 16
_MAX_NAME = 255

#: Endings of file names, and what is said of them to the model server.
AUDIO: Mapping[str, str] = {
    "wav": "audio/wav",
    "mp3": "audio/mpeg",
    "mpga": "audio/mpeg",
    "mpeg": "audio/mpeg",
    "mp4": "audio/mp4",
    "m4a": "audio/mp4",
    "flac": "audio/flac",
    "ogg": "audio/ogg",
    "oga": "audio/ogg",
    "opus": "audio/ogg",
    "webm": "audio/webm",
}
IMAGE: Mapping[str, str] = {
    "png": "image/png",
    "jpg": "image/jpeg",
    "jpeg": "image/jpeg",
    "webp": "image/webp",
}
VIDEO: Mapping[str, str] = {"mp4": "video/mp4", "mov": "video/quicktime", "webm": "video/webm"}

#: How files begin: offset, bytes, ending.
_MAGIC = (
    (8, b"WAVE", "wav"),
    (8, b"WEBP", "webp"),
    (0, b"fLaC", "flac"),
    (0, b"OggS", "ogg"),
    (0, b"ID3", "mp3"),
    (0, b"\xff\xfb", "mp3"),
    (0, b"\x1aE\xdf\xa3", "webm"),
    (4, b"ftyp", "mp4"),
    (0, b"\x89PNG", "png"),
    (0, b"\xff\xd8\xff", "jpg"),
)
#: Media types that say nothing, and other names of those that do.
_VAGUE = ("", "application/octet-stream", "binary/octet-stream")
_ALIASES = {
    "audio/x-wav": "audio/wav",
    "audio/wave": "audio/wav",
    "audio/vnd.wave": "audio/wav",
    "audio/mp3": "audio/mpeg",
    "audio/x-m4a": "audio/mp4",
    "audio/m4a": "audio/mp4",
    "audio/x-flac": "audio/flac",
    "audio/opus": "audio/ogg",
    "image/jpg": "image/jpeg",
}
_SCHEMES = ("http://", "https://", "data:")
_TOO_LARGE = f"is larger than {MAX_FILE // _MIB} MiB"
_NO_FILE = "must be base64 or a data URI"
_NO_REFERENCE = "only http, https and data URIs are taken as references"


@dataclass(frozen=True)
class FileField:
    """A field that holds a file, or several. endings: those allowed; the first is that of an unknown file."""

    name: str
    endings: Mapping[str, str]
    required: bool = False

    @property
    def filename_field(self) -> str:
        return f"{self.name}_filename"


def reference_fault(value: object) -> str:
    """Why `value` is no address of a file; empty if it is one, or several, or none at all.

    An object (or its JSON in a form) may hold one in each member whose name ends in `url`.
    """
    if isinstance(value, str) and value.lstrip()[:1] in ("{", "["):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            return _NO_REFERENCE
    left = [value]
    while left:
        item = left.pop()
        if isinstance(item, str):
            if not item[:8].lower().startswith(_SCHEMES):
                return _NO_REFERENCE
        elif isinstance(item, list):
            left += cast("list[object]", item)
        elif isinstance(item, dict):
            left += [one for name, one in cast("dict[str, object]", item).items() if name.endswith("url")]
    return ""


def form_of_json(
    json_msg: Mapping[str, Any], fields: Sequence[FileField], references: Sequence[str] = ()
) -> Form:
    """The form for the model server. fields: those that hold files, the main one first.

    references: fields that hold addresses. A null is left out, which is how a form says it; a list becomes
    fields called `name[]`, as the clients of OpenAI write them; an object becomes its JSON.
    Raises `JsonDataException` that names each field at fault.
    """
    by_name = {field.name: field for field in fields}
    ours = {"filename", *(field.filename_field for field in fields)}
    texts: list[tuple[str, str]] = []
    uploads: list[tuple[str, Upload]] = []
    faults = Faults()
    for name, value in json_msg.items():
        field = by_name.get(name.removesuffix("[]"))
        if field is None:
            if name not in ours:
                texts += _texts(name, value)
            continue
        names = _filenames(json_msg, field, is_main=field is fields[0])
        in_form = _listed_name(name, value)
        for number, item in enumerate(_listed(value)):
            if isinstance(item, str) and _is_address(item):
                texts.append((in_form, item))
                continue
            try:
                uploads.append((in_form, _upload(item, field, names, number)))
            except Fault as fault:
                faults.add(f"{name}.{number}" if isinstance(value, list) else name, fault)
    return _checked(Form(texts, uploads), fields, references, faults)


def form_of_form(form: Form, fields: Sequence[FileField], references: Sequence[str] = ()) -> Form:
    """The form of a client that sent one, with the same checks."""
    by_name = {field.name: field for field in fields}
    faults = Faults()
    uploads: list[tuple[str, Upload]] = []
    for name, upload in form.uploads:
        field = by_name.get(name.removesuffix("[]"))
        try:
            if field is None:
                raise Fault("this route takes no file in this field")
            uploads.append((name, _named(upload.data, upload.filename, field)))
        except Fault as fault:
            faults.add(name, fault)
    return _checked(replace(form, uploads=uploads), fields, references, faults)


def _checked(form: Form, fields: Sequence[FileField], references: Sequence[str], faults: Faults) -> Form:
    files = {name.removesuffix("[]") for name, _ in form.uploads}
    given = {name.removesuffix("[]") for name, _ in form.fields}
    for field in fields:
        if field.required and field.name not in files | given:
            faults.add(field.name, MISSING_PARAMETER)
    if len(form.uploads) > MAX_FILES:
        faults.add(form.uploads[MAX_FILES][0], f"{len(form.uploads)} files are more than {MAX_FILES}")
    total = 0
    for name, upload in form.uploads:
        total += len(upload.data)
        if total > MAX_REQUEST:
            faults.add(name, f"the files are larger than {MAX_REQUEST // _MIB} MiB in all")
            break
    addresses = {*references, *(field.name for field in fields)}
    for name, text in form.fields:
        if name.removesuffix("[]") in addresses and (fault := reference_fault(text)):
            faults.add(name, fault)
    faults.throw()
    return form


# -- from JSON -------------------------------------------------------------------------------------------


def _listed(value: object) -> list[object]:
    items = cast("list[object]", value) if isinstance(value, list) else [value]
    return [item for item in items if item is not None]


def _listed_name(name: str, value: object) -> str:
    """The name of a field in a form: one of several values is called `name[]`."""
    return f"{name.removesuffix('[]')}[]" if isinstance(value, list) else name


def _texts(name: str, value: object) -> Iterator[tuple[str, str]]:
    for item in _listed(value):
        yield _listed_name(name, value), item if isinstance(item, str) else json.dumps(item)


def _is_address(text: str) -> bool:
    return text[:8].lower().startswith(("http://", "https://"))


def _filenames(json_msg: Mapping[str, Any], field: FileField, *, is_main: bool) -> list[object]:
    value = json_msg.get(field.filename_field)
    if value is None and is_main:
        value = json_msg.get("filename")
    return _listed(value)


def _upload(value: object, field: FileField, names: Sequence[object], number: int) -> Upload:
    if not isinstance(value, str):
        raise Fault(_NO_FILE)
    kind, data = _decoded(value)
    if number >= len(names):
        return _named(data, "", field, kind)
    name = names[number]
    if not isinstance(name, str):
        raise Fault("its file name must be a string")
    return _named(data, name, field, kind)


def _decoded(text: str) -> tuple[str, bytes]:
    """The media type of a data URI, else empty; and the bytes."""
    kind = ""
    if text[:5].lower() == "data:":
        head, comma, text = text[5:].partition(",")
        kind, _, coding = head.rpartition(";")
        if not comma or coding.lower() != "base64":
            raise Fault("a data URI must be base64")
        kind = kind.partition(";")[0].strip().lower()
    elif ":" in text[:32]:
        raise Fault(_NO_REFERENCE)
    if len(text) > MAX_FILE // 3 * 4 + _MIB:
        raise Fault(_TOO_LARGE)
    try:
        return kind, base64.b64decode(text, validate=True)
    except ValueError:
        pass  # perhaps it has line ends
    try:
        return kind, base64.b64decode("".join(text.split()), validate=True)
    except ValueError:  # binascii.Error is one
        raise Fault(_NO_FILE) from None


def _named(data: bytes, name: str, field: FileField, kind: str = "") -> Upload:
    """The file under a name with an ending that is allowed. kind: its media type, if that is known."""
    if len(data) > MAX_FILE:
        raise Fault(_TOO_LARGE)
    if not data:
        raise Fault("the file is empty")
    if not name:
        ending = _ending(data, field, kind)
        name = f"{field.name}.{ending}"
    if len(name) > _MAX_NAME or not name.isprintable() or "/" in name or "\\" in name or '"' in name:
        raise Fault("its file name must be a plain name without a path")
    ending = name.rpartition(".")[2].lower()
    if ending not in field.endings:
        raise Fault(f"its file name must end in one of {', '.join(field.endings)}")
    return Upload(data, name, field.endings[ending])


def _ending(data: bytes, field: FileField, kind: str) -> str:
    """Of a file without a name."""
    kind = _ALIASES.get(kind, kind)
    found = [ending for ending, known in field.endings.items() if known == kind]
    if found:
        return found[0]
    if kind not in _VAGUE:
        raise Fault(f"must be one of {', '.join(field.endings)}, not {kind:.40}")
    for offset, magic, ending in _MAGIC:
        if data[offset : offset + len(magic)] == magic and ending in field.endings:
            return ending
    return next(iter(field.endings))
