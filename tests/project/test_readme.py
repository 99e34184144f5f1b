"""What the READMEs say is so: commands, options, links, settings and code.

The demo's commands are run by test_start_server.py.
"""

from __future__ import annotations

import functools
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import pytest

from pyworker.config import Settings
from tests.config.test_config import VARIABLES
from tests.support.process import ROOT

README = ROOT / "README.md"
READMES = [
    README,
    ROOT / "workers" / "README.md",
    *sorted(ROOT.glob("workers/*/README.md")),
    *sorted(ROOT.glob("pyworker/**/README.md")),
]
PROCESS_SECONDS = 60.0

SHELLS = ("bash", "sh", "console")
PYTHONS = ("python", "python3", ".venv/bin/python")
SCRIPTS = {"./start_server.sh", ".ci/run", ".venv/bin/pip", ".venv/bin/pytest"}
PROGRAMS = {*PYTHONS, *SCRIPTS, "curl", "gunicorn", "openssl"}


@dataclass(frozen=True)
class Block:
    """A fenced block of a README."""

    path: Path
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.path.relative_to(ROOT)}:{self.line}"


def _blocks() -> list[Block]:
    found: list[Block] = []
    for path in READMES:
        text = path.read_text(encoding="utf-8")
        for match in re.finditer(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
            line = text.count("\n", 0, match.start()) + 1
            found.append(Block(path, line, match[1], match[2]))
    return found


def _commands(block: Block) -> list[list[str]]:
    """The words of each command, without the settings in front of it."""
    commands: list[list[str]] = []
    for line in block.text.replace("\\\n", " ").splitlines():
        for part in re.split(r"&&|\|\|?|;", line.removeprefix("$ ")):
            words = shlex.split(part, comments=True)
            while words and re.match(r"[A-Z_0-9]+=", words[0]):
                del words[0]
            if words:
                commands.append(words)
    return commands


BLOCKS = _blocks()
SHELL_BLOCKS = [block for block in BLOCKS if block.language in SHELLS]
PYTHON_BLOCKS = [block for block in BLOCKS if block.language == "python"]
MODULE_COMMANDS = [
    (words[2], words[3:])
    for block in SHELL_BLOCKS
    for words in _commands(block)
    if words[0] in PYTHONS and words[1] == "-m" and words[2] != "venv"
]
# Modules in running text too.
MODULES = sorted(
    {
        module.rstrip(".-")
        for path in READMES
        for module in re.findall(r"python -m ((?:pyworker|workers)[\w.-]*)", path.read_text(encoding="utf-8"))
    }
)


@pytest.mark.parametrize("block", SHELL_BLOCKS, ids=str)
def test_every_command_is_one_we_know(block: Block) -> None:
    for words in _commands(block):
        assert words[0] in PROGRAMS, " ".join(words)


def test_the_demo_is_one_command() -> None:
    assert any(words == ["./start_server.sh", "demo"] for block in SHELL_BLOCKS for words in _commands(block))


def test_the_test_command_is_what_ci_runs() -> None:
    lines = (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()
    stages = [shlex.split(line)[1:] for line in lines if line.startswith("  run ")]
    assert stages[2:3] == [[".venv/bin/pytest"]]
    [block] = [block for block in SHELL_BLOCKS if ".venv/bin/pytest" in block.text and block.path == README]
    assert _commands(block) == stages[:3]
    assert " && ".join(shlex.join(stage) for stage in stages[:3]) == block.text.strip()


@pytest.mark.parametrize("module", MODULES)
def test_every_module_has_help(module: str) -> None:
    assert _help(module).startswith("usage:")


@pytest.mark.parametrize(("module", "arguments"), MODULE_COMMANDS, ids=str)
def test_every_option_exists(module: str, arguments: Sequence[str]) -> None:
    known = set(re.findall(r"(?<![\w-])--?[a-z][a-z-]*", _help(module))) if arguments else set[str]()
    assert {word for word in arguments if word.startswith("-")} <= known


@functools.cache
def _help(module: str) -> str:
    done = _python("-m", module, "--help")
    assert done.returncode == 0, done.stderr
    return done.stdout


def _python(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=PROCESS_SECONDS,
        check=False,
    )


def _prose(path: Path) -> str:
    return re.sub(r"^```.*?^```$", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("path", READMES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_relative_link_leads_to_a_file(path: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", _prose(path)):
        if not re.match(r"[a-z]+:|#", target):
            assert (path.parent / target.partition("#")[0]).exists(), target


def test_every_path_of_the_layout_exists() -> None:
    layout = _section("Layout")
    paths = re.findall(r"^\| `([^`]+)`", layout, re.MULTILINE)
    assert paths
    assert [path for path in paths if not (ROOT / path).exists()] == []


def _section(title: str) -> str:
    match = re.search(
        rf"^## {title}\n(.*?)(?=^## |\Z)", README.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL
    )
    assert match is not None, f"README.md has no section {title}"
    return match[1]


def test_the_settings_table_is_what_the_configuration_reads() -> None:
    rows = [line.split("|")[1] for line in _section("Settings").splitlines() if line.startswith("|")]
    documented = {name for row in rows for name in re.findall(r"`([A-Z_]+)(?:<\w+>)?`", row)}
    # Read by the Hugging Face library itself.
    assert documented - {"HF_TOKEN"} == _variables_read()


def test_the_settings_of_the_start_are_what_the_launcher_reads() -> None:
    text = (ROOT / "pyworker" / "instance" / "README.md").read_text(encoding="utf-8")
    documented = set(re.findall(r"^\| `([A-Z_]+)` \|", text, re.MULTILINE))
    own = _names_given("instance/launcher.py", "reader")
    assert own
    assert documented == own | {"WORKSPACE_DIR", "PYWORKER_UPDATE_FLAG"}
    usage = (ROOT / "pyworker" / "instance" / "usage.txt").read_text(encoding="utf-8")
    assert documented == set(re.findall(r"^  ([A-Z_]+) ", usage, re.MULTILINE))


#: What the table says of a setting that is not set, and the value it has then.
UNSET = {
    "\N{EN DASH}": (None, 0),
    "empty": ("", ()),
    "none": (None,),
    "the worker's own": (None,),
    "the worker's own (10)": (None,),
    "the public authorities": (None,),
    "made of the two above": (None,),
    "current folder": (Path(),),
    "`either` (no health endpoint: `logs`)": (None,),
    "`WORKER_PORT` + 1": (Settings().worker_port + 1,),
}


@pytest.mark.parametrize(("variable", "field"), [row[:2] for row in VARIABLES])
def test_the_settings_table_tells_the_default(variable: str, field: str) -> None:
    default = getattr(Settings(), field)
    told = _defaults_told()[variable]
    if told in UNSET:
        assert default in UNSET[told]
    else:
        assert getattr(Settings.from_env({variable: told.strip("`")}), field) == default


def _defaults_told() -> dict[str, str]:
    """Each variable of the table with its default, as it is written there."""
    defaults: dict[str, str] = {}
    for line in _section("Settings").splitlines():
        if line.startswith("| `"):
            _, names, told, *_ = (cell.strip() for cell in line.split("|"))
            variables = re.findall(r"`([A-Z_]+)`", names)
            # In parentheses: what start_server.sh has instead.
            values = told.partition(" (`start")[0].split(", ")
            defaults.update(zip(variables, values * len(variables), strict=False))
    return defaults


def _variables_read() -> set[str]:
    """Of the fields of `Settings`, and given to `env.get` in its module."""
    named = {field.metadata["name"] for field in fields(Settings) if field.metadata}
    return named | _names_given("config/__init__.py", "env")


def _names_given(file: str, reader: str) -> set[str]:
    """Names given to `reader.get("…")` in a module; of an f-string, its beginning."""
    source = (ROOT / "pyworker" / file).read_text(encoding="utf-8")
    return set(re.findall(rf'\b{reader}\.get\(\s*f?"([A-Z_]+)', source))


@pytest.mark.parametrize("block", PYTHON_BLOCKS, ids=str)
def test_every_snippet_runs(block: Block, tmp_path: Path) -> None:
    """Each by itself, as a module that is imported; a whole worker is made, too."""
    (tmp_path / "snippet").mkdir()
    (tmp_path / "snippet" / "server.py").write_text(block.text, encoding="utf-8")
    run = "import sys; sys.path.insert(0, sys.argv[1]); import snippet.server"
    if re.search(r"^(def create_backend|create_backend,)", block.text, re.MULTILINE):
        run += (
            "; from pyworker import create_app; from pyworker.config import Settings"
            "; create_app('snippet', Settings(unsecured=True))"
        )
    done = _python("-c", run, str(tmp_path))
    assert done.returncode == 0, done.stderr


def test_every_test_that_is_named_exists() -> None:
    tests = ROOT / "tests"
    named = set(re.findall(r"`(test_\w+)`", (tests / "README.md").read_text("utf-8")))
    there = {
        name
        for path in tests.rglob("test_*.py")
        for name in re.findall(r"def (test_\w+)\(", path.read_text("utf-8"))
    }
    assert len(named) > 50
    assert named - there == set()
