"""Saved logs of model servers, replayed: which line would have done what, compared with what is kept."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from pyworker.data_types import LogAction
from pyworker.engines import ENGINES
from tests.support.process import environment

LOGS = Path(__file__).parent / "golden_logs"
PROCESS_SECONDS = 60

#: Each log, how it is replayed, and whether the worker is ready at its end.
CASES: list[tuple[str, list[str], bool]] = [
    ("hello_world", ["--worker", "hello_world"], True),
    ("vllm", ["--engine", "vllm"], True),
    ("vllm_out_of_memory", ["--engine", "vllm"], False),
    ("sglang", ["--engine", "sglang"], True),
    ("sglang_child_fails", ["--engine", "sglang"], False),
    ("llama_cpp", ["--engine", "llama.cpp"], True),
    ("llama_cpp_wrong_file", ["--engine", "llama.cpp"], False),
    ("tgi", ["--engine", "tgi"], True),
    ("tgi_older", ["--engine", "tgi"], True),
    ("tgi_shard_fails", ["--engine", "tgi"], False),
    ("comfyui", ["--engine", "comfyui"], True),
    ("comfyui_no_driver", ["--engine", "comfyui"], False),
    ("vllm_port_taken", ["--engine", "vllm"], False),
    ("vllm_gated", ["--engine", "vllm"], False),
    ("vllm_supervised", ["--engine", "vllm"], False),
    ("sglang_scheduler_dead", ["--engine", "sglang"], False),
    ("tgi_text", ["--engine", "tgi"], True),
    ("tgi_text_no_download", ["--engine", "tgi"], False),
    ("llama_cpp_router", ["--engine", "llama.cpp"], True),
    ("llama_cpp_supervised", ["--engine", "llama.cpp"], False),
    ("llama_cpp_2026", ["--engine", "llama.cpp"], True),
    ("llama_cpp_damaged_file", ["--engine", "llama.cpp"], False),
    ("llama_cpp_port_taken", ["--engine", "llama.cpp"], False),
    ("comfyui_custom_node", ["--engine", "comfyui"], True),
    ("comfyui_port_taken", ["--worker", "comfyui"], False),
    ("comfyui_bad_workflows", ["--worker", "comfyui"], True),
    ("comfyui_json", ["--worker", "comfyui-json"], True),
    ("comfyui_json_gives_up", ["--worker", "comfyui-json"], False),
    ("ollama", ["--engine", "ollama"], True),
    ("ollama_port_taken", ["--engine", "ollama"], False),
    ("tei", ["--engine", "tei"], True),
    ("tei_json", ["--engine", "tei"], True),
    ("tei_no_backend", ["--engine", "tei"], False),
    ("unknown_phrase", ["--engine", "vllm"], False),
    ("vllm_older", ["--engine", "vllm"], False),
    ("sglang_supervised", ["--engine", "sglang"], False),
    ("tgi_text_cached", ["--engine", "tgi"], True),
    ("tgi_text_port_taken", ["--engine", "tgi"], False),
]
WORKERS = {"vllm": "vllm", "sglang": "sglang", "llama.cpp": "llama", "tgi": "tgi"}


def replay(folder: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pyworker.doctor", *arguments],
        env=environment(folder, 3000, {"PYTHONUTF8": "1", **variables}),
        capture_output=True,
        text=True,
        timeout=PROCESS_SECONDS,
        check=False,
    )


@pytest.mark.parametrize(("name", "arguments", "ready"), CASES, ids=[case[0] for case in CASES])
def test_a_log_is_replayed_as_it_was(tmp_path: Path, name: str, arguments: list[str], ready: bool) -> None:
    done = replay(tmp_path, "--replay", str(LOGS / f"{name}.log"), *arguments)
    assert done.stderr == ""
    assert done.stdout == (LOGS / f"{name}.replay").read_text("utf-8")
    assert done.returncode == (0 if ready else 1)


@pytest.mark.parametrize(
    "name",
    [
        *("vllm", "vllm_out_of_memory", "vllm_supervised", "vllm_older"),
        *("sglang", "sglang_child_fails", "sglang_supervised"),
        *("llama_cpp", "llama_cpp_wrong_file", "llama_cpp_supervised"),
        *("tgi", "tgi_shard_fails", "tgi_text_cached", "tgi_text_port_taken"),
    ],
)
def test_the_worker_of_an_engine_reads_its_log_alike(tmp_path: Path, name: str) -> None:
    [[_, engine]] = [arguments for case, arguments, _ in CASES if case == name]
    for worker in (WORKERS[engine], *(["openai"] if engine == "vllm" else [])):
        done = replay(tmp_path, "--replay", str(LOGS / f"{name}.log"), "--worker", worker)
        assert done.stderr == ""
        assert done.stdout == (LOGS / f"{name}.replay").read_text("utf-8")


def test_every_log_and_every_engine_is_replayed() -> None:
    assert {path.stem for path in LOGS.glob("*.log")} == {name for name, _, _ in CASES}
    ready = {arguments[1] for _, arguments, ready in CASES if ready}
    assert {*ENGINES, "hello_world", "comfyui-json"} <= ready


def test_the_numbers_of_lines_are_those_of_an_editor(tmp_path: Path) -> None:
    log = tmp_path / "saved.log"
    log.write_bytes(b"one\r\n\r\n 10 %\r 20 %\r100 %\n\nApplication startup complete.")
    done = replay(tmp_path, "--replay", str(log), "--engine", "vllm")
    assert "line     5  ModelLoaded  loading → ready  | Application startup complete.\n" in done.stdout
    assert "5 lines; at their end the worker is ready\n" in done.stdout


def test_a_later_loaded_line_mends_an_error(tmp_path: Path) -> None:
    log = tmp_path / "saved.log"
    log.write_text(
        "EngineCore failed to start.\nApplication startup complete.\nApplication startup complete.\n"
    )
    done = replay(tmp_path, "--replay", str(log), "--engine", "vllm")
    assert [line.rpartition("  | ")[0].rpartition("  ")[2] for line in done.stdout.splitlines()[1:-1]] == [
        "loading → errored",
        "errored → ready",
        "ready: no change",
    ]


def test_the_worker_is_that_of_the_environment(tmp_path: Path) -> None:
    log = tmp_path / "saved.log"
    log.write_text("echo model is loaded\n")
    assert replay(tmp_path, "--replay", str(log), BACKEND="tests.support.echo_worker").returncode == 0
    assert replay(tmp_path, "--replay", str(log)).returncode == 1, "hello_world's phrases are others"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--replay", "/nowhere/model.log"], "/nowhere/model.log cannot be read (No such file or directory)"),
        (["--replay", "/dev"], "/dev cannot be read (Is a directory)"),
        (["--replay", "/dev/zero"], "/dev/zero is a device, which cannot be followed"),
        (["--replay", __file__, "--engine", "none"], "invalid choice: 'none'"),
        (["--replay", __file__, "-w", "none"], "there is no worker 'none'"),
        (["--engine", "vllm"], "--engine is for --replay"),
        (["--no-such-option"], "unrecognized arguments"),
    ],
)
def test_wrong_usage(tmp_path: Path, arguments: list[str], said: str) -> None:
    done = replay(tmp_path, *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert said in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("name", ENGINES)
def test_the_phrases_of_an_engine_are_complete(name: str) -> None:
    actions = {action for action, _ in ENGINES[name]}
    assert actions == set(LogAction)
    phrases = [phrase for _, phrase in ENGINES[name]]
    assert len(phrases) == len(set(phrases))
