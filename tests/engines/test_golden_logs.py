"""The saved logs of llama.cpp's server are what the real one writes today: each line means the same."""

from __future__ import annotations

import re
import socket
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support import engines
from tests.support.process import ROOT, environment

pytestmark = [pytest.mark.engines, pytest.mark.timeout(300)]

GOLDEN = ROOT / "tests" / "doctor" / "golden_logs"
PROCESS_SECONDS = 60
_LINE = re.compile(r"line +[0-9]+  (\w+ +[^|]*?)  \| ")


@contextmanager
def taken_port(port: int) -> Generator[None]:
    """Somebody else listens there."""
    with socket.socket() as other:
        other.bind(("127.0.0.1", port))
        other.listen()
        yield


def meaning(log: Path) -> list[str]:
    """What the lines do to a worker, each once, and how it stands in the end."""
    done = subprocess.run(
        [sys.executable, "-m", "pyworker.doctor", "--replay", str(log), "--engine", "llama.cpp"],
        env=environment(log.parent, 3000, {"PYTHONUTF8": "1"}),
        capture_output=True,
        text=True,
        timeout=PROCESS_SECONDS,
        check=False,
    )
    return [*dict.fromkeys(_LINE.findall(done.stdout)), f"status {done.returncode}"]


@pytest.mark.parametrize("name", ["llama_cpp_2026", "llama_cpp_damaged_file", "llama_cpp_port_taken"])
def test_the_golden_logs_are_those_of_the_real_server(tmp_path: Path, name: str) -> None:
    if name == "llama_cpp_2026":
        engine = engines.llama_cpp(tmp_path).start()
        engine.stop()
    elif name == "llama_cpp_damaged_file":
        damaged = tmp_path / "damaged.gguf"
        damaged.write_bytes(b"GGUF" + b"\xff" * 64)
        engine = engines.llama_cpp(tmp_path, "--model", str(damaged)).launch()
        assert engine.wait() == 1
    else:
        engine = engines.llama_cpp(tmp_path)
        with taken_port(engine.port):
            engine.launch()
            assert engine.wait() == 1

    assert meaning(engine.log_file) == meaning(GOLDEN / f"{name}.log")
    assert len(meaning(engine.log_file)) > 1
