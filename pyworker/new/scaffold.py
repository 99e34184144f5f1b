"""The files of a new worker, from the templates in `resources/new`."""

from __future__ import annotations

import importlib.util
import keyword
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from string import Template

from pyworker.errors import ConfigError
from pyworker.registry import known_workers

_TEMPLATES = Path(__file__).resolve().parent.parent / "resources" / "new"


@dataclass(frozen=True)
class Engine:
    """A model server.

    title: its name in prose; kind: of its templates; constant: of its log phrases in `pyworker.engines`,
    empty for none; port: where it listens; stand_in: options of `pyworker.local.model_server` that make one,
    empty for none; path, payload: an example of a request.
    """

    title: str
    kind: str
    constant: str
    port: int
    stand_in: str
    path: str = "/v1/completions"
    payload: str = '{"prompt": "What is a tide?", "max_tokens": 64}'


ENGINES: Mapping[str, Engine] = {
    "vllm": Engine("vLLM", "openai", "VLLM", 18000, "--api openai --engine vllm"),
    "sglang": Engine("SGLang", "openai", "SGLANG", 18000, "--api openai --engine sglang"),
    "llama": Engine("llama.cpp", "openai", "LLAMA_CPP", 18000, "--api openai"),
    "openai": Engine("OpenAI-compatible", "openai", "", 18000, "--api openai"),
    "tgi": Engine(
        *("TGI", "tgi", "TGI", 5001, "--api tgi", "/generate"),
        '{"inputs": "What is a tide?", "parameters": {"max_new_tokens": 64}}',
    ),
    "comfyui": Engine("ComfyUI", "comfyui", "COMFYUI", 8188, "", "/generate", '{"prompt": {}}'),
}


def write_worker(name: str, engine: str, into: Path) -> Sequence[Path]:
    """Write the package `name` for this engine into the folder `into`; returns its files.

    Raises `ConfigError` if the name cannot be one, the package exists, or it cannot be written.
    """
    _check_name(name, into)
    texts = _texts(name, ENGINES[engine])
    package = into / name
    try:
        into.mkdir(parents=True, exist_ok=True)
        unfinished = Path(tempfile.mkdtemp(prefix=f".{name}-", dir=into))
        try:
            for file, text in texts.items():
                (unfinished / file).write_text(text, "utf-8")
            unfinished.chmod(0o755)
            unfinished.rename(package)
        except BaseException:
            shutil.rmtree(unfinished, ignore_errors=True)
            raise
    except OSError as error:
        raise ConfigError(f"{package} cannot be written: {error.strerror or error}") from error
    return [package / file for file in texts]


def _check_name(name: str, into: Path) -> None:
    if not (name.isidentifier() and name.isascii()) or keyword.iskeyword(name):
        raise ConfigError(
            f"{name!r} cannot be the name of a Python package: use letters, digits and underscores, such as "
            "my_llm"
        )
    if (into / name).exists() or (into / name).is_symlink():
        raise ConfigError(
            f"{into / name} exists already, and is left as it is: choose another name or --into"
        )
    if name in known_workers():
        raise ConfigError(f"there is a worker {name} already, which would be served: choose another name")
    if importlib.util.find_spec(name) is not None:
        raise ConfigError(f"{name} is a module that is installed here already: choose another name")


def _texts(name: str, engine: Engine) -> Mapping[str, str]:
    """The text of each file."""
    values = {
        "name": name,
        "title": engine.title,
        "port": str(engine.port),
        "path": engine.path,
        "payload": engine.payload,
        "import_log": f"from pyworker.engines import {engine.constant}\n" if engine.constant else "",
        "log": f"    log={engine.constant},\n" if engine.constant else "",
        "start": _start(engine),
    }
    kinds = {
        "__init__.py": "init",
        "server.py": f"{engine.kind}_server",
        "conftest.py": "conftest",
        "test_server.py": f"{engine.kind}_test",
        "README.md": "readme",
    }
    if engine.kind == "comfyui":
        kinds["workflow.py"] = "comfyui_workflow"
    return {file: Template(_read(kind)).substitute(values) for file, kind in kinds.items()}


def _start(engine: Engine) -> str:
    """How to have a model server on this machine."""
    if not engine.stand_in:
        return f"# Start {engine.title} on port {engine.port}, then:\n"
    options = f"{engine.stand_in} --port {engine.port} --tokens-per-second 400 --parallel 10"
    stand_in = f"python -m pyworker.local.model_server {options} &"
    return f"# {engine.title} on port {engine.port}, or in its place a stand-in:\n{stand_in}\n"


def _read(template: str) -> str:
    return (_TEMPLATES / f"{template}.txt").read_text("utf-8")
