"""The demo with llama.cpp's own server, in an environment that has its packages."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from pyworker.local.demo_engines import LLAMA_PACKAGES
from tests.support.starting import Installed, Start, demo_ports, link_tree

pytestmark = [pytest.mark.engines, pytest.mark.timeout(600)]

SECONDS = 120.0


def test_the_demo_of_openai_runs_llama_cpp(installed: Installed, start: Start, tmp_path: Path) -> None:
    folder = link_tree(installed.folder, tmp_path / "with llama.cpp")
    install = [".venv/bin/python", "-m", "pip", "install", "--quiet", *LLAMA_PACKAGES.split()]
    subprocess.run(install, cwd=folder, timeout=300, check=True)

    run = start(folder, "demo", "--once", "openai", **demo_ports())

    assert run.end(SECONDS) == 0, run.said
    assert "waiting for llama.cpp's server" in run.said
    assert run.said.count("$ .venv/bin/python -m workers.openai.client ") == 3
    assert "main loop exited" in (folder / ".pyworker" / "model.log").read_text("utf-8")
    assert run.left() == []
