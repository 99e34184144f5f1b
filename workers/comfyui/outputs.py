"""The files that a prompt made, fetched from ComfyUI and encoded for a response in JSON."""

from __future__ import annotations

import base64
import mimetypes
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlencode

from pyworker.errors import ModelUnreachable, ResponseTooLarge
from pyworker.jobs import Job
from workers.comfyui.errors import OutputTooLarge
from workers.comfyui.history import OutputFile

_UNKNOWN = "application/octet-stream"
_MAX_TYPE = 100


def described(file: OutputFile) -> dict[str, Any]:
    """A file as the response names it."""
    return {
        "filename": file.filename,
        "local_path": file.path,
        "subfolder": file.subfolder,
        "type": file.type,
        "node_id": file.node_id,
        "output_type": file.kind,
    }


def fetched(files: Sequence[OutputFile], job: Job, limit: int, *, as_uri: bool) -> list[dict[str, Any]]:
    """Each file with its `data`, in base64 or as a data URI, and `mimetype`; or with `error` if it is gone.

    Raises `OutputTooLarge` if they have more than `limit` bytes together; `ModelUnreachable`.
    """
    left = limit
    outputs: list[dict[str, Any]] = []
    for file in files:
        try:
            content = _fetch(file, job, left)
        except ResponseTooLarge as error:
            raise OutputTooLarge(
                f"the outputs are larger than {limit} bytes together, which is the limit "
                "(COMFYUI_MAX_OUTPUT_BYTES): make fewer or smaller ones, or ask for references to the files",
                output=[described(one) for one in files],
            ) from error
        left -= content.pop("length", 0)
        data = content.get("data")
        if as_uri and data is not None:
            content["data"] = f"data:{content['mimetype']};base64,{data}"
        outputs.append({**described(file), **content})
    return outputs


def _fetch(file: OutputFile, job: Job, limit: int) -> dict[str, Any]:
    query = urlencode({"filename": file.filename, "subfolder": file.subfolder, "type": file.type})
    response = job.send("GET", f"/view?{query}", limit=limit)
    if response.status_code == 404:
        return {"error": "ComfyUI no longer has this file"}
    if response.status_code != 200:
        raise ModelUnreachable(f"ComfyUI answered {response.status_code} to GET /view")
    return {
        "data": base64.b64encode(response.content).decode("ascii"),
        "mimetype": _media_type(response.headers, file.filename),
        "length": len(response.content),
    }


def _media_type(headers: Mapping[str, str], filename: str) -> str:
    """That of the response if it says something, else by the name."""
    said = headers.get("Content-Type", "").partition(";")[0].strip().lower()
    if said and said != _UNKNOWN and len(said) <= _MAX_TYPE and said.isascii() and said.isprintable():
        return said
    return mimetypes.guess_type(filename)[0] or _UNKNOWN
