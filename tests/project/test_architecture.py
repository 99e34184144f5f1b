"""The wings of the package, who may import whom, and what an import may do."""

from __future__ import annotations

import ast
import graphlib
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.process import ROOT

PACKAGE = ROOT / "pyworker"
WORKERS = ROOT / "workers"
IMPORT_DEADLINE = 60  # seconds; a cold import on a busy machine takes a few

#: The wings and the modules beside them, lowest first. Each imports only from lower layers, and from its own
#: wing.
LAYERS = (
    {"errors", "wsgi_extensions", "resources"},
    {"runtime"},
    {"telemetry"},
    {"config", "validation"},
    {"data_types"},
    {"downstream", "upstream"},
    {"responses", "reporting"},
    {"jobs"},
    {"lifecycle", "contract"},
    {"engines", "proxy"},
    {"sessions", "backend"},
    {"registry", "routes", "worker"},
    {"discovery", "status", "openapi"},
    {"black_box"},
    {"app"},
)
#: What stands beside the layers, and what of the package each may import.
BESIDE = {
    "server": {"config", "errors"},
    "tokenizer": {"resources"},
    "words": {"resources"},
    # The registry for its program.
    "client": {"errors", "runtime", "registry"},
    # The launcher alone, see below.
    "instance": {"errors", "config"},
    "local": {"errors", "data_types", "validation", "runtime", "resources", "instance"},
    "new": {"errors", "registry", "resources"},
    "loadtest": {"errors", "data_types", "client", "registry", "resources", "tokenizer"},
    "testing": {unit for layer in LAYERS for unit in layer} | {"server", "local"},
    "check": {unit for layer in LAYERS for unit in layer} | {"testing"},
    "top": {"errors", "runtime", "config"},
    "sdk": {unit for layer in LAYERS for unit in layer} | {"server", "instance"},
    "doctor": {unit for layer in LAYERS[:-1] for unit in layer} | {"tokenizer", "words"},
}
MOST_MODULES_BESIDE_THE_WINGS = 15
MOST_LINES = 300
#: Modules that are longer, each with the reason.
LONGER: dict[str, str] = {}

#: Decide, and leave the I/O to others.
CORE = (
    "errors",
    "config",
    "data_types.auth",
    "data_types.payloads",
    "data_types.handlers",
    "runtime.sample",
    "runtime.request_queue",
    "proxy.auth",
    "reporting.wire",
    "reporting.journal_file",
    "reporting.journal",
    "reporting.ledger",
    "lifecycle.state",
    "lifecycle.log_lines",
    "lifecycle.log_tail",
)

#: Which wing (or module beside the wings) may import which third-party package.
ALLOWED = {
    "flask": {
        "app",
        "backend",
        "discovery",
        "jobs",
        "local",
        "openapi",
        "proxy",
        "responses",
        "routes",
        "sdk",
        "sessions",
        "status",
        "testing",
        "check",
    },
    "werkzeug": {"app", "local", "proxy", "responses", "testing"},
    "requests": {
        "client",
        "discovery",
        "doctor",
        "jobs",
        "lifecycle",
        "openapi",
        "proxy",
        "reporting",
        "resources",
        "responses",
        "routes",
        "runtime",
        "sdk",
        "sessions",
        "top",
        "upstream",
    },
    "urllib3": {"client", "reporting", "responses", "runtime", "upstream"},
    "Crypto": {"proxy", "local"},
    "cryptography": {"doctor", "local", "downstream"},
    "pydantic": {"contract", "data_types", "loadtest", "local", "openapi", "proxy", "sessions", "validation"},
    "pydantic_core": {
        "contract",
        "data_types",
        "discovery",
        "proxy",
        "reporting",
        "sessions",
        "upstream",
        "validation",
    },
    "hdrh": {"loadtest"},
    "jinja2": {"loadtest"},
    "prometheus_client": {"status", "telemetry"},
    # Not in requirements.txt: without it no spans are exported.
    "opentelemetry": {"telemetry"},
    "rich": {"loadtest", "top"},
    "aiohttp": {"sdk"},
    "gunicorn": {"downstream", "sdk"},
    "transformers": {"tokenizer"},
    "huggingface_hub": {"tokenizer"},
    "tokenizers": {"resources"},
    # Fixtures, for those who have it.
    "pytest": {"testing"},
    "nltk": {"words"},
    # Not in requirements.txt: the model server that they make is looked for, and another takes its place.
    "xllamacpp": {"local"},
    "gguf": {"local"},
    "numpy": {"local"},
}
#: Small enough to be had anywhere; it comes with pydantic.
ANYWHERE = {"typing_extensions"}


@dataclass(frozen=True)
class Import:
    """One imported module: its dotted name, its line, and whether only type checkers see it."""

    name: str
    line: int
    for_types: bool


def test_every_wing_and_module_has_its_place() -> None:
    units = {
        path.stem for path in PACKAGE.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()
    }
    placed = [unit for layer in LAYERS for unit in layer] + list(BESIDE)

    assert len(placed) == len(set(placed))
    assert set(placed) == units - {"__init__"}


def test_imports_run_downwards() -> None:
    allowed = dict(BESIDE)
    below: set[str] = set()
    for layer in LAYERS:
        allowed |= {unit: set(below) for unit in layer}
        below |= layer
    upward = [
        f"{path.relative_to(ROOT)}:{imported.line} imports {imported.name}"
        for path in modules()
        for imported in own_imports(path)
        if not imported.for_types and unit_of(imported.name) not in {*allowed[unit(path)], unit(path)}
    ]
    assert upward == []


def test_no_modules_import_each_other_in_a_circle() -> None:
    """Imports inside functions count, too."""
    graph = {
        dotted(path): {imported.name for imported in own_imports(path) if not imported.for_types}
        for path in modules()
    }
    order = list(graphlib.TopologicalSorter(graph).static_order())  # raises CycleError with the circle

    assert set(graph) <= set(order)


def test_the_package_reads_like_a_table_of_contents() -> None:
    beside = [path.stem for path in PACKAGE.glob("*.py") if path.stem != "__init__"]
    assert len(beside) <= MOST_MODULES_BESIDE_THE_WINGS

    lines = {str(path.relative_to(PACKAGE)): len(path.read_text("utf-8").splitlines()) for path in modules()}
    assert {name for name, count in lines.items() if count > MOST_LINES} == set(LONGER)


def test_every_wing_lists_its_modules() -> None:
    missing = [
        f"{path.parent.name}/__init__.py does not list {path.stem}"
        for path in modules()
        if path.parent != PACKAGE and not path.stem.startswith("__")
        if not re.search(rf"^ *{path.stem} +\S", docstring_of(path.parent / "__init__.py"), re.MULTILINE)
    ]
    assert missing == []


@pytest.mark.parametrize("document", [PACKAGE / "README.md", PACKAGE / "__init__.py"])
def test_the_design_page_names_every_wing(document: Path) -> None:
    text = document.read_text("utf-8")
    wings = {path.name for path in PACKAGE.iterdir() if (path / "__init__.py").exists()}

    assert {wing for wing in wings if f"`{wing}" not in text and f"    {wing}/" not in text} == set()


def test_the_design_page_names_only_files_there_are() -> None:
    text = (PACKAGE / "README.md").read_text("utf-8")
    named = set(re.findall(r"`([a-z_]+/[a-z_/]*[a-z_]+\.py)`", text))

    assert len(named) > 20
    assert {name for name in named if not (PACKAGE / name).exists() and not (ROOT / name).exists()} == set()


def test_imports_are_absolute() -> None:
    """But in a folder that cannot be named in one."""
    for path in [*modules(), *WORKERS.rglob("*.py")]:
        if all(part.isidentifier() for part in path.relative_to(ROOT).parts[:-1]):
            assert not [imported for imported in imports_of(path) if imported.name.startswith(".")], path


def test_nothing_imports_the_local_stand_ins() -> None:
    stand_ins = {"local", "loadtest", "doctor", "testing", "check"}
    for path in [*modules(), *WORKERS.rglob("*.py")]:
        if PACKAGE not in path.parents or unit(path) not in stand_ins:
            for imported in own_imports(path):
                assert unit_of(imported.name) not in stand_ins or path.name == "test_load.py", path


@pytest.mark.parametrize("module", CORE)
def test_the_core_knows_nothing_of_http(module: str) -> None:
    names = {
        imported.name.partition(".")[0] for imported in imports_of(file_of(module)) if not imported.for_types
    }

    assert not names & {"flask", "werkzeug", "requests", "urllib3", "http", "socket", "gunicorn", "asyncio"}


def test_third_party_packages_are_imported_where_they_belong() -> None:
    misplaced: list[str] = []
    for path in modules():
        for imported in third_party_imports(path):
            package = imported.name.partition(".")[0]
            if package not in ANYWHERE and unit(path) not in ALLOWED.get(package, set()):
                misplaced.append(f"{path.relative_to(ROOT)}:{imported.line}: {package}")
    assert misplaced == []


def test_what_runs_before_there_is_an_environment_needs_the_standard_library_only() -> None:
    """The launcher reads its settings as the worker does; nothing else of the package is imported."""
    for path in (PACKAGE / "instance").rglob("*.py"):
        assert list(third_party_imports(path)) == [], path
        of_the_package = {unit_of(imported.name) for imported in own_imports(path)} - {"instance"}
        assert not of_the_package or path.stem == "launcher", path
    done = run_python("-S", "-c", "import pyworker.instance.launcher")
    assert (done.stdout, done.stderr, done.returncode) == ("", "", 0)


def test_the_table_of_third_party_packages_is_not_older_than_the_code() -> None:
    used = {
        (imported.name.partition(".")[0], unit(path))
        for path in modules()
        for imported in third_party_imports(path)
    }
    unused = {(package, owner) for package, owners in ALLOWED.items() for owner in owners} - used
    assert unused == set()


def test_only_config_reads_the_environment() -> None:
    """And what starts an instance, which runs before there are settings."""
    files = {*PACKAGE.rglob("*.py"), *WORKERS.rglob("*.py"), ROOT / "gunicorn.conf.py"}
    readers = [
        f"{path.relative_to(ROOT)}:{getattr(node, 'lineno', '?')}"
        for path in sorted(
            files
            - {
                PACKAGE / "config" / "__init__.py",
                *(PACKAGE / "instance").iterdir(),
                PACKAGE / "local" / "demo.py",
            }
        )
        for node in ast.walk(parsed(path))
        if reads_environment(node)
    ]
    assert readers == []


def test_no_module_makes_threads_or_files_when_it_is_imported() -> None:
    suspicious = {"Thread", "ThreadPoolExecutor", "open", "Session", "Popen", "socket", "start"}
    found: list[str] = []
    for path in [*PACKAGE.rglob("*.py"), *WORKERS.rglob("*.py")]:
        for node in run_at_import(parsed(path)):
            function = node.func
            name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
            if name in suspicious:
                found.append(f"{path.relative_to(ROOT)}:{node.lineno}: {name}")
    assert found == []


def test_what_gunicorn_s_master_imports_does_not_bring_the_app() -> None:
    program = (
        "import runpy, sys\n"
        "import pyworker.downstream.gunicorn_worker\n"
        "runpy.run_path('gunicorn.conf.py')\n"
        "print(sorted({'flask', 'requests', 'pydantic', 'Crypto', 'pyworker.app'} & set(sys.modules)))\n"
    )
    identity = {"CONTAINER_ID": "1", "REPORT_ADDR": "http://127.0.0.1:1", "CHECK_URL": "false"}

    done = run_python("-c", program, variables=identity)

    assert (done.returncode, done.stdout) == (0, "[]\n"), done.stderr


def test_importing_a_worker_is_light_and_silent() -> None:
    program = (
        "import sys\n"
        "calls = []\n"
        "watched = ('socket.connect', 'socket.getaddrinfo', 'socket.gethostbyname')\n"
        "def watch(event, arguments):\n"
        "    if event in watched:\n"
        "        calls.append((event, arguments))\n"
        "sys.addaudithook(watch)\n"
        "import threading\n"
        "import pyworker.app, workers.hello_world.server, workers.comfyui.server\n"
        "heavy = {'transformers', 'nltk', 'torch', 'tokenizers', 'huggingface_hub', 'gunicorn'}\n"
        "heavy.add('cryptography')\n"
        "heavy |= {'hdrh', 'rich'}  # of the load test and the top\n"
        "heavy.add('opentelemetry')  # if spans are exported\n"
        "print('heavy', sorted(heavy & set(sys.modules)))\n"
        "print('calls', calls)\n"
        "print('threads', threading.active_count())\n"
    )

    done = run_python("-X", "importtime", "-c", program)

    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["heavy []", "calls []", "threads 1"]
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert {"pyworker.app", "workers.hello_world.server"} <= imported
    assert not {name for name in imported if name.partition(".")[0] in ("transformers", "nltk")}


@pytest.mark.parametrize("module", CORE)
def test_a_core_module_stands_without_the_libraries_of_the_edge(module: str) -> None:
    """Taken out of the package, whose `__init__` makes the whole app importable."""
    program = (
        "import importlib, sys, types\n"
        "package = types.ModuleType('pyworker')\n"
        f"package.__path__ = [{str(PACKAGE)!r}]\n"
        "sys.modules['pyworker'] = package\n"
        f"importlib.import_module('pyworker.{module}')\n"
        "print(sorted({'flask', 'werkzeug', 'requests', 'urllib3', 'gunicorn'} & set(sys.modules)))\n"
    )

    done = run_python("-c", program)

    assert (done.stdout, done.returncode) == ("[]\n", 0), done.stderr


def run_python(
    *arguments: str, variables: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        env={**os.environ, **(variables or {})},
        capture_output=True,
        text=True,
        timeout=IMPORT_DEADLINE,
        check=False,
    )


def modules() -> list[Path]:
    """Every module of the package but its own `__init__`, which imports the app when it is called."""
    # gunicorn.conf.py is a link, so that it is part of an installed package.
    files = (path for path in PACKAGE.rglob("*.py") if not path.is_symlink())
    return sorted(path for path in files if path != PACKAGE / "__init__.py")


def docstring_of(path: Path) -> str:
    return ast.get_docstring(parsed(path)) or ""


def unit(path: Path) -> str:
    """The wing that a module lies in, or its own name beside the wings."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def unit_of(name: str) -> str:
    return name.split(".")[1]


def dotted(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def file_of(module: str) -> Path:
    path = PACKAGE.joinpath(*module.split("."))
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text("utf-8"), str(path))


def imports_of(path: Path) -> Iterator[Import]:
    yield from _imports_in(parsed(path), for_types=False)


def _imports_in(node: ast.AST, *, for_types: bool) -> Iterator[Import]:
    for child in ast.iter_child_nodes(node):
        inside = for_types or (isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING")
        if isinstance(child, ast.Import):
            yield from (Import(alias.name, child.lineno, for_types) for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            yield from _from_import(child, for_types)
        elif isinstance(child, ast.Call):
            yield from _dynamic_import(child, for_types)
        yield from _imports_in(child, for_types=inside)


def _from_import(node: ast.ImportFrom, for_types: bool) -> Iterator[Import]:
    module = "." * node.level + (node.module or "")
    for alias in node.names:
        full = f"{module}.{alias.name}"
        # `from pyworker import responses` imports a module, `from pyworker.errors import …` a name of one.
        is_module = (
            module.partition(".")[0] == "pyworker" and (file := file_of_import(full)) and file.exists()
        )
        yield Import(full if is_module else module, node.lineno, for_types)


def file_of_import(name: str) -> Path:
    return file_of(name.removeprefix("pyworker."))


def _dynamic_import(node: ast.Call, for_types: bool) -> Iterator[Import]:
    if ast.unparse(node.func).endswith("import_module"):
        argument = node.args[0]
        if isinstance(argument, ast.Constant) and isinstance(argument.value, str):
            yield Import(argument.value, node.lineno, for_types)


def own_imports(path: Path) -> Iterator[Import]:
    """Imports of modules of the package, by their dotted names; the package itself is not one."""
    for imported in imports_of(path):
        if imported.name.startswith("pyworker."):
            yield imported


def third_party_imports(path: Path) -> Iterator[Import]:
    own = {"pyworker", "workers"}
    for imported in imports_of(path):
        package = imported.name.partition(".")[0]
        if not imported.for_types and package not in own and package not in sys.stdlib_module_names:
            yield imported


def reads_environment(node: ast.AST) -> bool:
    """`os.environ` and its like; an `environ` of anything else is what a web server says of a request."""
    names = ("environ", "environb", "getenv", "getenvb")
    if isinstance(node, ast.ImportFrom):
        return node.module == "os" and any(alias.name in names for alias in node.names)
    return isinstance(node, ast.Attribute) and node.attr in names and ast.unparse(node.value) == "os"


def run_at_import(tree: ast.Module) -> Iterator[ast.Call]:
    """Calls that happen when the module is imported: neither inside functions nor under a main guard."""
    pending: list[ast.AST] = list(tree.body)
    while pending:
        node = pending.pop()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if isinstance(node, ast.If) and "__main__" in ast.unparse(node.test):
            continue
        if isinstance(node, ast.Call):
            yield node
        pending.extend(ast.iter_child_nodes(node))
