"""`python -m pyworker.doctor` on instances that lack something, with real servers around it."""

from __future__ import annotations

import functools
import os
import pty
import resource
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta, timezone
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import AuthorityInformationAccessOID, NameOID

from pyworker.doctor.running import beside
from pyworker.local.autoscaler import Autoscaler
from pyworker.resources import resource_path
from tests.support.ports import free_port
from tests.support.process import environment
from tests.support.scripted import ScriptedServer, head, whole
from tests.support.stack import LOADED_LINE, NewStack

PROCESS_SECONDS = 60
WORKER = "tests.support.echo_worker"
NAMES = [
    "environment",
    "identity",
    "master token",
    "worker",
    "port",
    "certificate",
    "public key",
    "clock",
    "model server",
    "health",
    "model log",
    "tokenizer",
    "words",
    "state folder",
    "disk",
    "descriptors",
]


class Instance:
    """An instance on which everything is right, until a test changes it."""

    def __init__(self, folder: Path, autoscaler: Autoscaler, model: ScriptedServer) -> None:
        self.folder = folder
        self.model = model
        self.port = free_port()
        self.log = folder / "model.log"
        self.log.write_text(f"starting\n{LOADED_LINE}\n")
        self._variables = {
            "BACKEND": WORKER,
            "REPORT_ADDR": autoscaler.url,
            "MODEL_SERVER_URL": model.url,
            "MODEL_HEALTH_ENDPOINT": "/health",
            "MASTER_TOKEN": "0123456789abcdef",
            "MODEL_API_KEY": "the-key-of-the-model",
            # Nobody has to reach a hub for these.
            "TOKENIZER": str(resource_path("tokenizer.json")),
            "NLTK_DATA": str(folder / "nltk"),
            "HTTPS_PROXY": "http://127.0.0.1:1",
            "PYTHONUTF8": "1",
        }

    def examine(
        self,
        *arguments: str,
        prepare: Callable[[], None] | None = None,
        **variables: str,
    ) -> Examined:
        done = subprocess.run(
            [sys.executable, "-m", "pyworker.doctor", *arguments],
            env=self.environment(variables),
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=PROCESS_SECONDS,
            check=False,
            preexec_fn=prepare,
        )
        return Examined(done)

    def environment(self, variables: Mapping[str, str]) -> dict[str, str]:
        return environment(self.folder, self.port, {**self._variables, **variables})


class Examined:
    """What the doctor said."""

    def __init__(self, done: subprocess.CompletedProcess[str]) -> None:
        assert done.stderr == ""
        self.status = done.returncode
        self.output = done.stdout
        self.lines = dict[str, str]()
        for line, name in zip(done.stdout.splitlines(), NAMES, strict=True):
            assert line[6:].startswith(name), line
            self.lines[name] = f"{line[:6].strip()} {line[6 + len('master token') + 2 :]}"

    def expect(self, name: str, text: str) -> None:
        """The line of this check begins with the grade in `text` and holds the rest of it."""
        grade, _, rest = text.partition(" ")
        line = self.lines[name]
        assert line.startswith(grade + " "), self.output
        assert rest in line, self.output
        if grade == "FAIL":
            assert self.status == 1
        if grade in ("warn", "FAIL"):
            assert len(self.lines[name].partition(": ")[2]) > 5, "what to do"

    def expect_nothing_failed(self) -> None:
        assert self.status == 0, self.output
        assert "FAIL" not in self.output


@pytest.fixture
def instance(tmp_path: Path, local_autoscaler: Autoscaler, scripted_model: ScriptedServer) -> Instance:
    return Instance(tmp_path, local_autoscaler, scripted_model)


def test_an_instance_on_which_all_is_well(instance: Instance) -> None:
    examined = instance.examine()
    examined.expect_nothing_failed()
    examined.expect("environment", "ok every variable that is set is valid")
    examined.expect("environment", "ok settings of this shell, since no worker is known to run beside it")
    examined.expect("identity", f"ok instance 1 at http://127.0.0.1:{instance.port}")
    examined.expect("worker", f"ok {WORKER} in front of {instance.model.url}, 22 routes")
    examined.expect("port", f"ok 127.0.0.1:{instance.port} is free")
    examined.expect("certificate", "- not checked, because USE_SSL is not true")
    examined.expect("public key", "ok ")
    examined.expect("clock", "ok within 1 s")
    examined.expect("model server", f"ok {instance.model.url} accepts connections")
    examined.expect("health", f"ok {instance.model.url}/health is healthy")
    examined.expect("model log", f"ok {instance.log}: ")
    examined.expect("model log", f"ok ModelLoaded '{LOADED_LINE}' once, in line 2")
    examined.expect("state folder", "ok ")
    assert "GiB on / are free" in examined.lines["disk"]
    examined.expect("descriptors", "ok ")
    # No secret is shown, and a pipe gets no colours.
    examined.expect("master token", "ok set, 16 characters")
    assert "0123456789abcdef" not in examined.output
    assert "the-key-of-the-model" not in examined.output
    assert "\x1b" not in examined.output


# -- environment and worker ------------------------------------------------------------------------------


def test_every_wrong_variable_is_named_and_what_depends_on_them_is_not_checked(instance: Instance) -> None:
    examined = instance.examine(HEALTH_FAILURES="some", USE_SSL="perhaps", MODEL_API_KEY="caf\xe9")
    for problem in ("HEALTH_FAILURES='some'", "USE_SSL='perhaps'", "MODEL_API_KEY=(hidden)"):
        examined.expect("environment", f"FAIL {problem} is not valid")
    for name in ("identity", "worker", "port", "public key"):
        examined.expect(name, "- not checked, because the environment is not valid")
    examined.expect("model server", "- not checked, because the worker cannot be loaded")
    assert "GiB on / are free" in examined.lines["disk"]


def test_no_identity(instance: Instance) -> None:
    examined = instance.examine(CONTAINER_ID="", PUBLIC_IPADDR="")
    examined.expect("identity", "FAIL CONTAINER_ID is not set")
    examined.expect("identity", "FAIL the public URL of this worker is unknown")


def test_a_worker_that_anybody_may_use(instance: Instance) -> None:
    examined = instance.examine(UNSECURED="true", MASTER_TOKEN="")
    examined.expect_nothing_failed()
    examined.expect("identity", "warn UNSECURED=true")
    examined.expect("master token", "warn MASTER_TOKEN is not set")
    examined.expect("public key", "- not checked, because UNSECURED=true")


def test_signatures_for_others_are_accepted(instance: Instance) -> None:
    instance.examine(CHECK_URL="false").expect("identity", "warn CHECK_URL=false")


def test_no_such_worker(instance: Instance) -> None:
    examined = instance.examine("--worker", "no_such_worker")
    examined.expect("worker", "FAIL there is no worker 'no_such_worker'")
    examined.expect("model log", "- not checked, because the worker cannot be loaded")


def test_a_worker_with_a_fault(instance: Instance) -> None:
    package = instance.folder / "broken_worker"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "server.py").write_text("import no_such_module_at_all\n")
    examined = instance.examine("-w", "broken_worker")
    examined.expect("worker", "FAIL ModuleNotFoundError: No module named 'no_such_module_at_all'")


def test_nothing_could_say_that_the_model_is_loaded(instance: Instance) -> None:
    examined = instance.examine(MODEL_READINESS="health", MODEL_HEALTH_ENDPOINT="")
    examined.expect("worker", "FAIL set MODEL_HEALTH_ENDPOINT")
    examined.expect("health", "warn no health endpoint is configured")


# -- network ---------------------------------------------------------------------------------------------


def test_the_port_is_held_by_a_stranger(instance: Instance) -> None:
    instance.port = instance.model.port
    instance.examine().expect(
        "port", f"FAIL 127.0.0.1:{instance.port} is held by a program that does not respond"
    )


def test_the_port_is_held_by_somebody_silent(instance: Instance) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        instance.port = int(silent.getsockname()[1])
        instance.examine().expect("port", "FAIL is held by a program")


def test_an_address_that_is_not_of_this_machine(instance: Instance) -> None:
    instance.examine(WORKER_HOST="192.0.2.1").expect("port", "FAIL cannot listen at 192.0.2.1")


def test_while_the_worker_runs(instance: Instance, new_stack: NewStack) -> None:
    stack = new_stack()
    stack.start_ready()
    instance.port = stack.worker.port
    examined = instance.examine()
    examined.expect_nothing_failed()
    examined.expect("port", "ok a worker is running at")


def test_the_settings_are_those_of_the_running_worker(instance: Instance, new_stack: NewStack) -> None:
    """A shell that knows the port at most: what else the worker was started with is read from it."""
    stack = new_stack({"MODEL_HEALTH_ENDPOINT": "/health", "TOKENIZER": str(resource_path("tokenizer.json"))})
    stack.start_ready()
    own = {name: value for name, value in instance.environment({}).items() if name in ("PATH", "PYTHONPATH")}
    done = subprocess.run(
        [sys.executable, "-m", "pyworker.doctor"],
        env={**own, "PYTHONUTF8": "1", "WORKER_PORT": str(stack.worker.port), "MODEL_SERVER_URL": "nonsense"},
        cwd="/",
        capture_output=True,
        text=True,
        timeout=PROCESS_SECONDS,
        check=False,
    )
    examined = Examined(done)
    whose = f"of the worker tests.support.echo_worker that runs here (process {stack.worker.pid})"
    examined.expect(
        "environment", f"ok every variable that is set is valid; MODEL_READINESS=not set; settings {whose}"
    )
    examined.expect("identity", f"ok instance 1 at {stack.url}")
    examined.expect("worker", f"ok tests.support.echo_worker in front of {stack.model.url}")
    examined.expect("model log", "ok ")
    assert str(stack.folder) in examined.lines["state folder"]


def test_one_of_two_workers_is_not_guessed(tmp_path: Path) -> None:
    """As the kernel shows them: a master and its child each, another program, and one that has ended."""
    programs = {
        "10": ("1", b"python\0-m\0gunicorn\0pyworker:create_app('one')", b"WORKER_PORT=3000\0A=1"),
        "11": ("10", b"python\0-m\0gunicorn\0pyworker:create_app('one')", b"WORKER_PORT=3000\0A=1"),
        "20": ("1", b'gunicorn\0pyworker:create_app("my.two")', b"WORKER_PORT=4000\0"),
        "30": ("1", b"sleep\0", b""),
    }
    for pid, (parent, command, environ) in programs.items():
        folder = tmp_path / pid
        folder.mkdir()
        (folder / "cmdline").write_bytes(command)
        (folder / "environ").write_bytes(environ)
        (folder / "stat").write_text(f"{pid} (a ) b) S {parent} 0 0")
        (folder / "cwd").symlink_to("/")
    (tmp_path / "40").mkdir()
    assert beside({}, tmp_path) is None
    [first, second] = (beside({"WORKER_PORT": port}, tmp_path) for port in ("3000", "4000"))
    assert first is not None
    assert second is not None
    assert (first.pid, first.worker, first.environ["A"]) == (10, "one", "1")
    assert (second.pid, second.worker) == (20, "my.two")
    assert beside({"WORKER_PORT": "5000"}, tmp_path) is None


def test_no_public_key(instance: Instance) -> None:
    with ScriptedServer(listening=False) as closed:
        examined = instance.examine(REPORT_ADDR=closed.url)
        examined.expect("public key", f"FAIL {closed.url}/pubkey/: cannot be reached")
        examined.expect("clock", f"- not checked, because {closed.url} cannot be reached")


def test_a_public_key_that_is_none(instance: Instance) -> None:
    instance.model.script("/pubkey/", whole(b"<html>welcome</html>"))
    examined = instance.examine(REPORT_ADDR=instance.model.url)
    examined.expect("public key", f"FAIL {instance.model.url}/pubkey/ is no PEM of an RSA key")
    examined.expect("clock", "- not checked, because")
    examined.expect("clock", "- sends no time of day")


def test_one_of_two_autoscalers_gives_the_key(instance: Instance, local_autoscaler: Autoscaler) -> None:
    with ScriptedServer(listening=False) as closed:
        examined = instance.examine(REPORT_ADDR=f"{closed.url},{local_autoscaler.url}")
        examined.expect("public key", "warn another address of REPORT_ADDR gives it")


def test_a_clock_that_is_wrong(instance: Instance) -> None:
    instance.model.script("/pubkey/", whole(b"", "Date: Thu, 01 Jan 2026 00:00:00 GMT"))
    examined = instance.examine(REPORT_ADDR=instance.model.url)
    examined.expect("clock", "warn s ahead of the autoscaler's")


def test_no_model_server(instance: Instance) -> None:
    with ScriptedServer(listening=False) as closed:
        examined = instance.examine(MODEL_SERVER_URL=closed.url)
        examined.expect("model server", f"FAIL {closed.url} cannot be reached (the model server refused")
        examined.expect("health", "- not checked, because the check of the model server did not succeed")


def test_a_model_that_is_not_well(instance: Instance) -> None:
    instance.model.script("/health", head("Content-Length: 0", status="503 Loading"))
    examined = instance.examine()
    examined.expect("health", f"FAIL {instance.model.url}/health answered 503")


# -- the model's log, tokenizer and words ----------------------------------------------------------------


def test_no_log(instance: Instance) -> None:
    instance.log.unlink()
    instance.examine().expect("model log", f"FAIL {instance.log} does not exist")


def test_no_log_is_named(instance: Instance) -> None:
    for health, readiness in (("", ""), ("/health", "either")):
        examined = instance.examine(MODEL_LOG="", MODEL_HEALTH_ENDPOINT=health, MODEL_READINESS=readiness)
        examined.expect("worker", "FAIL MODEL_LOG is not set")
        examined.expect("model log", "FAIL MODEL_LOG is not set")
    for readiness in ("", "health"):
        examined = instance.examine(MODEL_LOG="", MODEL_READINESS=readiness)
        examined.expect_nothing_failed()
        examined.expect("model log", "- readiness by health needs none")


def test_a_log_that_cannot_be_read(instance: Instance) -> None:
    instance.log.unlink()
    instance.log.mkdir()
    instance.examine().expect("model log", f"FAIL {instance.log} cannot be read (Is a directory)")


def test_a_log_that_is_a_pipe_does_not_hang_it(instance: Instance) -> None:
    instance.log.unlink()
    os.mkfifo(instance.log)
    examined = instance.examine()
    examined.expect("model log", f"FAIL {instance.log} is a pipe, which cannot be followed")
    examined.expect("worker", f"FAIL MODEL_LOG={instance.log} is a pipe")


def test_an_empty_log(instance: Instance) -> None:
    instance.log.write_text("")
    instance.examine().expect("model log", "warn 0 bytes, 0 lines")


def test_a_log_without_the_phrase(instance: Instance) -> None:
    instance.log.write_text("echo model has failed\nagain: echo model has failed\n")
    examined = instance.examine()
    examined.expect("model log", "warn nothing says that the model is loaded")
    examined.expect("model log", f"warn ModelLoaded '{LOADED_LINE}' never")
    examined.expect("model log", "warn ModelError 'echo model has failed' 2 times, in lines 1 to 2")


def test_a_tokenizer_that_cannot_be_had(instance: Instance) -> None:
    examined = instance.examine("-w", "hello_world", TOKENIZER="/no/such/tokenizer")
    examined.expect("tokenizer", "warn the package's small one stands in for '/no/such/tokenizer'")
    examined = instance.examine("-w", "hello_world")
    examined.expect("tokenizer", "ok from disk")
    examined.expect("words", "warn the package's small word list is used")
    instance.examine().expect("tokenizer", "- not checked, because the payloads of this worker")


# -- the machine -----------------------------------------------------------------------------------------


def test_too_few_descriptors(instance: Instance) -> None:
    limit = functools.partial(resource.setrlimit, resource.RLIMIT_NOFILE, (256, 256))
    examined = instance.examine(prepare=limit)
    examined.expect("descriptors", "warn WORKER_THREADS=1024 is reduced to 48")
    instance.examine(prepare=limit, WORKER_THREADS="48").expect("descriptors", "ok WORKER_THREADS=48")
    hardly_any = functools.partial(resource.setrlimit, resource.RLIMIT_NOFILE, (128, 128))
    examined = instance.examine(prepare=hardly_any)
    examined.expect("environment", "FAIL the limit of open files is 128, which is too low: raise it to 132")


def test_a_state_folder_that_cannot_be_written(instance: Instance) -> None:
    # A folder in which not even root can make a file.
    instance.examine(PYWORKER_STATE_DIR="/proc/self").expect("state folder", "FAIL cannot be written")


# -- TLS -------------------------------------------------------------------------------------------------

Key = rsa.RSAPrivateKey
NOW = datetime.now(timezone.utc)


@pytest.fixture(scope="module")
def keys() -> tuple[Key, Key]:
    return rsa.generate_private_key(65537, 2048), rsa.generate_private_key(65537, 2048)


def name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def issue(
    key: Key,
    issuer_key: Key,
    *,
    subject: str = "worker",
    issuer: str = "root",
    days: tuple[float, float] = (-1, 90),
    address: str = "127.0.0.1",
    says_where: bool = False,
) -> bytes:
    """A certificate in PEM, valid from and until these days from now."""
    builder = (
        x509.CertificateBuilder()
        .subject_name(name(subject))
        .issuer_name(name(issuer))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(NOW + timedelta(days=days[0]))
        .not_valid_after(NOW + timedelta(days=days[1]))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(IPv4Address(address))]), critical=False)
    )
    if says_where:
        where = x509.UniformResourceIdentifier("http://issuer.example/root.crt")
        access = x509.AccessDescription(AuthorityInformationAccessOID.CA_ISSUERS, where)
        builder = builder.add_extension(x509.AuthorityInformationAccess([access]), critical=False)
    return builder.sign(issuer_key, hashes.SHA256()).public_bytes(Encoding.PEM)


def examine_tls(instance: Instance, certificates: bytes, key: Key) -> Examined:
    certfile, keyfile = instance.folder / "instance.crt", instance.folder / "instance.key"
    certfile.write_bytes(certificates)
    keyfile.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return instance.examine(USE_SSL="true", SSL_CERTFILE=str(certfile), SSL_KEYFILE=str(keyfile))


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, "ok clients have to trust 'CN=root', which is not in the file"),
        ({"says_where": True}, "warn append the certificate of 'CN=root'"),
        ({"days": (-90, -1)}, "FAIL 'CN=worker' expired on"),
        ({"days": (1, 90)}, "FAIL 'CN=worker' is valid from"),
        ({"days": (-1, 13.5)}, "warn valid for 13 more days"),
        ({"address": "192.0.2.1"}, "warn not made for 127.0.0.1"),
    ],
    ids=str,
)
def test_a_certificate(
    instance: Instance, keys: tuple[Key, Key], changes: Mapping[str, Any], expected: str
) -> None:
    own, root = keys
    examine_tls(instance, issue(own, root, **changes), own).expect("certificate", expected)


def test_a_chain(instance: Instance, keys: tuple[Key, Key]) -> None:
    own, root = keys
    leaf, top = issue(own, root), issue(root, root, subject="root")
    examine_tls(instance, leaf + top, own).expect("certificate", "ok clients have to trust 'CN=root'")
    stranger = issue(own, own, subject="stranger", issuer="stranger")
    examined = examine_tls(instance, leaf + stranger, own)
    examined.expect("certificate", "FAIL 'CN=stranger' did not issue 'CN=worker'")


def test_a_key_that_is_another(instance: Instance, keys: tuple[Key, Key]) -> None:
    own, root = keys
    examined = examine_tls(instance, issue(own, root), root)
    examined.expect("certificate", "FAIL instance.key is not the key of the first certificate")


def test_files_that_are_missing_or_nonsense(instance: Instance, keys: tuple[Key, Key]) -> None:
    examined = instance.examine(USE_SSL="true", SSL_CERTFILE="/nowhere/a.crt")
    examined.expect("certificate", "FAIL SSL_CERTFILE=/nowhere/a.crt cannot be read (No such file")
    examine_tls(instance, b"nonsense", keys[0]).expect("certificate", "FAIL holds no PEM certificate")
    good = instance.folder / "good.crt"
    good.write_bytes(issue(keys[0], keys[1]))
    examined = instance.examine(USE_SSL="true", SSL_CERTFILE=str(good), SSL_KEYFILE=str(good))
    examined.expect("certificate", "FAIL good.crt holds no PEM key")


# -- a terminal ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("no_color", ["", "1"])
def test_colours_on_a_terminal_only_where_they_are_wanted(instance: Instance, no_color: str) -> None:
    ours, theirs = pty.openpty()
    try:
        with subprocess.Popen(
            [sys.executable, "-m", "pyworker.doctor"],
            env=instance.environment({"NO_COLOR": no_color}),
            stdout=theirs,
        ) as process:
            process.wait(PROCESS_SECONDS)
        shown = os.read(ours, 65536)
    finally:
        os.close(ours)
        os.close(theirs)
    assert (b"\x1b[32mok" in shown) == (not no_color)
