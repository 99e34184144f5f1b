"""The layout as the package's docstring draws it: who may import what, and what an import may do."""

from __future__ import annotations

import ast
import importlib.util
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "pyworker"
WORKERS = ROOT / "workers"
IMPORT_DEADLINE = 60  # seconds; a cold import on a busy machine takes a few

#: Decide, and leave the I/O to others.
CORE = (
    "errors",
    "config",
    "sample",
    "validation",
    "data_types",
    "auth",
    "lifecycle",
    "reports",
    "journal_file",
    "journal",
    "metrics",
    "request_queue",
    "log_lines",
    "log_tail",
)

#: Which module (or package) of ours may import which third-party package while it is imported itself or runs.
ALLOWED = {
    "flask": {
        "app",
        "backend",
        "body",
        "exchange",
        "local",
        "pipeline",
        "responses",
        "session_routes",
    },
    "werkzeug": {"app", "body", "local", "responses"},
    "requests": {
        "autoscaler_client",
        "callbacks",
        "client",
        "doctor",
        "client_calls",
        "client_http",
        "client_routing",
        "exchange",
        "probe",
        "model_client",
        "model_response",
        "origin",
        "resources",
        "responses",
        "timed_http",
        "transport",
        "verdict",
    },
    "urllib3": {
        "autoscaler_client",
        "client_http",
        "client_options",
        "model_response",
        "responses",
        "timed_http",
        "transport",
        "verdict",
    },
    "Crypto": {"auth", "local"},
    "cryptography": {"doctor", "local", "tls"},
    "pydantic": {"data_types", "envelope", "loadtest", "local", "sessions", "validation"},
    "hdrh": {"loadtest"},
    "rich": {"loadtest"},
    "pydantic_core": {"autoscaler_client", "body", "data_types", "encoding", "envelope", "session_routes"},
    "gunicorn": {"turn", "worker_class"},
    "transformers": {"tokenizer"},
    "huggingface_hub": {"tokenizer"},
    "tokenizers": {"resources"},
    "nltk": {"words"},
}
#: The parts of `client`.
CLIENT = {"client_calls", "client_errors", "client_http", "client_options", "client_routing"}
#: Small enough to be had anywhere; it comes with pydantic.
ANYWHERE = {"typing_extensions"}


@dataclass(frozen=True)
class Import:
    """One imported module: its dotted name, its line, and whether only type checkers see it."""

    name: str
    line: int
    for_types: bool


def test_the_docstring_lists_every_module_of_the_package() -> None:
    modules = {path.stem for path in PACKAGE.glob("*.py")} - {"__init__"}
    listed = module_order()

    assert len(listed) == len(set(listed))
    assert set(listed) <= modules
    beside = modules - set(listed)
    text = package_docstring().partition("Beside them:")[2]
    for module in beside - CLIENT:  # the parts of `client`
        assert f"`{module}`" in text, f"the docstring of pyworker does not mention {module}"


def test_a_module_imports_only_modules_above_it() -> None:
    order = module_order()
    assert order[0] == "errors"
    assert len(order) > 20
    upward = [
        f"{module}.py:{imported.line} imports {imported.name}"
        for position, module in enumerate(order)
        for imported in own_imports(PACKAGE / f"{module}.py")
        if not imported.for_types and imported.name not in order[:position]
    ]
    assert upward == []


@pytest.mark.parametrize("helper", ["tokenizer", "words", "client", *sorted(CLIENT), "loadtest", "local"])
def test_helpers_beside_the_list_import_nothing_of_a_running_worker(helper: str) -> None:
    beside = {"resources", "client", *CLIENT, "loadtest", "local", "redaction", "timed_http", "instance"}
    # The load test lists the workers there are.
    harmless = {*CORE, *beside, *({"registry"} if helper == "loadtest" else ())}

    for path in files_of(helper):
        for imported in own_imports(path):
            assert imported.name in harmless, f"{path.name}:{imported.line} imports {imported.name}"


def test_nothing_imports_the_local_stand_ins() -> None:
    for path in [*PACKAGE.glob("*.py"), *WORKERS.rglob("*.py")]:
        for imported in own_imports(path):
            assert imported.name not in ("local", "loadtest", "doctor") or path.name == "test_load.py", path


@pytest.mark.parametrize("module", CORE)
def test_the_core_knows_nothing_of_http(module: str) -> None:
    names = {
        imported.name.partition(".")[0]
        for imported in imports_of(PACKAGE / f"{module}.py")
        if not imported.for_types
    }

    assert not names & {"flask", "werkzeug", "requests", "urllib3", "http", "socket", "gunicorn", "asyncio"}


def test_third_party_packages_are_imported_where_they_belong() -> None:
    misplaced: list[str] = []
    for path in PACKAGE.rglob("*.py"):
        owner = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        for imported in third_party_imports(path):
            package = imported.name.partition(".")[0]
            if package not in ANYWHERE and owner not in ALLOWED.get(package, set()):
                misplaced.append(f"{path.relative_to(ROOT)}:{imported.line}: {package}")
    assert misplaced == []


@pytest.mark.parametrize("name", ["beacon", "instance"])
def test_what_runs_before_there_is_an_environment_imports_nothing_of_a_worker(name: str) -> None:
    """But the launcher, which reads the settings."""
    settings = {"beacon", "config", "errors", "variables"}
    for path in files_of(name):
        allowed = {"instance", *(settings if path.stem == "launcher" else ())}
        assert {imported.name for imported in own_imports(path)} <= allowed, path


@pytest.mark.parametrize("module", ["instance.launcher", "local.demo"])
def test_what_runs_before_there_is_an_environment_needs_the_standard_library_only(module: str) -> None:
    """Without the folder of installed packages."""
    done = run_python("-E", "-S", "-c", f"import pyworker.{module}")
    assert done.returncode == 0, done.stderr


def test_the_table_of_third_party_packages_is_not_older_than_the_code() -> None:
    used = {
        (imported.name.partition(".")[0], path.relative_to(PACKAGE).parts[0].removesuffix(".py"))
        for path in PACKAGE.rglob("*.py")
        for imported in third_party_imports(path)
    }
    unused = {package for package, owners in ALLOWED.items() if not any((package, o) in used for o in owners)}
    assert unused == set()


def test_only_config_reads_the_environment() -> None:
    """And the programs that start_server.sh runs: the settings may be what is wrong there."""
    starting = {PACKAGE / "beacon.py", PACKAGE / "instance" / "launcher.py", PACKAGE / "local" / "demo.py"}
    files = {*PACKAGE.rglob("*.py"), *WORKERS.rglob("*.py"), ROOT / "gunicorn.conf.py"}
    readers = [
        f"{path.relative_to(ROOT)}:{getattr(node, 'lineno', '?')}"
        for path in sorted(files - starting - {PACKAGE / "config.py"})
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
        "import pyworker.worker_class\n"
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
        "import pyworker.app, workers.hello_world.server\n"
        "heavy = {'transformers', 'nltk', 'torch', 'tokenizers', 'huggingface_hub', 'gunicorn'}\n"
        "heavy.add('cryptography')\n"
        "heavy |= {'hdrh', 'rich'}  # of the load test\n"
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


def package_docstring() -> str:
    return ast.get_docstring(parsed(PACKAGE / "__init__.py")) or ""


def module_order() -> list[str]:
    """The modules as the docstring lists them, lowest first."""
    listing = package_docstring().partition("lowest first")[2].partition("Beside them")[0]
    return [match[1] for match in re.finditer(r"^ {4}(\w+) +\S", listing, re.MULTILINE)]


def files_of(name: str) -> list[Path]:
    folder = PACKAGE / name
    return sorted(folder.rglob("*.py")) if folder.is_dir() else [PACKAGE / f"{name}.py"]


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
            assert child.level == 0, "imports are absolute"
            yield from _from_import(child, for_types)
        elif isinstance(child, ast.Call):
            yield from _dynamic_import(child, for_types)
        yield from _imports_in(child, for_types=inside)


def _from_import(node: ast.ImportFrom, for_types: bool) -> Iterator[Import]:
    module = node.module or ""
    for alias in node.names:
        full = f"{module}.{alias.name}"
        # `from pyworker import responses` imports a module, `from pyworker.errors import …` a name of one.
        is_module = module == "pyworker" and importlib.util.find_spec(full) is not None
        yield Import(full if is_module else module, node.lineno, for_types)


def _dynamic_import(node: ast.Call, for_types: bool) -> Iterator[Import]:
    if ast.unparse(node.func).endswith("import_module"):
        argument = node.args[0]
        if isinstance(argument, ast.Constant) and isinstance(argument.value, str):
            yield Import(argument.value, node.lineno, for_types)


def own_imports(path: Path) -> Iterator[Import]:
    """Imports of this project, by the name of the module or folder directly inside `pyworker`."""
    for imported in imports_of(path):
        package, _, rest = imported.name.partition(".")
        if package == "pyworker" and rest:
            yield Import(rest.partition(".")[0], imported.line, imported.for_types)


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
