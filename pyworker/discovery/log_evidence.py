"""Which model server writes a log: found by phrases that no other server writes."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from pyworker.engines import ENGINES
from pyworker.errors import shortened
from pyworker.lifecycle.log_lines import LineAssembler, Phrase, clean
from pyworker.lifecycle.log_tail import unfollowable

#: Bytes at the end of a log that are read: what runs now has written them.
_TAIL = 256 * 1024
_SHOWN = 80
#: The log of each worker's server on the images of the service.
USUAL_LOGS: Mapping[str, Path] = {
    "vllm": Path("/var/log/portal/vllm.log"),
    "sglang": Path("/var/log/portal/sglang.log"),
    "llama": Path("/var/log/portal/llama.log"),
    "tgi": Path("/workspace/infer.log"),
    "comfyui-json": Path("/var/log/portal/api-wrapper.log"),
}
# The worker for an engine, if it has another name; "" if there is none.
_WORKERS = {"llama.cpp": "llama", "ollama": "openai", "tei": ""}
_WRAPPER = ("BACKENDS_READY", "BACKEND_UNRECOVERABLE")
# Written by the libraries that servers are made of, or by anything.
_ANYBODY = {
    *("Application startup complete.", "Application startup failed. Exiting."),
    *("model loaded", "error loading model", "failed to load model", "Starting download"),
    *("] Exit code: ", "crashed with exit code", "Error: Address already in use", "Error: Could not "),
    *("Found no NVIDIA driver on your system", "Torch not compiled with CUDA enabled"),
    *("error while attempting to bind on address", "Error: could not create directory"),
    '"message":"Download',
}


def written_by(log: Path) -> Mapping[str, str]:
    """The workers whose server wrote to the end of this log, with a line for each. Raises nothing."""
    if unfollowable(log):
        return {}
    try:
        with log.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - _TAIL))
            data = file.read(_TAIL)
    except OSError:
        return {}
    assembler = LineAssembler()
    found: dict[str, str] = {}
    for raw in (*assembler.feed(data), *assembler.flush()):
        line = clean(raw)
        for phrase, worker in _PHRASES:
            if worker not in found and phrase.is_in(line):
                found[worker] = shortened(line.strip(), _SHOWN)
    return found


def _distinctive() -> tuple[tuple[Phrase, str], ...]:
    """Each phrase of one server only, with its worker."""
    texts = {engine: {text for _, text in actions} - _ANYBODY for engine, actions in ENGINES.items()}
    count = Counter(text for of_engine in texts.values() for text in of_engine)
    told = [
        (Phrase(text), _WORKERS.get(engine, engine))
        for engine, of_engine in texts.items()
        for text in sorted(of_engine)
        if count[text] == 1
    ]
    wrapper = [(Phrase(text), "comfyui-json") for text in _WRAPPER]
    return tuple((phrase, worker) for phrase, worker in (*told, *wrapper) if worker)


_PHRASES = _distinctive()
