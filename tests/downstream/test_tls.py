"""TLS: which certificates keep a worker from starting, and a worker under gunicorn that serves with one."""

from __future__ import annotations

import contextlib
import ipaddress
import logging
import os
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import NameOID

from pyworker.client import Client, ClientError
from pyworker.downstream.tls import LOOK_SECONDS, CertificateFiles, ServerContext
from pyworker.errors import ConfigError
from pyworker.local.autoscaler import Autoscaler
from tests.support import tls
from tests.support.http import RawClient, ask, request_bytes
from tests.support.process import WorkerProcess
from tests.support.scripted import Act, chunk, head
from tests.support.stack import ECHO_WORKER, NewStack, Stack
from tests.support.waiting import DEADLINE, wait_event, wait_until


def self_signed(key: tls.Key, begins: timedelta, ends: timedelta) -> bytes:
    """A certificate that is valid from and until these distances from now."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "a worker")])
    now = datetime.now(timezone.utc)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + begins)
        .not_valid_after(now + ends)
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False
        )
        .sign(key, hashes.SHA256())
    )
    return made.public_bytes(serialization.Encoding.PEM)


def good_certificate(key: tls.Key) -> bytes:
    return self_signed(key, timedelta(days=-1), timedelta(days=1))


@pytest.fixture
def pair(tmp_path: Path) -> CertificateFiles:
    """A certificate and its key, in files."""
    files = CertificateFiles(tmp_path / "instance.crt", tmp_path / "instance.key")
    write_pair(files)
    return files


def write_pair(files: CertificateFiles) -> str:
    """A new pair; the certificate's serial number as `getpeercert` shows it."""
    key = tls.new_key()
    pem = good_certificate(key)
    files.key.write_bytes(tls.key_pem(key))
    files.certificate.write_bytes(pem)
    return serial_of(pem)


def serial_of(pem: bytes) -> str:
    return f"{x509.load_pem_x509_certificate(pem).serial_number:X}"


def remove_certificate(files: CertificateFiles) -> None:
    files.certificate.unlink()


def remove_key(files: CertificateFiles) -> None:
    files.key.unlink()


def make_key_a_folder(files: CertificateFiles) -> None:
    files.key.unlink()
    files.key.mkdir()


def empty_certificate(files: CertificateFiles) -> None:
    files.certificate.write_bytes(b"")


def empty_key(files: CertificateFiles) -> None:
    files.key.write_bytes(b"\n")


def garbage_certificate(files: CertificateFiles) -> None:
    files.certificate.write_bytes(b'{"error": "not an instance of yours"}')


def garbage_key(files: CertificateFiles) -> None:
    files.key.write_bytes(b"\0\xff" * 100)


def half_certificate(files: CertificateFiles) -> None:
    whole = files.certificate.read_bytes()
    files.certificate.write_bytes(whole[: len(whole) // 2])


def key_of_another(files: CertificateFiles) -> None:
    files.key.write_bytes(tls.key_pem(tls.new_key()))


def encrypted_key(files: CertificateFiles) -> None:
    files.key.write_bytes(tls.key_pem(tls.new_key(), b"a password"))


def swapped(files: CertificateFiles) -> None:
    certificate, key = files.certificate.read_bytes(), files.key.read_bytes()
    files.certificate.write_bytes(key)
    files.key.write_bytes(certificate)


Spoil = Callable[[CertificateFiles], None]
CRT, KEY = "SSL_CERTFILE", "SSL_KEYFILE"


def openssl_pair(pair: CertificateFiles, *algorithm: str) -> None:
    """A pair that the command makes, of a sort that the library may not know."""
    files = ("-keyout", str(pair.key), "-out", str(pair.certificate))
    command = ["openssl", "req", "-x509", "-nodes", "-subj", "/CN=odd", *algorithm, *files]
    subprocess.run(command, check=True, capture_output=True, timeout=DEADLINE)


def odd_curve(pair: CertificateFiles) -> None:
    """The key is the old one: only the certificate is of a curve that the library does not know."""
    key = pair.key.read_bytes()
    openssl_pair(pair, "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:secp160k1")
    pair.key.write_bytes(key)


def odd_curve_of_the_key(pair: CertificateFiles) -> None:
    certificate = pair.certificate.read_bytes()
    openssl_pair(pair, "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:secp160k1")
    pair.certificate.write_bytes(certificate)


def pipe_for_a_certificate(pair: CertificateFiles) -> None:
    pair.certificate.unlink()
    os.mkfifo(pair.certificate)


def endless_key(pair: CertificateFiles) -> None:
    with pair.key.open("ab") as file:
        file.truncate(2**31)


SPOILED: list[tuple[Spoil, str, str]] = [
    (odd_curve, CRT, "cannot be used ("),
    (odd_curve_of_the_key, KEY, "holds no private key in PEM form"),
    (pipe_for_a_certificate, CRT, "is no file"),
    (endless_key, KEY, "is larger than 1048576 bytes"),
    (remove_certificate, CRT, "cannot be read (No such file or directory)"),
    (remove_key, KEY, "cannot be read (No such file or directory)"),
    (make_key_a_folder, KEY, "cannot be read (Is a directory)"),
    (empty_certificate, CRT, "is empty"),
    (empty_key, KEY, "is empty"),
    (garbage_certificate, CRT, "holds no certificate in PEM form"),
    (garbage_key, KEY, "holds no private key in PEM form"),
    (half_certificate, CRT, "holds no certificate in PEM form"),
    (swapped, CRT, "holds no certificate in PEM form"),
    (encrypted_key, KEY, "is encrypted"),
    (key_of_another, KEY, "is not the key of SSL_CERTFILE="),
]


@pytest.mark.parametrize(
    ("spoil", "variable", "says"), SPOILED, ids=[spoil.__name__ for spoil, _, _ in SPOILED]
)
def test_a_pair_that_cannot_serve_is_named(
    pair: CertificateFiles, spoil: Spoil, variable: str, says: str
) -> None:
    spoil(pair)

    with pytest.raises(ConfigError) as caught:
        pair.load()

    path = pair.certificate if variable == CRT else pair.key
    assert str(caught.value).startswith(f"USE_SSL=true, but {variable}={path} {says}")
    assert "\n" not in str(caught.value)
    assert "PRIVATE KEY" not in str(caught.value)


def test_a_key_that_openssl_thinks_too_weak_is_refused(pair: CertificateFiles) -> None:
    key = rsa.generate_private_key(public_exponent=65537, key_size=1024)
    pair.key.write_bytes(tls.key_pem(key))
    pair.certificate.write_bytes(good_certificate(key))

    with pytest.raises(ConfigError, match=r"SSL_CERTFILE=.*\.crt cannot be used \(EE_KEY_TOO_SMALL\)"):
        pair.load()


@pytest.mark.parametrize(
    ("begins", "ends", "says"),
    [(-2, -1, "expired on 2"), (1, 2, "not valid before 2"), (-1, 1, "valid until 2")],
)
def test_a_certificate_outside_its_validity_is_logged_but_used(
    pair: CertificateFiles, begins: int, ends: int, says: str, caplog: pytest.LogCaptureFixture
) -> None:
    key = tls.new_key()
    pair.key.write_bytes(tls.key_pem(key))
    pair.certificate.write_bytes(self_signed(key, timedelta(days=begins), timedelta(days=ends)))

    with caplog.at_level(logging.INFO):
        ServerContext(pair).announce()

    [record] = caplog.records
    assert f"SSL_CERTFILE={pair.certificate}, {says}" in record.getMessage()
    assert (record.levelno == logging.WARNING) == (says != "valid until 2")


# -- a change of the files -------------------------------------------------------------------------------


def looked_at(context: ServerContext) -> ssl.SSLContext:
    """The context once it has certainly looked at the files again."""
    due = time.monotonic() + LOOK_SECONDS
    wait_until(lambda: time.monotonic() > due, "the next look at the files")
    return context.current()


def test_one_context_until_the_files_change(pair: CertificateFiles) -> None:
    server = ServerContext(pair)
    first = server.current()

    assert looked_at(server) is first
    write_pair(pair)
    second = looked_at(server)
    assert second is not first
    assert server.current() is second


@pytest.mark.parametrize("spoil", [spoil for spoil, _, _ in SPOILED], ids=lambda spoil: spoil.__name__)
def test_a_pair_that_cannot_serve_leaves_the_old_one(
    pair: CertificateFiles, spoil: Spoil, caplog: pytest.LogCaptureFixture
) -> None:
    server = ServerContext(pair)
    first = server.current()

    spoil(pair)
    assert [looked_at(server) for _ in range(2)] == [first, first]

    # One line, however many connections.
    [record] = [record for record in caplog.records if record.name == "pyworker.downstream.tls"]
    assert record.getMessage().startswith("the certificate in use is kept: USE_SSL=true, but SSL_")


def test_each_broken_change_is_logged_once(pair: CertificateFiles, caplog: pytest.LogCaptureFixture) -> None:
    server = ServerContext(pair)
    first = server.current()
    garbage_key(pair)
    looked_at(server)
    empty_key(pair)
    looked_at(server)
    assert [record.levelname for record in caplog.records] == ["WARNING", "WARNING"]

    with caplog.at_level(logging.INFO):
        write_pair(pair)
        assert looked_at(server) is not first

    assert "valid until" in caplog.records[-1].getMessage()


# -- under gunicorn --------------------------------------------------------------------------------------


@pytest.fixture
def files(tmp_path: Path, local_autoscaler: Autoscaler) -> CertificateFiles:
    """A pair that the local autoscaler has issued."""
    folder = tmp_path / "etc"
    folder.mkdir()
    made = CertificateFiles(folder / "instance.crt", folder / "instance.key")
    tls.certify(local_autoscaler, made.certificate, made.key)
    return made


@pytest.fixture
def secure(new_stack: NewStack, files: CertificateFiles) -> Stack:
    """A ready worker that serves TLS."""
    stack = new_stack(variables(files))
    stack.start_ready()
    return stack


@pytest.fixture
def trusting(local_autoscaler: Autoscaler) -> ssl.SSLContext:
    return tls.client_context(tls.root_of(local_autoscaler))


def variables(files: CertificateFiles) -> dict[str, str]:
    return {"USE_SSL": "true", CRT: str(files.certificate), KEY: str(files.key)}


def peer(stack: Stack, context: ssl.SSLContext | None = None) -> tuple[str, ssl.SSLSocket]:
    """The serial number of the certificate that a new client sees, and its closed connection."""
    with RawClient(stack.url, context=context) as client:
        connection = client.socket
        assert isinstance(connection, ssl.SSLSocket)
        der = connection.getpeercert(binary_form=True)
        assert der is not None
        return f"{x509.load_der_x509_certificate(der).serial_number:X}", connection


def stream_of(stack: Stack, prompt: str, more: threading.Event) -> RawClient:
    """A stream whose first token is there and whose second waits for `more`."""
    tokens = (chunk(b"data: one\n\n"), more, chunk(b"data: two\n\n"), chunk(b""))
    start = head("Content-Type: text/event-stream", "Transfer-Encoding: chunked")
    stack.model.once("/stream", start, *tokens)
    client = stack.open("/stream", prompt)
    assert client.head() == 200
    assert client.chunk() == b"data: one\n\n"
    return client


def test_a_worker_with_a_certificate_of_the_local_root(secure: Stack, trusting: ssl.SSLContext) -> None:
    with RawClient(secure.url, context=trusting) as client:
        client.post("/pass", secure.envelope())
        answer = client.answer()
        assert (answer.status, answer.json()) == (200, {"ok": True})
        assert isinstance(client.socket, ssl.SSLSocket)
        assert client.socket.version() == "TLSv1.3"
    assert secure.reports[-1]["url"] == secure.url
    assert secure.url.startswith("https://127.0.0.1:")
    assert f"TLS with SSL_CERTFILE={secure.folder}/etc/instance.crt, valid until " in secure.worker.log


def test_a_stream_comes_token_by_token(secure: Stack) -> None:
    more = threading.Event()
    with stream_of(secure, "stream", more) as client:
        more.set()
        assert (client.chunk(), client.chunk()) == (b"data: two\n\n", b"")


@pytest.mark.parametrize("path", ["/stream", "/pass"])
def test_a_client_that_hangs_up_ends_its_call(secure: Stack, path: str) -> None:
    begun = (head("Transfer-Encoding: chunked"), chunk(b"x")) if path == "/stream" else ()
    secure.model.script(path, *begun, Act.HANG)
    client = secure.open(path)
    if path == "/stream":
        assert client.head() == 200
    call = secure.model.request(path)
    hung_up = time.monotonic()
    client.close()

    wait_event(call.gone, "the end of the call to the model")
    assert call.gone_at - hung_up < 1
    secure.wait_in_hand(0)


def test_requests_in_hand_finish_after_sigterm(secure: Stack) -> None:
    more = threading.Event()
    with stream_of(secure, "last", more) as client:
        secure.worker.terminate()
        more.set()
        assert (client.chunk(), client.chunk()) == (b"data: two\n\n", b"")
    assert secure.worker.wait() == 0


def test_a_body_of_many_records_arrives_whole(secure: Stack) -> None:
    prompt = "sea " * 100_000
    assert secure.post("/pass", prompt).status == 200
    assert secure.model.requests("/pass")[-1].json()["prompt"] == prompt


def test_our_own_client_trusts_the_root_it_is_given(
    secure: Stack, local_autoscaler: Autoscaler, tmp_path: Path
) -> None:
    root = tmp_path / "root.pem"
    root.write_text(tls.root_of(local_autoscaler))
    with Client(local_autoscaler.url, "k", "echo", timeout=DEADLINE, ca=root) as client:
        assert client.call("/pass", {"prompt": "hello"}, 1.0).json() == {"ok": True}
    with (
        Client(local_autoscaler.url, "k", "echo", timeout=DEADLINE) as client,
        pytest.raises(ClientError, match="is not trusted; name its root with --ca"),
    ):
        client.call("/pass", {"prompt": "hello"}, 1.0)


@pytest.mark.filterwarnings("ignore:Unverified HTTPS request")
def test_our_own_client_may_be_told_not_to_check(secure: Stack, local_autoscaler: Autoscaler) -> None:
    with Client(local_autoscaler.url, "k", "echo", timeout=DEADLINE, verify=False) as client:
        assert client.call("/pass", {"prompt": "hello"}, 1.0).status_code == 200


@pytest.mark.parametrize(
    ("content", "says"), [(None, "cannot be read (No such file"), ("garbage", "holds no certificate")]
)
def test_a_root_that_cannot_be_used_is_named(tmp_path: Path, content: str | None, says: str) -> None:
    root = tmp_path / "root.pem"
    if content is not None:
        root.write_text(content)
    with pytest.raises(ClientError) as caught:
        Client("http://127.0.0.1:9", "k", "echo", ca=root)
    assert str(caught.value).startswith(f"the CA file {root} {says}")


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion.TLSv1_1 is deprecated")
def test_older_protocols_are_refused(secure: Stack) -> None:
    def refusal(version: ssl.TLSVersion) -> str | None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        context.set_ciphers("ALL:@SECLEVEL=0")
        context.minimum_version = context.maximum_version = version
        try:
            peer(secure, context)
        except ssl.SSLError as error:
            return error.reason
        return None

    versions = (ssl.TLSVersion.TLSv1_1, ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3)
    assert [refusal(version) for version in versions] == ["TLSV1_ALERT_PROTOCOL_VERSION", None, None]


def test_tls_sessions_resume(secure: Stack, trusting: ssl.SSLContext) -> None:
    trusting.maximum_version = ssl.TLSVersion.TLSv1_2  # its session is available after the handshake
    address = ("127.0.0.1", secure.worker.port)
    with RawClient(secure.url, context=trusting) as first:
        assert isinstance(first.socket, ssl.SSLSocket)
        session = first.socket.session
    with (
        socket.create_connection(address, timeout=DEADLINE) as plain,
        trusting.wrap_socket(plain, server_hostname="127.0.0.1", session=session) as again,
    ):
        assert again.session_reused


def test_new_files_are_used_while_streams_go_on(
    secure: Stack, files: CertificateFiles, local_autoscaler: Autoscaler, trusting: ssl.SSLContext
) -> None:
    before, _ = peer(secure, trusting)
    more = threading.Event()
    with stream_of(secure, "goes on", more) as client:
        tls.certify(local_autoscaler, files.certificate, files.key)
        new = serial_of(files.certificate.read_bytes())
        wait_until(lambda: peer(secure, trusting)[0] == new, "the new certificate in use")
        more.set()
        assert (client.chunk(), client.chunk()) == (b"data: two\n\n", b"")
    assert new != before
    assert secure.worker.log.count("TLS with SSL_CERTFILE=") == 2


def test_a_broken_file_keeps_the_old_certificate(secure: Stack, files: CertificateFiles) -> None:
    before, _ = peer(secure)
    half_certificate(files)

    def told() -> bool:
        assert peer(secure)[0] == before
        return "the certificate in use is kept" in secure.worker.log

    wait_until(told, "a warning of the broken file")
    for _ in range(5):
        assert peer(secure)[0] == before
    assert secure.worker.log.count("the certificate in use is kept") == 1
    assert ask(secure.url, "GET", "/ping").body == b"pong"


@pytest.mark.parametrize("spoil", [odd_curve, odd_curve_of_the_key, pipe_for_a_certificate])
def test_an_odd_certificate_beside_the_running_one_ends_nobody(
    secure: Stack, files: CertificateFiles, spoil: Spoil
) -> None:
    before, _ = peer(secure)
    pid = secure.worker.worker_pid
    spoil(files)

    def told() -> bool:
        assert peer(secure)[0] == before
        return "the certificate in use is kept" in secure.worker.log

    wait_until(told, "a warning of the odd file")
    assert ask(secure.url, "GET", "/ping").body == b"pong"
    assert secure.worker.worker_pid == pid


def test_a_half_handshake_does_not_stall_others(secure: Stack) -> None:
    with contextlib.ExitStack() as open_connections:
        for _ in range(50):
            plain = open_connections.enter_context(
                socket.create_connection(("127.0.0.1", secure.worker.port), timeout=DEADLINE)
            )
            plain.sendall(b"\x16\x03\x01\x02\x00\x01\x00")  # the beginning of a ClientHello
        begun = time.monotonic()
        assert ask(secure.url, "GET", "/ping").body == b"pong"
        assert time.monotonic() - begun < 1


def test_plain_http_at_a_tls_port_is_closed(secure: Stack) -> None:
    with RawClient(secure.url.replace("https", "http")) as client:
        client.send(request_bytes("GET", "/ping", b""))
        assert b"pong" not in client.rest()
    assert "Traceback" not in secure.worker.log


@pytest.mark.parametrize(
    ("spoil", "variable", "says"),
    [SPOILED[0], SPOILED[4], SPOILED[5], SPOILED[13], SPOILED[14]],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_a_start_without_a_good_pair_ends_with_one_line(
    tmp_path: Path, pair: CertificateFiles, spoil: Spoil, variable: str, says: str
) -> None:
    spoil(pair)
    worker = WorkerProcess(ECHO_WORKER, tmp_path, {"REPORT_ADDR": "http://127.0.0.1:9", **variables(pair)})
    worker.launch()
    try:
        wait_until(lambda: not worker.is_alive, "the end of a worker that cannot start")
        assert worker.wait() != 0
    finally:
        worker.stop()
    assert worker.log.count("\n") == 1
    assert worker.log.startswith(f"pyworker: USE_SSL=true, but {variable}=")
    assert says in worker.log
