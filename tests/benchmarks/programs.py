"""The C programs of the benchmark: a model server and a load generator that cost next to nothing."""

from __future__ import annotations

import json
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from typing_extensions import Self

from pyworker.errors import ConfigError
from tests.benchmarks.processes import Usage, usage
from tests.benchmarks.scenarios import Load

HERE = Path(__file__).resolve().parent
SOURCES = HERE / "programs"
BUILD = HERE / "build"
_FLAGS = ("-O2", "-Wall", "-Wextra")
_GRACE = 90.0  # seconds that a load may last longer than asked for


@dataclass(frozen=True)
class Programs:
    """Where the compiled programs are, and whether the load generator speaks TLS."""

    model: Path
    load: Path
    speaks_tls: bool


def compile_programs(folder: Path = BUILD) -> Programs:
    """Compile them into `folder`. Raises `ConfigError` if there is no compiler, or it fails."""
    compiler = shutil.which("cc")
    if compiler is None:
        raise ConfigError("cc is not installed; first run: apt-get install -y gcc libc6-dev")
    folder.mkdir(parents=True, exist_ok=True)
    model, load = folder / "model", folder / "load"
    _compile(compiler, "model.c", model)
    speaks_tls = _has_openssl(compiler)
    _compile(compiler, "load.c", load, *(("-DWITH_TLS", "-lssl", "-lcrypto") if speaks_tls else ()))
    return Programs(model, load, speaks_tls)


def _compile(compiler: str, source: str, target: Path, *options: str) -> None:
    command = [compiler, *_FLAGS, "-o", str(target), str(SOURCES / source), *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise ConfigError(f"{source} does not compile:\n{done.stderr}")


def _has_openssl(compiler: str) -> bool:
    asked = [compiler, "-E", "-x", "c", "-"]
    done = subprocess.run(asked, input=b"#include <openssl/ssl.h>\n", capture_output=True, check=False)
    return done.returncode == 0


class StubServer:
    """One run of the model server; `pubkey` makes it the autoscaler. A context manager."""

    def __init__(self, programs: Programs, pubkey: Path | None = None) -> None:
        command = [str(programs.model), *(() if pubkey is None else ("--pubkey", str(pubkey)))]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        self.port = int(self._process.stdout.readline().split()[1])

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def usage(self) -> Usage:
        return usage(self._process.pid)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.communicate()


class LoadRun:
    """The load generator at work."""

    def __init__(
        self, programs: Programs, load: Load, body: Path, port: int, seconds: float, tls: bool
    ) -> None:
        self._limit = seconds + _GRACE
        command = [
            str(programs.load),
            *("--port", str(port), "--path", load.path, "--body", str(body)),
            *("--clients", str(load.clients), "--seconds", str(seconds), "--ramp", str(load.ramp)),
            *(("--new-connections",) if load.new_connections else ()),
            *(("--tls",) if tls else ()),
        ]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)

    def finish(self) -> dict[str, Any]:
        """What it counted."""
        output, _ = self._process.communicate(timeout=self._limit)
        if self._process.returncode != 0:
            raise ConfigError(f"the load generator ended with status {self._process.returncode}")
        return json.loads(output)
