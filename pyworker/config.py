"""The environment, read once, as a frozen and validated `Settings`.

Nothing else in the package reads the environment. An invalid value raises `ConfigError` with one line that
names the variable, its value (unless it is a secret) and what is allowed.
"""

from __future__ import annotations

import os
import resource
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import TextIO

from pyworker.errors import ConfigError
from pyworker.tls import CertificateFiles
from pyworker.variables import (
    VariableReader,
    base_url,
    base_urls,
    boolean,
    certificates_file,
    existing_folder,
    header_value,
    host_name,
    integer,
    model_server_url,
    path_or_base_url,
    port_number,
    seconds,
    url_host,
)

# Pool threads kept free of forwarded requests, so that /ping, health and refusals answer under full load.
RESERVED_THREADS = 16
ONE_PROCESS = (
    "it runs in exactly one process, because the queue, the replay window and the figures it reports live "
    "in that process; set WORKER_THREADS for more requests at once"
)
_MIB = 2**20
#: One in this number of file descriptors may be a client's connection.
_SHARE = 4
# Characters of a phrase, which is searched in each line of the model's log.
_MAX_PHRASE = 1000


class ReadinessSource(Enum):
    """What says that the model is loaded: a line of its log, its health, or whichever comes first."""

    LOGS = "logs"
    HEALTH = "health"
    EITHER = "either"

    @property
    def by_log(self) -> bool:
        return self is not ReadinessSource.HEALTH

    @property
    def by_health(self) -> bool:
        return self is not ReadinessSource.LOGS


@dataclass(frozen=True)
class Settings:
    """All settings. Durations in seconds, sizes in bytes."""

    backend: str | None = None
    model_log: Path | None = None
    model_server_url: str | None = None
    container_id: int = 0
    report_addrs: tuple[str, ...] = ("https://run.vast.ai",)
    worker_host: str = "0.0.0.0"
    worker_port: int = 3000
    worker_http_port: int = 3001
    public_url: str | None = None
    check_url: bool = True
    use_ssl: bool = False
    ssl_certfile: Path = Path("/etc/instance.crt")
    ssl_keyfile: Path = Path("/etc/instance.key")
    unsecured: bool = False
    master_token: str = field(default="", repr=False)
    model_health_endpoint: str | None = None
    health_failures: int = 3
    model_readiness: ReadinessSource = ReadinessSource.LOGS
    model_loading_warn_after: float = 300.0
    model_load_log_msg: tuple[str, ...] | None = None
    model_error_log_msgs: tuple[str, ...] | None = None
    model_info_log_msgs: tuple[str, ...] | None = None
    model_api_key: str = field(default="", repr=False)
    model_timeout: float | None = None
    model_ca_file: Path | None = None
    model_ready_timeout: float = 300.0
    max_body_bytes: int = 128 * _MIB
    max_sessions: int | None = None
    tokenizer: str | None = None
    state_dir: Path = Path()
    update_flag: Path = Path("/.force_update")
    threads: int = 1024
    #: Number of threads that were asked for beyond what the limit of open files allows.
    threads_refused: int = 0
    workers: int = 1
    drain_timeout: float = 25.0
    log_level: str = "INFO"

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None) -> Settings:
        """Read an environment (default: that of the process); raises `ConfigError`."""
        env = VariableReader(os.environ if environ is None else environ)
        worker_port = env.get("WORKER_PORT", cls.worker_port, port_number)
        worker_http_port = env.get("WORKER_HTTP_PORT", _neighbour(worker_port), port_number)
        if worker_http_port == worker_port:
            raise ConfigError(f"WORKER_HTTP_PORT={worker_port} is not valid: it is WORKER_PORT already")
        use_ssl = env.get("USE_SSL", cls.use_ssl, boolean)
        threads = env.get("WORKER_THREADS", cls.threads, integer(RESERVED_THREADS + 1))
        fitting = min(threads, most_connections(descriptor_limit()) - RESERVED_THREADS)
        if fitting <= RESERVED_THREADS:
            env.problems.append(
                f"the limit of open files is {descriptor_limit()}, which is too low: raise it to "
                f"{_SHARE * (2 * RESERVED_THREADS + 1)} at least, or better to 65536 (ulimit -Hn)"
            )
        settings = cls(
            backend=env.get("BACKEND", None, str),
            model_log=env.get("MODEL_LOG", None, Path),
            model_server_url=env.get("MODEL_SERVER_URL", None, model_server_url),
            container_id=env.get("CONTAINER_ID", cls.container_id, integer(0)),
            report_addrs=env.get("REPORT_ADDR", cls.report_addrs, base_urls),
            worker_host=env.get("WORKER_HOST", cls.worker_host, host_name),
            worker_port=worker_port,
            worker_http_port=worker_http_port,
            public_url=_public_url(env, worker_port, use_ssl),
            check_url=env.get("CHECK_URL", cls.check_url, boolean),
            use_ssl=use_ssl,
            ssl_certfile=env.get("SSL_CERTFILE", cls.ssl_certfile, Path),
            ssl_keyfile=env.get("SSL_KEYFILE", cls.ssl_keyfile, Path),
            unsecured=env.get("UNSECURED", cls.unsecured, boolean),
            master_token=env.get("MASTER_TOKEN", cls.master_token, str),
            model_health_endpoint=env.get("MODEL_HEALTH_ENDPOINT", None, path_or_base_url),
            health_failures=env.get("HEALTH_FAILURES", cls.health_failures, integer(1)),
            model_readiness=env.get("MODEL_READINESS", cls.model_readiness, _readiness_source),
            model_loading_warn_after=env.get(
                "MODEL_LOADING_WARN_AFTER", cls.model_loading_warn_after, seconds
            ),
            model_load_log_msg=env.get("MODEL_LOAD_LOG_MSG", None, _phrases),
            model_error_log_msgs=env.get("MODEL_ERROR_LOG_MSGS", None, _phrases),
            model_info_log_msgs=env.get("MODEL_INFO_LOG_MSGS", None, _phrases),
            model_api_key=env.get("MODEL_API_KEY", cls.model_api_key, header_value, secret=True),
            model_timeout=env.get("MODEL_TIMEOUT", cls.model_timeout, seconds),
            model_ca_file=env.get("MODEL_CA_FILE", None, certificates_file),
            model_ready_timeout=env.get("MODEL_READY_TIMEOUT", cls.model_ready_timeout, seconds),
            max_body_bytes=env.get("MAX_BODY_BYTES", cls.max_body_bytes, integer(1)),
            max_sessions=env.get("MAX_SESSIONS", None, integer(0)),
            tokenizer=env.get("TOKENIZER", None, str),
            state_dir=env.get("PYWORKER_STATE_DIR", cls.state_dir, existing_folder),
            update_flag=env.get("PYWORKER_UPDATE_FLAG", cls.update_flag, Path),
            threads=fitting,
            threads_refused=threads - fitting,
            workers=env.get("WEB_CONCURRENCY", cls.workers, _one_process),
            drain_timeout=env.get("DRAIN_TIMEOUT", cls.drain_timeout, seconds),
            log_level=env.get("LOG_LEVEL", cls.log_level, _log_level),
        )
        if env.problems:
            raise ConfigError(*env.problems)
        return settings

    @property
    def bind(self) -> str:
        """The address to listen on, in gunicorn's form: IPv6 in brackets."""
        return f"{url_host(self.worker_host)}:{self.worker_port}"

    @property
    def max_in_hand(self) -> int:
        """Maximum number of requests that are queued or working: each holds a pool thread."""
        return self.threads - RESERVED_THREADS

    @property
    def benchmark_file(self) -> Path:
        """The file that keeps the result of the benchmark over a restart."""
        return self.state_dir / ".has_benchmark"

    @property
    def loaded_file(self) -> Path:
        """The file that says, to the worker process after a crash, that the model is loaded."""
        return self.state_dir / ".model_loaded"

    @property
    def unsent_file(self) -> Path:
        """The file that keeps finished requests until the autoscaler has accepted them."""
        return self.state_dir / ".unsent_requests"

    def require_identity(self) -> None:
        """Raise `ConfigError` if the worker could neither report nor check signatures.

        Called when a server starts; a test client does not need it.
        """
        if self.unsecured:
            return
        problems: list[str] = []
        if self.public_url is None and self.check_url:
            problems.append(
                "the public URL of this worker is unknown: set PUBLIC_IPADDR and "
                f"VAST_TCP_PORT_{self.worker_port}, or PYWORKER_PUBLIC_URL; "
                "CHECK_URL=false accepts signatures made for any URL"
            )
        if self.container_id == 0:
            problems.append("CONTAINER_ID is not set: set it to the integer id of this instance")
        if problems:
            raise ConfigError(*problems)

    @property
    def certificate_files(self) -> CertificateFiles:
        """The certificate and key for TLS."""
        return CertificateFiles(self.ssl_certfile, self.ssl_keyfile)

    def require_certificate(self) -> None:
        """Raise `ConfigError` if TLS is on and its files cannot be used."""
        if self.use_ssl:
            self.certificate_files.load()


def _neighbour(port: int) -> int:
    return port + 1 if port < 65535 else port - 1


def _one_process(text: str) -> int:
    if integer(1)(text) != 1:
        raise ValueError(ONE_PROCESS)
    return 1


def _readiness_source(text: str) -> ReadinessSource:
    try:
        return ReadinessSource(text.lower())
    except ValueError:
        raise ValueError(f"expected one of {', '.join(one.value for one in ReadinessSource)}") from None


def _phrases(text: str) -> tuple[str, ...]:
    """One phrase per line; empty lines are ignored."""
    phrases = tuple(line.strip() for line in text.splitlines() if line.strip())
    if any(len(phrase) > _MAX_PHRASE for phrase in phrases):
        raise ValueError(f"expected lines of at most {_MAX_PHRASE} characters")
    return phrases


def _log_level(text: str) -> str:
    levels = ("DEBUG", "INFO", "WARNING", "ERROR")
    if text.upper() not in levels:
        raise ValueError(f"expected one of {', '.join(levels)}")
    return text.upper()


def _public_url(env: VariableReader, worker_port: int, use_ssl: bool) -> str | None:
    """The URL at which clients reach this worker; None if it is unknown."""
    given = env.get("PYWORKER_PUBLIC_URL", None, base_url)
    if given is not None:
        return given
    host = env.get("PUBLIC_IPADDR", None, url_host)
    port = env.get(f"VAST_TCP_PORT_{worker_port}", None, port_number)
    if host is None or port is None:
        return None
    return f"{'https' if use_ssl else 'http'}://{host}:{port}"


def descriptor_limit() -> int:
    """Maximum number of open files after `raise_descriptor_limit`."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    # An "infinite" limit makes some libraries walk every possible descriptor.
    return min(hard, 2**20) if hard != resource.RLIM_INFINITY else 2**20


def raise_descriptor_limit() -> int:
    """Raise the soft limit of open files to the hard limit; returns the new limit."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = descriptor_limit()
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return wanted


def most_connections(descriptors: int) -> int:
    """Maximum number of client connections. Each may need another one to the model server, and files."""
    return descriptors // _SHARE


def wants_colour(stream: TextIO) -> bool:
    """Whether text for `stream` may be coloured: on a terminal, unless NO_COLOR is set (no-color.org)."""
    return stream.isatty() and not os.environ.get("NO_COLOR")
