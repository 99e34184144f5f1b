"""Finding a worker package, and saying what is wrong if there is none."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from pyworker.errors import ConfigError
from pyworker.registry import known_workers, load_worker
from tests.support.process import ROOT

DEADLINE = 60  # seconds for a subprocess on a busy machine

SERVER = (
    "from pyworker.backend import Backend\n"
    "import flask\n"
    "def create_backend(settings): raise NotImplementedError\n"
    "def create_blueprint(backend): raise NotImplementedError\n"
)


def load_elsewhere(folder: Path, name: str) -> subprocess.CompletedProcess[str]:
    """Load a worker in a process of its own, so that this one's modules stay as they are."""
    program = (
        "import sys, traceback\n"
        f"sys.path.insert(0, {str(folder)!r})\n"
        "from pyworker.errors import ConfigError\n"
        "from pyworker.registry import load_worker\n"
        "try:\n"
        f"    module = load_worker({name!r})\n"
        "except ConfigError as error:\n"
        "    sys.exit(f'pyworker: {error}')\n"
        "print(module.__name__, module.__file__)\n"
    )
    return subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=False,
    )


def write(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, "utf-8")


def test_every_folder_with_a_server_is_known() -> None:
    folders = sorted(path.parent.name for path in (ROOT / "workers").glob("*/server.py"))

    assert "hello_world" in folders
    assert known_workers() == folders


@pytest.mark.parametrize("name", ["hello_world", "workers.hello_world"])
def test_a_worker_of_the_project(name: str) -> None:
    module = load_worker(name)

    assert module is sys.modules["workers.hello_world.server"]
    assert callable(module.create_backend)
    assert callable(module.create_blueprint)


@pytest.mark.parametrize(
    "name",
    [
        "hello_wrld",
        "Hello_World",
        "",
        ".",
        "..",
        ".hello_world",
        "..hello_world",
        "hello_world.",
        "hello_world.server",
        "no.such.package",
        "os",
        "os.path",
        "json",
        "a b",
        "../workers/hello_world",
        "workers/hello_world",
        "a\x00b",
        "wörker",
        pytest.param("x" * 5000, id="long"),
    ],
)
def test_an_unknown_name_lists_the_workers_there_are(name: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_worker(name)

    message = str(caught.value)
    assert message.startswith(f"there is no worker {name!r}; workers here: ")
    assert all(known in message for known in known_workers())
    assert "dotted path" in message
    assert "\n" not in message


def test_a_module_that_is_no_worker() -> None:
    with pytest.raises(ConfigError, match=r"^pyworker\.server has no function create_backend$"):
        load_worker("pyworker")


@pytest.mark.parametrize("name", ["mine", "company.models.mine"])
def test_a_package_outside_the_repository(tmp_path: Path, name: str) -> None:
    folder = name.replace(".", "/")
    write(tmp_path, {f"{folder}/__init__.py": "", f"{folder}/server.py": SERVER})

    done = load_elsewhere(tmp_path, name)

    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [f"{name}.server", str(tmp_path / folder / "server.py")]


def test_a_package_without_a_server(tmp_path: Path) -> None:
    write(tmp_path, {"mine/__init__.py": ""})

    done = load_elsewhere(tmp_path, "mine")

    assert done.returncode == 1
    assert done.stderr.startswith("pyworker: there is no worker 'mine'; workers here: ")


@pytest.mark.parametrize(
    ("files", "fault"),
    [
        ({"mine/server.py": "import no_such_library\n"}, "No module named 'no_such_library'"),
        ({"mine/__init__.py": "import no_such_library\n"}, "No module named 'no_such_library'"),
        ({"mine/__init__.py": "import mine.no_such_part\n"}, "No module named 'mine.no_such_part'"),
        ({"mine/server.py": "from mine import payloads\n"}, "cannot import name 'payloads' from 'mine'"),
        (
            {"mine/__init__.py": "from os import no_such_name\n"},
            "cannot import name 'no_such_name' from 'os'",
        ),
        ({"mine/server.py": "1 / 0\n"}, "ZeroDivisionError"),
        ({"mine/server.py": "def broken(:\n"}, "SyntaxError"),
    ],
)
def test_a_fault_inside_a_package_is_shown_as_it_is(
    tmp_path: Path, files: dict[str, str], fault: str
) -> None:
    write(tmp_path, {"mine/__init__.py": "", "mine/server.py": SERVER, **files})

    done = load_elsewhere(tmp_path, "mine")

    assert done.returncode == 1
    assert fault in done.stderr
    assert "Traceback" in done.stderr, "where it happened is shown too"
    assert "there is no worker" not in done.stderr


@pytest.mark.parametrize(
    ("server", "missing"),
    [
        (SERVER.replace("create_blueprint", "make_blueprint"), "create_blueprint"),
        (SERVER.replace("create_backend", "make_backend"), "create_backend"),
        (SERVER + "create_blueprint = None\n", "create_blueprint"),
        ("", "create_backend"),
    ],
)
def test_a_server_without_its_functions(tmp_path: Path, server: str, missing: str) -> None:
    write(tmp_path, {"mine/__init__.py": "", "mine/server.py": server})

    done = load_elsewhere(tmp_path, "mine")

    assert (done.returncode, done.stderr) == (1, f"pyworker: mine.server has no function {missing}\n")


def test_a_worker_of_the_project_comes_first(tmp_path: Path) -> None:
    write(tmp_path, {"hello_world/__init__.py": "", "hello_world/server.py": "1 / 0\n"})

    done = load_elsewhere(tmp_path, "hello_world")

    assert done.stdout.split() == [
        "workers.hello_world.server",
        str(ROOT / "workers" / "hello_world" / "server.py"),
    ]


def test_without_a_workers_folder_none_are_known(tmp_path: Path) -> None:
    """The package alone, as if it was installed into an environment."""
    program = (
        "import sys\n"
        f"others = [path for path in sys.path if path not in ('', {str(ROOT)!r})]\n"
        f"sys.path[:] = [{str(tmp_path)!r}, *others]\n"
        "from pyworker.registry import known_workers, load_worker\n"
        "print(known_workers())\n"
        "try:\n"
        "    load_worker('mine')\n"
        "except Exception as error:\n"
        "    print(error)\n"
    )
    (tmp_path / "pyworker").symlink_to(ROOT / "pyworker")

    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=True,
    )

    names, message = done.stdout.splitlines()
    assert names == "[]"
    assert message.startswith("there is no worker 'mine'; workers here: none. ")
