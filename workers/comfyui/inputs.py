"""Files that come within a workflow, as data URIs: they are uploaded, and the inputs name them instead."""

from __future__ import annotations

import base64
import binascii
import contextlib
import hashlib
import mimetypes
import re
from collections.abc import Iterator, Mapping
from typing import Any

import pydantic_core

from pyworker.data_types import Form, Upload
from pyworker.errors import ModelUnreachable, shortened
from pyworker.jobs import Job
from workers.comfyui.errors import WorkflowRefused
from workers.comfyui.workflows import Workflow, as_object

#: Files of one workflow.
MAX_FILES = 16
_PREFIX = re.compile(r"data:((?:image|audio|video)/[a-z0-9.+-]{1,50});base64,")
# ComfyUI empties this folder when it starts.
_FOLDER = "temp"
_SHOWN = 100


def with_uploads(workflow: Workflow, job: Job) -> Workflow:
    """A copy whose inputs name the uploaded files. A file has its name from its content, so it is there once.

    Raises `WorkflowRefused`, `ModelUnreachable`.
    """
    found = list(_data_uris(workflow))
    if not found:
        return workflow
    if len(found) > MAX_FILES:
        raise WorkflowRefused(f"a workflow may hold {MAX_FILES} files, this one has {len(found)}")
    filled = dict(workflow)
    for node_id, name, kind, start in found:
        text: str = workflow[node_id]["inputs"][name]
        try:
            data = base64.b64decode(memoryview(text.encode())[start:], validate=True)
        except binascii.Error:
            where = f"node {shortened(node_id, _SHOWN)}, input {shortened(name, _SHOWN)}"
            raise WorkflowRefused("a file is not base64", f"{where}: the file is not base64") from None
        node = filled[node_id]
        filled[node_id] = {**node, "inputs": {**node["inputs"], name: _upload(data, kind, job)}}
    return filled


def _data_uris(workflow: Mapping[str, Any]) -> Iterator[tuple[str, str, str, int]]:
    """Node, input, media type, and where the data begins."""
    for node_id, node in workflow.items():
        for name, value in as_object(node["inputs"]).items():
            match = _PREFIX.match(value) if isinstance(value, str) else None
            if match is not None:
                yield node_id, name, match[1], match.end()


def _upload(data: bytes, kind: str, job: Job) -> str:
    """How an input names the file: with its folder."""
    filename = hashlib.sha256(data).hexdigest() + (mimetypes.guess_extension(kind) or "")
    fields = [("type", _FOLDER), ("overwrite", "true")]
    form = Form(fields, [("image", Upload(data, filename, kind))])
    response = job.send("POST", "/upload/image", form=form, limit=2**16)
    if response.status_code == 200:
        answer: Mapping[str, Any] = {}
        with contextlib.suppress(ValueError):
            answer = as_object(pydantic_core.from_json(response.content))
        name, subfolder = answer.get("name"), answer.get("subfolder", "")
        if isinstance(name, str) and isinstance(subfolder, str) and name:
            return f"{subfolder}/{name} [{_FOLDER}]" if subfolder else f"{name} [{_FOLDER}]"
    raise ModelUnreachable(f"ComfyUI answered {response.status_code} to POST /upload/image without a name")
