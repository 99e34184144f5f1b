"""The variables of this worker, beside those of every worker."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pyworker.config import parsers, setting

_MIB = 2**20
#: The templates that come with the worker.
TEMPLATES = Path(__file__).parent / "templates"


def existing_file(text: str) -> Path:
    path = Path(text)
    if not path.is_file():
        raise ValueError("expected the path of a file that exists")
    return path


@dataclass(frozen=True)
class BenchmarkSettings:
    """What is measured. path: a workflow in ComfyUI's API format; the others are of the built-in one."""

    path: Path | None = setting("BENCHMARK_JSON_PATH", None, existing_file)
    width: int = setting("BENCHMARK_TEST_WIDTH", 512, parsers.integer(64, 16384))
    height: int = setting("BENCHMARK_TEST_HEIGHT", 512, parsers.integer(64, 16384))
    steps: int = setting("BENCHMARK_TEST_STEPS", 20, parsers.integer(1, 10_000))


@dataclass(frozen=True)
class ComfySettings:
    """templates: the folder of `/prompt`'s templates. max_output_bytes: the files of one response, in all."""

    templates: Path = setting("COMFYUI_TEMPLATES", TEMPLATES, parsers.existing_folder)
    max_output_bytes: int = setting("COMFYUI_MAX_OUTPUT_BYTES", 64 * _MIB, parsers.integer(1))
