"""The environment as a worker reads it: defaults, values, and what a wrong one is told."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import FrozenInstanceError, dataclass, fields
from pathlib import Path
from typing import Any

import pytest
from requests.utils import DEFAULT_CA_BUNDLE_PATH

from pyworker.config import RESERVED_THREADS, ReadinessSource, Settings, parsers, setting
from pyworker.errors import ConfigError
from tests.support.process import ROOT

DEADLINE = 60  # seconds for a subprocess on a busy machine

#: Each variable with its field, its default, and texts with the value they stand for.
VARIABLES: list[tuple[str, str, object, Mapping[str, object]]] = [
    ("BACKEND", "backend", None, {"hello_world": "hello_world"}),
    ("MODEL_LOG", "model_log", None, {"/var/log/model.log": Path("/var/log/model.log")}),
    (
        "MODEL_SERVER_URL",
        "model_server_url",
        None,
        {
            "http://127.0.0.1:5001": "http://127.0.0.1:5001",
            "https://model/base/": "https://model/base",
            "http://[::1]:80": "http://[::1]:80",
        },
    ),
    ("CONTAINER_ID", "container_id", 0, {"0": 0, "17": 17, str(2**63 - 1): 2**63 - 1}),
    (
        "REPORT_ADDR",
        "report_addrs",
        ("https://run.vast.ai",),
        {
            "http://a:1/": ("http://a:1",),
            "https://a, http://b:2 ,": ("https://a", "http://b:2"),
        },
    ),
    ("WORKER_HOST", "worker_host", "0.0.0.0", {"127.0.0.1": "127.0.0.1", "[::]": "::", "::1": "::1"}),
    ("WORKER_PORT", "worker_port", 3000, {"1": 1, "65535": 65535}),
    ("WORKER_HTTP_PORT", "worker_http_port", 3001, {"1": 1, "65535": 65535}),
    ("PYWORKER_PUBLIC_URL", "public_url", None, {"https://tunnel.example/": "https://tunnel.example"}),
    ("CHECK_URL", "check_url", True, {"false": False, "true": True}),
    (
        "USE_SSL",
        "use_ssl",
        False,
        {
            "true": True,
            "TRUE": True,
            "1": True,
            "yes": True,
            "on": True,
            "No": False,
            "0": False,
            "off": False,
        },
    ),
    ("SSL_CERTFILE", "ssl_certfile", Path("/etc/instance.crt"), {"/a.crt": Path("/a.crt")}),
    ("SSL_KEYFILE", "ssl_keyfile", Path("/etc/instance.key"), {"/a.key": Path("/a.key")}),
    ("UNSECURED", "unsecured", False, {"true": True}),
    ("PYWORKER_DOCS", "docs", False, {"true": True}),
    ("MASTER_TOKEN", "master_token", "", {"s3cret": "s3cret"}),
    (
        "MODEL_HEALTH_ENDPOINT",
        "model_health_endpoint",
        None,
        {"/health": "/health", "http://127.0.0.1:9/h": "http://127.0.0.1:9/h"},
    ),
    ("HEALTH_FAILURES", "health_failures", 3, {"1": 1}),
    (
        "MODEL_READINESS",
        "model_readiness",
        None,
        {
            "logs": ReadinessSource.LOGS,
            "health": ReadinessSource.HEALTH,
            "Either": ReadinessSource.EITHER,
        },
    ),
    ("MODEL_LOADING_WARN_AFTER", "model_loading_warn_after", 300.0, {"0.5": 0.5, "60": 60.0}),
    ("MODEL_LOAD_LOG_MSG", "model_load_log_msg", None, {" is ready\n": ("is ready",)}),
    ("MODEL_ERROR_LOG_MSGS", "model_error_log_msgs", None, {"a: b\n\n  c, d \r\n": ("a: b", "c, d")}),
    ("MODEL_INFO_LOG_MSGS", "model_info_log_msgs", None, {"x\ny": ("x", "y")}),
    ("OPENAI_API_KEY_DIGESTS", "openai_api_key_digests", (), {"0A" * 32: ("0a" * 32,)}),
    ("MODEL_API_KEY", "model_api_key", "", {"sk-1": "sk-1"}),
    ("MODEL_TIMEOUT", "model_timeout", None, {"0.5": 0.5, "600": 600.0}),
    ("MODEL_CA_FILE", "model_ca_file", None, {DEFAULT_CA_BUNDLE_PATH: Path(DEFAULT_CA_BUNDLE_PATH)}),
    ("MODEL_READY_TIMEOUT", "model_ready_timeout", 300.0, {"1e3": 1000.0}),
    ("MAX_BODY_BYTES", "max_body_bytes", 128 * 2**20, {"1": 1}),
    ("MAX_SESSIONS", "max_sessions", None, {"0": 0, "25": 25}),
    ("TOKENIZER", "tokenizer", None, {"gpt2": "gpt2"}),
    ("PYWORKER_STATE_DIR", "state_dir", Path(), {"/": Path("/")}),
    ("PYWORKER_UPDATE_FLAG", "update_flag", Path("/.force_update"), {"/tmp/flag": Path("/tmp/flag")}),
    ("WORKER_THREADS", "threads", 1024, {"17": 17}),
    ("CPU_AFFINITY", "cpu_affinity", "auto", {"None": "none"}),
    ("WEB_CONCURRENCY", "workers", 1, {"1": 1}),
    ("DRAIN_TIMEOUT", "drain_timeout", 25.0, {"5": 5.0}),
    ("DOLLARS_PER_HOUR", "dollars_per_hour", 0.0, {"0.35": 0.35, "2": 2.0}),
    ("MODEL_METRICS_ENDPOINT", "model_metrics_endpoint", "/metrics", {"/prometheus": "/prometheus"}),
    ("OTEL_EXPORTER_OTLP_ENDPOINT", "otlp_endpoint", None, {"http://otel:4318/": "http://otel:4318"}),
    ("LOG_LEVEL", "log_level", "INFO", {"debug": "DEBUG", "Warning": "WARNING", "ERROR": "ERROR"}),
    ("LOG_FORMAT", "log_format", "text", {"JSON": "json"}),
    ("LOG_REQUESTS", "log_requests", "sampled", {"all": "all", "none": "none"}),
]

INTEGERS = ["x", "1.5", "0x10", "1e3", "", "nan", "9" * 5000, "--1"]
SECONDS = ["0", "-1", "nan", "inf", "-inf", "1e999", "1e11", "10000001", "soon", "5s"]
BOOLEANS = ["maybe", "2", "truee", "null"]
URLS = [
    "127.0.0.1:5001",
    "ftp://host",
    "http://",
    "http:///path",
    "http://[::1",
    "http://[",
    "host",
    "http://host?key=1",
    "http://host#part",
    "http://ho st",
    "//host",
]
URL_HINT = "expected a URL such as http://127.0.0.1:5001"
PORTS_IN_URLS = ["http://host:99999", "http://host:x"]
PORT_HINT = "the port of the URL is not a number between 0 and 65535"

#: Variable, wrong values, and what the message says is allowed.
INVALID: list[tuple[str, list[str], str]] = [
    ("CONTAINER_ID", INTEGERS, "expected an integer"),
    ("CONTAINER_ID", ["-1", str(2**63)], "expected an integer of at least 0"),
    ("WORKER_PORT", INTEGERS, "expected an integer"),
    ("WORKER_PORT", ["0", "65536", "-3000"], "expected an integer between 1 and 65535"),
    ("VAST_TCP_PORT_3000", ["0", "65536"], "expected an integer between 1 and 65535"),
    ("HEALTH_FAILURES", ["0"], "expected an integer of at least 1"),
    ("MAX_BODY_BYTES", ["0", "-1"], "expected an integer of at least 1"),
    ("MAX_BODY_BYTES", ["128M"], "expected an integer"),
    ("WORKER_THREADS", ["16", "0"], f"expected an integer of at least {RESERVED_THREADS + 1}"),
    ("USE_SSL", BOOLEANS, "expected true or false"),
    ("CHECK_URL", BOOLEANS, "expected true or false"),
    ("UNSECURED", BOOLEANS, "expected true or false"),
    ("PYWORKER_DOCS", BOOLEANS, "expected true or false"),
    ("MODEL_TIMEOUT", SECONDS, "expected a number of seconds above 0 and up to 10000000"),
    ("MODEL_READY_TIMEOUT", SECONDS, "expected a number of seconds above 0 and up to 10000000"),
    ("MODEL_READINESS", ["log", "both", "true"], "expected one of logs, health, either"),
    ("MODEL_ERROR_LOG_MSGS", ["x" * 1001], "expected lines of at most 1000 characters"),
    ("MODEL_LOADING_WARN_AFTER", SECONDS, "expected a number of seconds above 0 and up to 10000000"),
    ("DRAIN_TIMEOUT", SECONDS, "expected a number of seconds above 0 and up to 10000000"),
    ("MODEL_SERVER_URL", URLS, URL_HINT),
    ("MODEL_SERVER_URL", ["unix:/run/model.sock", "UNIX:/x"], "Unix sockets are not supported"),
    ("MODEL_CA_FILE", ["/no/such/file", "/dev/null", __file__], "expected a PEM file with certificates"),
    ("MODEL_SERVER_URL", PORTS_IN_URLS, PORT_HINT),
    ("PYWORKER_PUBLIC_URL", URLS, URL_HINT),
    ("PYWORKER_PUBLIC_URL", PORTS_IN_URLS, PORT_HINT),
    ("REPORT_ADDR", [*URLS, "http://good,bad", ",", " , "], URL_HINT),
    ("REPORT_ADDR", PORTS_IN_URLS, PORT_HINT),
    ("MODEL_HEALTH_ENDPOINT", URLS[:3], URL_HINT),
    ("PYWORKER_STATE_DIR", ["/no/such/folder", "/dev/null", "x" * 5000], "expected a folder that exists"),
    ("DOLLARS_PER_HOUR", ["-1", "nan", "inf", "$1", "1000001"], "expected a number of dollars between 0"),
    ("CPU_AFFINITY", ["3"], "expected one of auto, none"),
    ("LOG_LEVEL", ["loud", "10"], "expected one of DEBUG, INFO, WARNING, ERROR"),
    ("LOG_FORMAT", ["xml"], "expected one of text, json"),
    ("LOG_REQUESTS", ["some"], "expected one of all, sampled, failed, none"),
    (
        "PUBLIC_IPADDR",
        ["a b", "host/path", "user@host", "a:b", "[::1", "::g", "host:80"],
        "expected an IP address",
    ),
]


@pytest.mark.parametrize(
    ("text", "bound"), [("::", "[::]:3000"), ("[::1]", "[::1]:3000"), ("0.0.0.0", "0.0.0.0:3000")]
)
def test_an_address_of_ipv6_is_bound_in_brackets(text: str, bound: str) -> None:
    assert Settings.from_env({"WORKER_HOST": text}).bind == bound


def test_the_table_names_every_field() -> None:
    names = [field.name for field in fields(Settings) if field.metadata]
    assert [field for _, field, _, _ in VARIABLES] == names


@pytest.mark.parametrize(("variable", "field", "default", "valid"), VARIABLES)
def test_default_and_values(variable: str, field: str, default: object, valid: Mapping[str, object]) -> None:
    assert getattr(Settings.from_env({}), field) == default
    assert getattr(Settings(), field) == default
    for text in ("", "  ", "\t"):
        assert getattr(Settings.from_env({variable: text}), field) == default, "empty counts as not set"
    for text, value in valid.items():
        read = getattr(Settings.from_env({variable: f" {text} "}), field)
        assert read == value
        assert type(read) is type(value)


@pytest.mark.parametrize(
    ("variable", "value", "hint"),
    [(variable, value, hint) for variable, values, hint in INVALID for value in values if value],
)
def test_a_wrong_value_is_told_in_one_line(variable: str, value: str, hint: str) -> None:
    environ = {"PUBLIC_IPADDR": "203.0.113.7", variable: value}

    with pytest.raises(ConfigError) as caught:
        Settings.from_env(environ)

    message = str(caught.value)
    assert message.startswith(f"{variable}={value.strip()!r} is not valid: {hint}")
    assert "\n" not in message


def test_a_value_with_line_breaks_is_told_in_one_line() -> None:
    with pytest.raises(ConfigError, match=r"^USE_SSL='yes\\nplease' is not valid: expected true or false$"):
        Settings.from_env({"USE_SSL": "yes\nplease"})


@pytest.mark.parametrize("count", ["2", "16"])
def test_more_than_one_process_is_refused_with_the_reason(count: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Settings.from_env({"WEB_CONCURRENCY": count})

    message = str(caught.value)
    assert message.startswith(f"WEB_CONCURRENCY='{count}' is not valid: ")
    assert "exactly one process" in message
    assert "replay window" in message
    assert "WORKER_THREADS" in message, "it names what to set instead"


@pytest.mark.parametrize("count", ["0", "many"])
def test_a_senseless_number_of_processes_is_refused(count: str) -> None:
    with pytest.raises(ConfigError, match=f"^WEB_CONCURRENCY='{count}' is not valid: expected an integer"):
        Settings.from_env({"WEB_CONCURRENCY": count})


def test_every_wrong_value_is_told() -> None:
    with pytest.raises(ConfigError) as caught:
        Settings.from_env({"USE_SSL": "perhaps", "HEALTH_FAILURES": "0", "LOG_LEVEL": "loud"})

    assert [problem.partition("=")[0] for problem in caught.value.problems] == [
        "USE_SSL",
        "HEALTH_FAILURES",
        "LOG_LEVEL",
    ]
    assert str(caught.value) == "; ".join(caught.value.problems)


def test_secrets_are_hidden() -> None:
    settings = Settings.from_env({"MASTER_TOKEN": "open-sesame", "MODEL_API_KEY": "sk-1234"})

    assert "sesame" not in repr(settings)
    assert "sk-1234" not in repr(settings)


@pytest.mark.parametrize("key", ["sk-1234\nX-Other: 1", "sk-1234é", "sk-\x001234"])
def test_a_key_that_fits_in_no_header_is_refused_without_showing_it(key: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Settings.from_env({"MODEL_API_KEY": key})

    message = str(caught.value)
    assert message.startswith("MODEL_API_KEY=(hidden) is not valid: expected printable ASCII")
    assert "1234" not in message


def test_settings_are_frozen() -> None:
    settings: Any = Settings()

    with pytest.raises(FrozenInstanceError):
        settings.worker_port = 1


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, None),
        ({"PUBLIC_IPADDR": "203.0.113.7"}, None),
        ({"VAST_TCP_PORT_3000": "40123"}, None),
        ({"PUBLIC_IPADDR": "203.0.113.7", "VAST_TCP_PORT_3000": "40123"}, "http://203.0.113.7:40123"),
        ({"PUBLIC_IPADDR": "worker.example", "VAST_TCP_PORT_3000": "40123"}, "http://worker.example:40123"),
        ({"PUBLIC_IPADDR": "2001:db8::7", "VAST_TCP_PORT_3000": "40123"}, "http://[2001:db8::7]:40123"),
        ({"PUBLIC_IPADDR": "[2001:db8::7]", "VAST_TCP_PORT_3000": "40123"}, "http://[2001:db8::7]:40123"),
        (
            {"PUBLIC_IPADDR": "203.0.113.7", "VAST_TCP_PORT_3000": "40123", "USE_SSL": "true"},
            "https://203.0.113.7:40123",
        ),
        (
            {"PUBLIC_IPADDR": "203.0.113.7", "VAST_TCP_PORT_8080": "40123", "WORKER_PORT": "8080"},
            "http://203.0.113.7:40123",
        ),
        ({"PUBLIC_IPADDR": "203.0.113.7", "VAST_TCP_PORT_3000": "1", "WORKER_PORT": "8080"}, None),
        (
            {
                "PUBLIC_IPADDR": "203.0.113.7",
                "VAST_TCP_PORT_3000": "40123",
                "USE_SSL": "true",
                "PYWORKER_PUBLIC_URL": "http://tunnel.example:81",
            },
            "http://tunnel.example:81",
        ),
    ],
)
def test_public_url(environ: Mapping[str, str], expected: str | None) -> None:
    assert Settings.from_env(environ).public_url == expected


def test_a_worker_without_an_identity_cannot_start() -> None:
    with pytest.raises(ConfigError, match="VAST_TCP_PORT_8080, or PYWORKER_PUBLIC_URL"):
        Settings.from_env({"CONTAINER_ID": "7", "WORKER_PORT": "8080"}).require_identity()
    with pytest.raises(ConfigError, match="CONTAINER_ID is not set"):
        Settings.from_env({"PYWORKER_PUBLIC_URL": "http://a:1"}).require_identity()
    with pytest.raises(ConfigError, match="CONTAINER_ID is not set"):
        Settings.from_env({"CHECK_URL": "false"}).require_identity()


@pytest.mark.parametrize(
    "environ",
    [
        {"UNSECURED": "true"},
        {"CONTAINER_ID": "7", "PYWORKER_PUBLIC_URL": "http://a:1"},
        {"CONTAINER_ID": "7", "CHECK_URL": "false"},
    ],
)
def test_an_identity_that_is_enough(environ: Mapping[str, str]) -> None:
    Settings.from_env(environ).require_identity()


def test_derived_values(tmp_path: Path) -> None:
    settings = Settings.from_env({"WORKER_THREADS": "17", "PYWORKER_STATE_DIR": str(tmp_path)})

    assert settings.max_in_hand == 1
    assert settings.benchmark_file == tmp_path / ".has_benchmark"
    assert Settings().benchmark_file == Path(".has_benchmark")


def test_the_process_environment_is_the_default() -> None:
    """In a process of its own: this one's environment stays as it is."""
    program = "from pyworker.config import Settings; print(Settings.from_env().worker_port)"
    environ = {**os.environ, "WORKER_PORT": "4321"}

    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        env=environ,
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=True,
    )

    assert done.stdout == "4321\n"


def test_threads_that_descriptors_do_not_allow_are_refused() -> None:
    program = (
        "import resource\n"
        "from pyworker.config import Settings\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))\n"
        "for asked in '1024', '48', '20':\n"
        "    settings = Settings.from_env({'WORKER_THREADS': asked})\n"
        "    print(settings.threads, settings.threads_refused, settings.max_in_hand)\n"
    )
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=DEADLINE, check=True)
    assert done.stdout.splitlines() == ["48 976 32", "48 0 32", "20 0 4"]


def test_the_descriptor_limit_is_raised() -> None:
    program = (
        "import resource\n"
        "from pyworker.config import raise_descriptor_limit\n"
        "hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (64, min(hard, 512)))\n"
        "print(raise_descriptor_limit(), resource.getrlimit(resource.RLIMIT_NOFILE))\n"
    )

    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=True,
    )

    assert done.stdout == "512 (512, 512)\n"


# -- a worker's own --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class OwnSettings:
    """What a worker may read."""

    steps: int = setting("BENCHMARK_STEPS", 20, parsers.integer(1, 1000))
    key: str = setting("KEY_OF_THE_WORKER", "", parsers.header_value, secret=True)


def test_a_worker_reads_its_own_variables() -> None:
    settings = Settings.from_env({"BENCHMARK_STEPS": " 30 ", "KEY_OF_THE_WORKER": "k"})
    assert settings.read(OwnSettings) == OwnSettings(30, "k")
    assert Settings().read(OwnSettings) == OwnSettings()
    assert Settings.from_env({"BENCHMARK_STEPS": ""}).read(OwnSettings) == OwnSettings()


def test_every_fault_of_them_is_named_and_no_secret_told() -> None:
    settings = Settings.from_env({"BENCHMARK_STEPS": "0", "KEY_OF_THE_WORKER": "k\u00e9y"})
    with pytest.raises(ConfigError) as raised:
        settings.read(OwnSettings)
    assert raised.value.problems == (
        "BENCHMARK_STEPS='0' is not valid: expected an integer between 1 and 1000",
        "KEY_OF_THE_WORKER=(hidden) is not valid: expected printable ASCII characters only",
    )
    assert "k\u00e9y" not in repr(settings)


def test_settings_of_two_environments_are_alike_if_their_values_are() -> None:
    assert Settings.from_env({"UNRELATED": "1"}) == Settings.from_env({})
    assert hash(Settings.from_env({"UNRELATED": "1"})) == hash(Settings.from_env({}))
