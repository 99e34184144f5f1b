"""`python -m pyworker.new`, and the package as it is installed from a wheel: without the checkout."""

from __future__ import annotations

import json
import os
import site
import subprocess
import sys
import venv
from collections.abc import Mapping
from pathlib import Path

import pytest

from pyworker.errors import ConfigError
from pyworker.new.scaffold import ENGINES, write_worker
from tests.support.process import ROOT, WorkerProcess
from tests.support.starting import copy_project, demo_ports

# On a busy machine; each waits for gunicorn.
SECONDS = 110
MOST_LINES = 30
KINDS = ("vllm", "tgi", "comfyui")


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of an environment that has the wheel, and all else of the tests' own environment."""
    folder = tmp_path_factory.mktemp("installed")
    source = copy_project(folder / "source")
    options = ("--no-deps", "--no-build-isolation", "--disable-pip-version-check", "-q")
    run(folder, sys.executable, "-m", "pip", "wheel", *options, "-w", str(folder), str(source))
    [wheel] = folder.glob("*.whl")
    venv.create(folder / "env", with_pip=False)
    [packages] = (folder / "env").glob("lib/python*/site-packages")
    run(folder, sys.executable, "-m", "pip", "install", *options, "-t", str(packages), str(wheel))
    (packages / "shared.pth").write_text("\n".join(site.getsitepackages()), "utf-8")
    return folder / "env" / "bin" / "python"


def run(folder: Path, *command: str, variables: Mapping[str, str] | None = None) -> str:
    """What a command says, which succeeds in this folder."""
    kept = ("PATH", "HOME", "LANG", "TMPDIR")
    own = {name: os.environ[name] for name in kept if name in os.environ}
    done = subprocess.run(
        command,
        cwd=folder,
        env={**own, **(variables or {})},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert done.returncode == 0, f"{command}: {done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout


def test_the_demo_runs_in_an_empty_folder(installed: Path, tmp_path: Path) -> None:
    said = run(tmp_path, str(installed), "-m", "pyworker.local.demo", "--once", variables=demo_ports())
    assert "A streamed response:" in said
    assert [path.name for path in tmp_path.iterdir()] == [".pyworker"]


def test_what_is_written_passes_its_own_tests(installed: Path, tmp_path: Path) -> None:
    for engine in KINDS:
        said = run(tmp_path, str(installed), "-m", "pyworker.new", f"my_{engine}", "--engine", engine)
        assert f"python -m pytest my_{engine}" in said
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["my_comfyui", "my_tgi", "my_vllm"]
    said = run(tmp_path, str(installed), "-m", "pytest", "-q", "-p", "no:cacheprovider", *names)
    assert "8 passed" in said


def test_what_is_written_starts_as_its_readme_says(installed: Path, tmp_path: Path) -> None:
    run(tmp_path, str(installed), "-m", "pyworker.new", "my_llm")
    # Not the checkout, which the tests have on their path.
    worker = WorkerProcess("my_llm", tmp_path, {"UNSECURED": "true", "PYTHONPATH": ""})
    worker.command = (str(installed), "-m", "my_llm.server")
    try:
        worker.start()
    finally:
        worker.terminate()
        assert worker.wait() == 0, worker.log


def test_what_is_written_is_small_typed_and_clean(tmp_path: Path) -> None:
    for engine in ENGINES:
        # Those of one kind differ by a name.
        folder = tmp_path if engine in KINDS else tmp_path / "others"
        files = write_worker(f"my_{engine}", engine, folder)
        [server] = (file for file in files if file.name == "server.py")
        assert len(server.read_text("utf-8").splitlines()) <= MOST_LINES
    config = {"typeCheckingMode": "strict", "extraPaths": [str(ROOT)], "include": ["my_*"]}
    config |= {"venvPath": str(Path(sys.prefix).parent), "venv": Path(sys.prefix).name}
    (tmp_path / "pyrightconfig.json").write_text(json.dumps(config), "utf-8")
    assert "0 errors" in run(tmp_path, sys.executable, "-m", "pyright")
    run(tmp_path, sys.executable, "-m", "ruff", "check", "--isolated", "--no-cache", ".")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("my-llm", "'my-llm' cannot be the name of a Python package: use letters, digits and underscores"),
        ("2llm", "cannot be the name of a Python package"),
        ("../llm", "cannot be the name of a Python package"),
        ("class", "cannot be the name of a Python package"),
        ("there", "there exists already, and is left as it is"),
        ("flask", "flask is a module that is installed here already"),
        ("vllm", "there is a worker vllm already, which would be served"),
    ],
)
def test_a_name_that_cannot_be_used_is_refused(name: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    with pytest.raises(ConfigError, match=message):
        write_worker(name, "vllm", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["there"]


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"file/my_llm cannot be written: (Not a directory|File exists)"):
        write_worker("my_llm", "vllm", tmp_path / "file")
