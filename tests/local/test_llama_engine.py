"""llama.cpp's server with a very small model, as far as it goes without its packages; see tests/engines."""

from __future__ import annotations

import subprocess
import sys

import pytest

from pyworker.local.llama_engine import is_available
from tests.support.process import ROOT

PROCESS_SECONDS = 30


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pyworker.local.llama_engine", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=PROCESS_SECONDS,
        check=False,
    )


def test_its_help_says_what_its_words_are_worth() -> None:
    done = run("--help")
    assert done.returncode == 0
    assert "means nothing" in " ".join(done.stdout.split())


@pytest.mark.skipif(is_available(), reason="its packages are there")
def test_without_its_packages_it_says_what_to_install() -> None:
    done = run("--port", "18000")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "pyworker.local.llama_engine: first: pip install xllamacpp gguf numpy\n"


@pytest.mark.parametrize("wrong", [("--port", "many"), ("--context", "1.5"), ("--no-such-option",)])
def test_wrong_usage(wrong: tuple[str, ...]) -> None:
    done = run(*wrong)
    assert done.returncode == 2
    assert "usage:" in done.stderr
    assert "Traceback" not in done.stderr
