"""The environment, read once, as a frozen and validated `Settings`.

An invalid value raises `ConfigError` with one line that names the variable, its value (unless it is a secret)
and what is allowed.

    parsers  reads environment variables, and parses their text
"""

from __future__ import annotations

import os
import resource
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from enum import Enum
from pathlib import Path
from typing import Any, TextIO, TypeVar

from pyworker.config import parsers
from pyworker.errors import ConfigError

T = TypeVar("T")

# Pool threads kept free of forwarded requests, for /ping, /healthcheck and refusals under full load.
RESERVED_THREADS = 16
ONE_PROCESS = (
    "it runs in exactly one process, because the queue, the replay window and the figures it reports live "
    "in that process; set WORKER_THREADS for more concurrent requests"
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


def _one_process(text: str) -> int:
    if parsers.integer(1)(text) != 1:
        raise ValueError(ONE_PROCESS)
    return 1


def _phrases(text: str) -> tuple[str, ...]:
    """One phrase per line; empty lines are ignored."""
    phrases = tuple(line.strip() for line in text.splitlines() if line.strip())
    if any(len(phrase) > _MAX_PHRASE for phrase in phrases):
        raise ValueError(f"expected lines of at most {_MAX_PHRASE} characters")
    return phrases


_readiness_source = parsers.one_of({source.value: source for source in ReadinessSource})
_cpu_affinity = parsers.one_of({name: name for name in ("auto", "none")})
_log_level = parsers.one_of({level: level for level in ("DEBUG", "INFO", "WARNING", "ERROR")})
_log_format = parsers.one_of({name: name for name in ("text", "json")})
_log_requests = parsers.one_of({name: name for name in ("all", "sampled", "failed", "none")})


def setting(variable: str, default: T, parse: Callable[[str], T], *, secret: bool = False) -> T:
    """A field of `Settings`: its variable, its default, and the parser of the variable's text."""
    return field(default=default, repr=not secret, metadata={"name": variable, "parse": parse})


@dataclass(frozen=True)
class Settings:
    """All settings. Durations in seconds, sizes in bytes."""

    backend: str | None = setting("BACKEND", None, str)
    model_log: Path | None = setting("MODEL_LOG", None, Path)
    model_server_url: str | None = setting("MODEL_SERVER_URL", None, parsers.model_server_url)
    container_id: int = setting("CONTAINER_ID", 0, parsers.integer(0))
    report_addrs: tuple[str, ...] = setting("REPORT_ADDR", ("https://run.vast.ai",), parsers.base_urls)
    worker_host: str = setting("WORKER_HOST", "0.0.0.0", parsers.host_name)
    worker_port: int = setting("WORKER_PORT", 3000, parsers.port_number)
    worker_http_port: int = setting("WORKER_HTTP_PORT", 3001, parsers.port_number)
    public_url: str | None = setting("PYWORKER_PUBLIC_URL", None, parsers.base_url)
    check_url: bool = setting("CHECK_URL", True, parsers.boolean)
    use_ssl: bool = setting("USE_SSL", False, parsers.boolean)
    ssl_certfile: Path = setting("SSL_CERTFILE", Path("/etc/instance.crt"), Path)
    ssl_keyfile: Path = setting("SSL_KEYFILE", Path("/etc/instance.key"), Path)
    unsecured: bool = setting("UNSECURED", False, parsers.boolean)
    docs: bool = setting("PYWORKER_DOCS", False, parsers.boolean)
    master_token: str = setting("MASTER_TOKEN", "", str, secret=True)
    model_health_endpoint: str | None = setting("MODEL_HEALTH_ENDPOINT", None, parsers.path_or_base_url)
    health_failures: int = setting("HEALTH_FAILURES", 3, parsers.integer(1))
    #: None: as `Backend.readiness` finds it.
    model_readiness: ReadinessSource | None = setting("MODEL_READINESS", None, _readiness_source)
    model_loading_warn_after: float = setting("MODEL_LOADING_WARN_AFTER", 300.0, parsers.seconds)
    model_load_log_msg: tuple[str, ...] | None = setting("MODEL_LOAD_LOG_MSG", None, _phrases)
    model_error_log_msgs: tuple[str, ...] | None = setting("MODEL_ERROR_LOG_MSGS", None, _phrases)
    model_info_log_msgs: tuple[str, ...] | None = setting("MODEL_INFO_LOG_MSGS", None, _phrases)
    openai_api_key_digests: tuple[str, ...] = setting(
        "OPENAI_API_KEY_DIGESTS", (), parsers.key_digests, secret=True
    )
    model_api_key: str = setting("MODEL_API_KEY", "", parsers.header_value, secret=True)
    model_timeout: float | None = setting("MODEL_TIMEOUT", None, parsers.seconds)
    model_ca_file: Path | None = setting("MODEL_CA_FILE", None, parsers.certificates_file)
    model_ready_timeout: float = setting("MODEL_READY_TIMEOUT", 300.0, parsers.seconds)
    max_body_bytes: int = setting("MAX_BODY_BYTES", 128 * _MIB, parsers.integer(1))
    max_sessions: int | None = setting("MAX_SESSIONS", None, parsers.integer(0))
    tokenizer: str | None = setting("TOKENIZER", None, str)
    state_dir: Path = setting("PYWORKER_STATE_DIR", Path(), parsers.existing_folder)
    update_flag: Path = setting("PYWORKER_UPDATE_FLAG", Path("/.force_update"), Path)
    threads: int = setting("WORKER_THREADS", 1024, parsers.integer(RESERVED_THREADS + 1))
    cpu_affinity: str = setting("CPU_AFFINITY", "auto", _cpu_affinity)
    #: Number of threads that were asked for beyond what the limit of open files allows.
    threads_refused: int = 0
    # What `from_env` was given; it may hold secrets.
    _environ: Mapping[str, str] = field(default_factory=dict[str, str], repr=False, compare=False)
    workers: int = setting("WEB_CONCURRENCY", 1, _one_process)
    drain_timeout: float = setting("DRAIN_TIMEOUT", 25.0, parsers.seconds)
    dollars_per_hour: float = setting("DOLLARS_PER_HOUR", 0.0, parsers.dollars)
    model_metrics_endpoint: str = setting("MODEL_METRICS_ENDPOINT", "/metrics", parsers.path_or_base_url)
    otlp_endpoint: str | None = setting("OTEL_EXPORTER_OTLP_ENDPOINT", None, parsers.base_url)
    log_level: str = setting("LOG_LEVEL", "INFO", _log_level)
    log_format: str = setting("LOG_FORMAT", "text", _log_format)
    log_requests: str = setting("LOG_REQUESTS", "sampled", _log_requests)

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None) -> Settings:
        """Read an environment (default: that of the process); raises `ConfigError`."""
        environ = dict(os.environ if environ is None else environ)
        env = parsers.VariableReader(environ)
        values = _values_of(cls, env)
        threads, worker_port = values["threads"], values["worker_port"]
        neighbour = worker_port + 1 if worker_port < 65535 else worker_port - 1
        values["worker_http_port"] = env.get("WORKER_HTTP_PORT", neighbour, parsers.port_number)
        if values["worker_http_port"] == worker_port:
            raise ConfigError(f"WORKER_HTTP_PORT={worker_port} is not valid: it is WORKER_PORT already")
        if values["public_url"] is None:
            values["public_url"] = _public_url(env, worker_port, values["use_ssl"])
        values["threads"] = min(threads, most_connections(descriptor_limit()) - RESERVED_THREADS)
        values["threads_refused"] = threads - values["threads"]
        if values["threads"] <= RESERVED_THREADS:
            env.problems.append(
                f"the limit of open files is {descriptor_limit()}, which is too low: raise it to "
                f"{_SHARE * (2 * RESERVED_THREADS + 1)} at least, or better to 65536 (ulimit -Hn)"
            )
        if env.problems:
            raise ConfigError(*env.problems)
        return cls(**values, _environ=environ)

    def read(self, own: type[T]) -> T:
        """The settings of a worker's own: a dataclass whose fields are made by `setting`, read from the same
        environment. Raises `ConfigError`.
        """
        env = parsers.VariableReader(self._environ)
        values = _values_of(own, env)
        if env.problems:
            raise ConfigError(*env.problems)
        return own(**values)

    @property
    def bind(self) -> str:
        """The address to listen on, in gunicorn's form: IPv6 in brackets."""
        return f"{parsers.url_host(self.worker_host)}:{self.worker_port}"

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

    @property
    def start_file(self) -> Path:
        """The file that keeps how long the last start took."""
        return self.state_dir / ".last_start"

    @property
    def secrets(self) -> tuple[str, ...]:
        """What must not be shown, wherever it stands; some may be empty."""
        return (self.master_token, self.model_api_key)

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


def _values_of(cls: type[Any], env: parsers.VariableReader) -> dict[str, Any]:
    """The values of the fields made by `setting`, by their names."""
    return {
        one.name: env.get(**one.metadata, default=one.default, secret=not one.repr)
        for one in fields(cls)
        if one.metadata
    }


def _public_url(env: parsers.VariableReader, worker_port: int, use_ssl: bool) -> str | None:
    """The URL at which clients reach this worker; None if it is unknown."""
    host = env.get("PUBLIC_IPADDR", None, parsers.url_host)
    port = env.get(f"VAST_TCP_PORT_{worker_port}", None, parsers.port_number)
    if host is None or port is None:
        return None
    return f"{'https' if use_ssl else 'http'}://{host}:{port}"


def own_environment() -> Mapping[str, str]:
    """That of this process."""
    return dict(os.environ)


def descriptor_limit() -> int:
    """Maximum number of open files after `raise_descriptor_limit`."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    # An "infinite" limit makes some libraries walk every possible descriptor.
    return min(hard, 2**20) if hard != resource.RLIM_INFINITY else 2**20


def raise_descriptor_limit() -> int:
    """Raise the soft limit of open files to the hard limit; returns the new limit."""
    limit = descriptor_limit()
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    return limit


def most_connections(descriptors: int) -> int:
    """Maximum number of client connections. Each may need another one to the model server, and files."""
    return descriptors // _SHARE


def is_instance_start(worker: str, environ: Mapping[str, str] | None = None) -> bool:
    """Whether this process was started by the bootstrap of an instance: it knows which instance this is, and
    chose the worker by BACKEND, which nobody sets who names the worker on the command line.
    """
    env = os.environ if environ is None else environ
    return env.get("BACKEND", "").strip() == worker and bool(env.get("CONTAINER_ID", "").strip())


def raw_environment() -> Mapping[str, str]:
    """The environment of this process, to be read leniently if it is what is wrong."""
    return os.environ


def set_instance_defaults() -> None:
    """On an instance, DRAIN_TIMEOUT is 7 unless it is set: its supervisor sends SIGKILL 10 s after SIGTERM.

    To be called before the settings are read, by a start that the launcher does not make.
    """
    if os.environ.get("CONTAINER_ID", "").strip():
        os.environ.setdefault("DRAIN_TIMEOUT", "7")


def wants_colour(stream: TextIO) -> bool:
    """Whether text for `stream` may be coloured: on a terminal, unless NO_COLOR is set (no-color.org)."""
    return stream.isatty() and not os.environ.get("NO_COLOR")


def master_token() -> str:
    """MASTER_TOKEN, for a program that asks a worker about itself."""
    return os.environ.get("MASTER_TOKEN", "").strip()
