"""What is compared. Each runs in a folder of its own before the model server, and serves the same routes."""

from __future__ import annotations

import contextlib
import http.client
import shutil
import ssl
import subprocess
import sys
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pyworker.errors import ConfigError
from tests.benchmarks.processes import Usage, usage
from tests.benchmarks.programs import StubServer
from tests.benchmarks.scenarios import Load
from tests.support.ports import free_port
from tests.support.process import ROOT, environment
from tests.support.waiting import wait_until

_READY_WITHIN = 60.0
_STOP_WITHIN = 45.0
_MANY_DESCRIPTORS = 16384
_SHOWN_LOG = 4000


@dataclass(frozen=True)
class Surroundings:
    """What every server finds: the model server, the autoscaler, a certificate."""

    model: StubServer
    autoscaler: StubServer
    certificate: Path
    key: Path


class Server(ABC):
    """One of those compared; belongs to one thread. `tls` says what its clients speak."""

    name: str

    def __init__(self, around: Surroundings, tls: bool) -> None:
        self.around = around
        self.tls = tls
        self.port = 0

    @property
    def url(self) -> str:
        return f"{'https' if self.tls else 'http'}://127.0.0.1:{self.port}"

    @abstractmethod
    def start(self, folder: Path) -> None:
        """Start it; it need not respond yet."""

    @property
    @abstractmethod
    def usage(self) -> Usage:
        """What its processes have used so far."""

    def path(self, load: Load) -> str:
        """Its route for this load."""
        return load.path

    def payload(self, load: Load) -> Mapping[str, object]:
        """What it is sent."""
        return load.payload()

    def wait_ready(self, load: Load, envelope: bytes) -> None:
        """Wait until this request succeeds."""
        try:
            wait_until(
                lambda: self._responds(self.path(load), envelope),
                f"a good response of {self.name}",
                _READY_WITHIN,
            )
        except AssertionError as error:
            raise ConfigError(f"{error}\n{self.log}") from error

    @property
    def log(self) -> str:
        """The end of what it has to say for itself."""
        return ""

    def _responds(self, path: str, envelope: bytes) -> bool:
        with contextlib.suppress(OSError, http.client.HTTPException):
            connection = self._connect()
            try:
                connection.request("POST", path, envelope, {"Content-Type": "application/json"})
                return connection.getresponse().status == 200
            finally:
                connection.close()
        return False

    def _connect(self) -> http.client.HTTPConnection:
        if not self.tls:
            return http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
        trusting = ssl._create_unverified_context()  # pyright: ignore[reportPrivateUsage]
        return http.client.HTTPSConnection("127.0.0.1", self.port, timeout=5, context=trusting)

    def stop(self) -> None:
        """End it and wait."""


class Bare(Server):
    """The model server itself: what would be left if a worker cost nothing."""

    name = "bare"

    @classmethod
    def where_plain(cls, around: Surroundings, tls: bool) -> Bare | None:
        """It does not speak TLS."""
        return None if tls else cls(around, tls)

    def start(self, folder: Path) -> None:
        self.port = self.around.model.port

    @property
    def usage(self) -> Usage:
        return self.around.model.usage


class _Process(Server):
    """A server that is a process of ours."""

    _process: subprocess.Popen[bytes] | None = None
    _log_file: Path | None = None

    @property
    def log(self) -> str:
        return "" if self._log_file is None else self._log_file.read_text("utf-8", "replace")[-_SHOWN_LOG:]

    def start(self, folder: Path) -> None:
        self.port = free_port()
        self.prepare(folder)
        self._log_file = folder / "server.log"
        with self._log_file.open("wb") as log:
            self._process = subprocess.Popen(
                self.command(folder), env=self.variables(folder), cwd=folder, stdout=log, stderr=log
            )

    def prepare(self, folder: Path) -> None:
        """Write the files that it needs."""

    @abstractmethod
    def command(self, folder: Path) -> Sequence[str]:
        """What is run."""

    @abstractmethod
    def variables(self, folder: Path) -> Mapping[str, str]:
        """Its environment."""

    @property
    def usage(self) -> Usage:
        assert self._process is not None
        return usage(self._process.pid)

    def stop(self) -> None:
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(_STOP_WITHIN)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


class _Worker(_Process):
    """A worker in its normal state: it has a benchmark, checks signatures and reports."""

    def prepare(self, folder: Path) -> None:
        (folder / ".has_benchmark").write_text("1000000000.0", "utf-8")
        (folder / "model.log").write_text("model is loaded\nApplication startup complete.\n", "utf-8")

    def variables(self, folder: Path) -> Mapping[str, str]:
        around = self.around
        return environment(
            folder,
            self.port,
            {
                "REPORT_ADDR": around.autoscaler.url,
                "MODEL_SERVER_URL": around.model.url,
                "MASTER_TOKEN": "benchmark",
                "USE_SSL": "true" if self.tls else "false",
                "SSL_CERTFILE": str(around.certificate),
                "SSL_KEYFILE": str(around.key),
            },
        )


class Ours(_Worker):
    """This project, or another checkout of it."""

    name = "ours"
    worker = "bench_worker"

    def __init__(self, around: Surroundings, tls: bool, checkout: Path = ROOT) -> None:
        super().__init__(around, tls)
        self._checkout = checkout

    def command(self, folder: Path) -> Sequence[str]:
        app = f"pyworker:create_app('{self.worker}')"
        return [sys.executable, "-m", "gunicorn", "-c", str(self._checkout / "gunicorn.conf.py"), app]

    def variables(self, folder: Path) -> Mapping[str, str]:
        # Each checkout has a worker that is written for it.
        path = f"{self._checkout}:{self._checkout / 'tests' / 'benchmarks' / 'on_path'}"
        return {**super().variables(folder), "PYTHONPATH": path}


class Other(Ours):
    """Another checkout of this project: what a change costs or brings."""

    name = "other"


class Hello(Ours):
    """As ours, with routes that judge each response as hello_world's do."""

    name = "hello"
    worker = "bench_hello"


class OpenAI(Ours):
    """This project's worker for servers with OpenAI's API, which judges and settles each response."""

    name = "openai"
    worker = "openai"

    def path(self, load: Load) -> str:
        return "/v1/completions"

    def payload(self, load: Load) -> Mapping[str, object]:
        # The model server looks at the beginning.
        return {"stream": load.streams, **load.payload()}


class Peer(_Worker):
    """The asyncio worker of the `vastai` package; `python` has it."""

    name = "peer"

    def __init__(self, around: Surroundings, tls: bool, python: Path) -> None:
        super().__init__(around, tls)
        self._python = python

    def command(self, folder: Path) -> Sequence[str]:
        return [str(self._python), str(Path(__file__).with_name("peer_worker.py"))]

    def variables(self, folder: Path) -> Mapping[str, str]:
        # Nothing of ours may be found in its place.
        return {name: value for name, value in super().variables(folder).items() if name != "PYTHONPATH"}


class Nginx(_Process):
    """nginx as a plain reverse proxy, which neither parses nor checks what it forwards."""

    name = "nginx"

    @staticmethod
    def program() -> str | None:
        return shutil.which("nginx", path="/usr/sbin:/usr/local/sbin:/usr/bin:/usr/local/bin")

    def command(self, folder: Path) -> Sequence[str]:
        return [self.program() or "nginx", "-p", str(folder), "-c", str(folder / "nginx.conf")]

    def variables(self, folder: Path) -> Mapping[str, str]:
        return {}

    def prepare(self, folder: Path) -> None:
        around = self.around
        secure = f" ssl; ssl_certificate {around.certificate}; ssl_certificate_key {around.key}"
        (folder / "nginx.conf").write_text(
            f"""daemon off; pid nginx.pid; error_log stderr;
            worker_processes auto; worker_rlimit_nofile {_MANY_DESCRIPTORS};
            events {{ worker_connections {_MANY_DESCRIPTORS // 2}; }}
            http {{
              access_log off; client_max_body_size 0; client_body_buffer_size 16m;
              client_body_temp_path body; proxy_temp_path proxy; fastcgi_temp_path fastcgi;
              uwsgi_temp_path uwsgi; scgi_temp_path scgi; keepalive_requests 1000000;
              upstream model {{ server 127.0.0.1:{around.model.port}; keepalive 1024;
                                keepalive_requests 1000000; }}
              server {{
                listen 127.0.0.1:{self.port} backlog=4096{secure if self.tls else ""};
                location / {{
                  proxy_pass http://model; proxy_http_version 1.1; proxy_set_header Connection "";
                  proxy_buffering off;
                }}
              }}
            }}
            """,
            "utf-8",
        )
