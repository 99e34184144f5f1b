"""Which model server writes a log: of real logs, never the wrong one."""

from __future__ import annotations

from pathlib import Path

import pytest

from pyworker.discovery.log_evidence import written_by
from tests.support.process import ROOT

GOLDEN = sorted((ROOT / "tests" / "doctor" / "golden_logs").glob("*.log"))
#: By the beginning of the file's name; TEI has no worker, and hello_world's model server is our own.
WORKERS = {
    "vllm": "vllm",
    "sglang": "sglang",
    "llama_cpp": "llama",
    "tgi": "tgi",
    "comfyui": "comfyui",
    "comfyui_json": "comfyui-json",
    "ollama": "openai",
    "tei": None,
    "hello_world": None,
    "unknown": None,
}
#: Logs in which nothing is said that others do not say too.
SILENT = {"vllm_port_taken", "comfyui_no_driver", "llama_cpp_wrong_file", "vllm_gated"}


def test_there_are_real_logs() -> None:
    assert len(GOLDEN) > 20


@pytest.mark.parametrize("log", GOLDEN, ids=lambda path: path.stem)
def test_a_real_log_is_told_as_its_server_s_or_as_nobody_s(log: Path) -> None:
    expected = WORKERS[max((name for name in WORKERS if log.stem.startswith(name)), key=len)]
    found = written_by(log)
    assert set(found) <= {expected}
    assert found or expected is None or log.stem in SILENT


def test_the_wrapper_of_comfyui(tmp_path: Path) -> None:
    log = tmp_path / "api-wrapper.log"
    log.write_text("INFO: Application startup complete.\nINFO: BACKENDS_READY after 12 s\n")
    assert written_by(log) == {"comfyui-json": "INFO: BACKENDS_READY after 12 s"}


def test_only_the_end_of_a_log_counts(tmp_path: Path) -> None:
    log = tmp_path / "model.log"
    log.write_text(
        "The server is fired up and ready to roll!\n" + "x" * 100 * 2**10 * 10 + "\nModel loading took 3\n"
    )
    assert list(written_by(log)) == ["vllm"]


@pytest.mark.parametrize("kind", ["missing", "folder", "device", "binary", "one long line"])
def test_what_is_no_log_says_nothing(tmp_path: Path, kind: str) -> None:
    log = tmp_path / "model.log"
    if kind == "folder":
        log.mkdir()
    elif kind == "device":
        log = Path("/dev/zero")
    elif kind == "binary":
        log.write_bytes(bytes(range(256)) * 4096)
    elif kind == "one long line":
        log.write_bytes(b"\x1b[3" * 2**20)
    assert written_by(log) == {}
