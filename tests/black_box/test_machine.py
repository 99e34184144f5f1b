"""What the black box knows of the machine."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from pyworker.black_box import machine


def smi(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    """A program of this name that does this."""
    program = folder / "nvidia-smi"
    program.write_text(f"#!/bin/sh\n{script}\n", "utf-8")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/bin:/usr/bin")


def test_the_figures_of_this_process() -> None:
    memory = machine.memory()
    assert 0 < memory["resident"] <= memory["most_resident"]
    assert memory["machine_available"] <= memory["machine_total"]
    assert machine.disk(Path("/"), Path("/no/such/folder")).keys() == {"/"}
    assert 0 < machine.descriptors()["open"] <= machine.descriptors()["limit"]


def test_a_thread_is_told_with_its_stack_and_nothing_of_its_data() -> None:
    gate = threading.Event()
    thread = threading.Thread(target=gate.wait, args=(20,), name="of-this-test-secret")
    thread.start()
    try:
        [found] = [one for one in machine.threads() if one["name"] == thread.name]
    finally:
        gate.set()
        thread.join()
    assert "threading.py" in str(found["stack"])
    assert " wait" in str(found["stack"])


def test_the_gpu_as_the_driver_tells(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    smi(tmp_path, monkeypatch, "echo name, memory.used; echo H100, 80 MiB")
    assert machine.gpu() == ["name, memory.used", "H100, 80 MiB"]
    smi(tmp_path, monkeypatch, "echo driver mismatch >&2; exit 18")
    assert machine.gpu() == ["nvidia-smi failed (status 18)", "driver mismatch"]
    (tmp_path / "nvidia-smi").write_bytes(b"\x7fELF")
    assert "cannot be run" in machine.gpu()[0]
    (tmp_path / "nvidia-smi").unlink()
    monkeypatch.setenv("PATH", str(tmp_path))
    assert machine.gpu() == []


def test_a_driver_that_hangs_costs_three_seconds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    smi(tmp_path, monkeypatch, "exec sleep 60")
    assert "did not end within 3 s" in machine.gpu()[0]
