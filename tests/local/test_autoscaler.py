"""The local autoscaler over real sockets, and as a command."""

from __future__ import annotations

import base64
import ipaddress
import json
import signal
import socket
import ssl
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import cast

import pytest
import requests
from Crypto.Hash import SHA256
from Crypto.PublicKey import RSA
from Crypto.Signature import pkcs1_15
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from pyworker.errors import ConfigError
from pyworker.local.autoscaler import Autoscaler
from pyworker.local.serving import LocalServer
from pyworker.local.signing import Signer
from tests.support import http as tests_http
from tests.support import tls
from tests.support.process import ROOT
from tests.support.status import status_report
from tests.support.waiting import wait_until

WORKER_URL = "http://203.0.113.7:40123"
DEADLINE = 20  # seconds; generous, since the machine may be busy


@pytest.fixture(scope="module")
def signer() -> Signer:
    return Signer.generate()


@pytest.fixture
def autoscaler(signer: Signer) -> Iterator[Autoscaler]:
    with Autoscaler(signer=signer) as running:
        yield running


@pytest.fixture
def http() -> Iterator[requests.Session]:
    with requests.Session() as session:
        session.trust_env = False
        yield session


def status(**changes: object) -> dict[str, object]:
    return status_report(WORKER_URL, **changes)


def post(http: requests.Session, url: str, body: object, **headers: str) -> requests.Response:
    return http.post(url, json=body, headers=headers, timeout=DEADLINE)


def answer_of(response: requests.Response) -> Mapping[str, object]:
    assert response.status_code == 200, response.text
    return cast("Mapping[str, object]", response.json())


def verify(pem: str, text: str, signature: object) -> None:
    """Raises ValueError when the signature is not one of this text."""
    assert isinstance(signature, str)
    key = RSA.import_key(pem)
    pkcs1_15.new(key).verify(SHA256.new(text.encode()), base64.b64decode(signature, validate=True))


def ask(http: requests.Session, autoscaler: Autoscaler, **changes: object) -> Mapping[str, object]:
    body = {"endpoint": "hello_world", "api_key": "k", "cost": 100.0} | changes
    return answer_of(post(http, autoscaler.url + "/route/", body))


def test_routes_to_a_ready_worker_with_a_signature(autoscaler: Autoscaler, http: requests.Session) -> None:
    waiting = ask(http, autoscaler)
    assert set(waiting) == {"request_idx", "status"}
    assert post(http, autoscaler.url + "/worker_status/", status()).status_code == 200
    answer = ask(http, autoscaler, request_idx=waiting["request_idx"], replay_timeout=60.0)
    assert answer["request_idx"] == waiting["request_idx"]
    assert set(answer) == {"url", "signature", "cost", "endpoint", "reqnum", "request_idx"}
    assert answer["url"] == WORKER_URL
    pem = http.get(autoscaler.url + "/pubkey/", timeout=DEADLINE).text
    assert pem.startswith("-----BEGIN PUBLIC KEY-----\n")
    verify(pem, json.dumps({"url": WORKER_URL}, indent=4, sort_keys=True), answer["signature"])


def test_the_first_form(signer: Signer, http: requests.Session) -> None:
    with Autoscaler(signer=signer, signature_form="first") as autoscaler:
        post(http, autoscaler.url + "/worker_status/", status())
        first, second = (ask(http, autoscaler, cost=256) for _ in range(2))
    assert set(first) == {"url", "signature", "cost", "endpoint", "reqnum"}
    assert second["reqnum"] != first["reqnum"]
    assert isinstance(first["cost"], int), "the cost is signed as the client wrote it"
    for answer in (first, second):
        fields = {name: answer[name] for name in ("cost", "endpoint", "reqnum", "url")}
        verify(signer.public_pem(), json.dumps(fields, indent=4), answer["signature"])


def test_what_arrived_can_be_read(autoscaler: Autoscaler, http: requests.Session) -> None:
    report = status(extra="kept")
    post(http, autoscaler.url + "/worker_status/", report)
    assert autoscaler.fleet.reports == [report]
    record = {
        "request_idx": 4,
        "success": False,
        "status": "Rejected",
        "entered_queue_at": 5.0,
        "work_started_at": 0,
        "work_completed_at": 0,
    }
    batch = {"worker_id": 1, "mtoken": "", "requests": [record]}
    assert post(http, autoscaler.url + "/delete_requests/", batch).status_code == 200
    assert autoscaler.fleet.finished[0].request_idx == 4
    overview = answer_of(http.get(autoscaler.url + "/workers/", timeout=DEADLINE))
    assert overview["finished"] == {"Rejected": 1}
    assert "mtoken" not in json.dumps(overview)
    workers = post(http, autoscaler.url + "/get_endpoint_workers/", {"id": 1, "api_key": "k"}).json()
    assert [(worker["id"], worker["status"], worker["perf"]) for worker in workers] == [(1, "ready", 50.0)]


BAD_INPUT: list[tuple[str, object, str]] = [
    ("/route/", {"endpoint": "x", "cost": "much"}, "cost"),
    ("/route/", {"endpoint": "x", "cost": -1}, "cost"),
    ("/route/", {"cost": 1}, "endpoint"),
    ("/route/", [], "object"),
    ("/worker_status/", status(id="1"), "id"),
    ("/worker_status/", {"id": 1}, "url"),
    ("/delete_requests/", {"worker_id": 1, "mtoken": "", "requests": [{}]}, "requests.0.status"),
    ("/get_endpoint_workers/", {}, "id"),
]


@pytest.mark.parametrize(("path", "body", "field"), BAD_INPUT)
def test_bad_input_is_named(
    autoscaler: Autoscaler, http: requests.Session, path: str, body: object, field: str
) -> None:
    response = post(http, autoscaler.url + path, body)
    assert response.status_code == 422
    assert field in response.json()["error"]
    assert autoscaler.fleet.reports == []


def test_other_errors_are_json_too(autoscaler: Autoscaler, http: requests.Session) -> None:
    assert http.get(autoscaler.url + "/nowhere", timeout=DEADLINE).json() == {"error": "Not Found"}
    assert http.get(autoscaler.url + "/route/", timeout=DEADLINE).status_code == 405
    chunks = http.post(autoscaler.url + "/route/", data=iter([b"{}"]), timeout=DEADLINE)
    assert (chunks.status_code, "error" in chunks.json()) == (411, True)


def test_keys_and_tokens(signer: Signer, http: requests.Session) -> None:
    with Autoscaler(
        signer=signer, api_key="right", master_token="secret", endpoints=["a", "b"]
    ) as autoscaler:
        body: dict[str, object] = {"endpoint": "a", "cost": 1}
        url = autoscaler.url + "/route/"
        assert post(http, url, body).status_code == 401
        assert post(http, url, body | {"api_key": "wrong"}).status_code == 401
        assert post(http, url, body | {"api_key": "right"}).status_code == 200
        assert post(http, url, body, Authorization="Bearer right").status_code == 200
        assert post(http, url + "?api_key=right", body).status_code == 200
        unknown = post(http, url, {"endpoint": "c", "cost": 1, "api_key": "right"})
        assert (unknown.status_code, "a, b" in unknown.json()["error"]) == (404, True)
        assert post(http, autoscaler.url + "/worker_status/", status()).status_code == 401
        assert post(http, autoscaler.url + "/worker_status/", status(mtoken="secret")).status_code == 200


def test_the_console_lookup(signer: Signer, http: requests.Session) -> None:
    with Autoscaler(signer=signer, api_key="right", endpoints=["a", "b"]) as autoscaler:
        url = autoscaler.url + "/api/v0/endptjobs/"
        bearer = {"Authorization": "Bearer right"}
        assert http.get(url + "?client_id=me", timeout=DEADLINE).status_code == 401
        listed = http.get(url + "?client_id=me", headers=bearer, timeout=DEADLINE).json()["results"]
        assert [(entry["id"], entry["endpoint_name"], entry["api_key"]) for entry in listed] == [
            (1, "a", "right"),
            (2, "b", "right"),
        ]
        assert http.get(url + "2/", headers=bearer, timeout=DEADLINE).json() == {"result": listed[1]}
        assert http.get(url + "3/", headers=bearer, timeout=DEADLINE).status_code == 404


def test_the_root_certificate(autoscaler: Autoscaler, http: requests.Session) -> None:
    pem = http.get(autoscaler.url + "/static/jvastai_root.cer", timeout=DEADLINE).text
    context = ssl.create_default_context(cadata=pem)  # a certificate of no authority is left out
    roots = [root for root in context.get_ca_certs() if "pyworker local root" in str(root["subject"])]
    assert len(roots) == 1
    assert roots[0]["issuer"] == roots[0]["subject"]
    root = x509.load_pem_x509_certificate(pem.encode())
    root.verify_directly_issued_by(root)


def names_of(pem: bytes) -> tuple[list[str], list[str]]:
    """The DNS names and the addresses that a certificate holds for."""
    certificate = x509.load_pem_x509_certificate(pem)
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return (
        names.get_values_for_type(x509.DNSName),
        [str(address) for address in names.get_values_for_type(x509.IPAddress)],
    )


def test_a_worker_gets_a_certificate(autoscaler: Autoscaler) -> None:
    key = tls.new_key()
    answer = tls.sign(autoscaler.url, tls.request_pem(key), "7")
    assert (answer.status_code, answer.headers["Content-Type"]) == (200, "application/x-pem-file")
    certificate = x509.load_pem_x509_certificate(answer.content)
    assert certificate.public_key() == key.public_key()
    assert certificate.subject.rfc4514_string() == "CN=instance 7"
    assert names_of(answer.content) == ([], ["127.0.0.1"])
    root = x509.load_pem_x509_certificate(tls.root_of(autoscaler).encode())
    certificate.verify_directly_issued_by(root)
    assert certificate.not_valid_after_utc < root.not_valid_after_utc


@pytest.mark.parametrize("address", ["203.0.113.9", "127.0.0.1"])
def test_a_certificate_holds_for_what_was_asked(autoscaler: Autoscaler, address: str) -> None:
    asked = x509.SubjectAlternativeName(
        [
            x509.DNSName("worker.example"),
            x509.IPAddress(ipaddress.ip_address(address)),
            x509.RFC822Name("nobody@worker.example"),
        ]
    )
    builder = tls.request_builder().add_extension(asked, critical=False)
    answer = tls.sign(autoscaler.url, tls.request_pem(tls.new_key(), builder))
    assert names_of(answer.content) == (["worker.example"], list(dict.fromkeys([address, "127.0.0.1"])))


def test_a_request_in_der_is_signed_too(autoscaler: Autoscaler) -> None:
    der = ssl.PEM_cert_to_DER_cert(
        tls.request_pem(tls.new_key()).decode().replace("CERTIFICATE REQUEST", "CERTIFICATE")
    )
    assert tls.sign(autoscaler.url, der).status_code == 200


def test_a_certificate_outlives_a_restart_with_the_same_key(signer: Signer) -> None:
    with Autoscaler(signer=signer) as first:
        pem = tls.sign(first.url, tls.request_pem(tls.new_key())).content
    with Autoscaler(signer=signer) as second:
        root = x509.load_pem_x509_certificate(tls.root_of(second).encode())
    x509.load_pem_x509_certificate(pem).verify_directly_issued_by(root)


def forged(request: bytes) -> bytes:
    """The same request, as if somebody had changed it after it was signed."""
    text = request.decode().replace("CERTIFICATE REQUEST", "CERTIFICATE")
    return ssl.PEM_cert_to_DER_cert(text).replace(b"a worker", b"a forger")


def small_key_request() -> bytes:
    key = rsa.generate_private_key(public_exponent=65537, key_size=1024)
    return tls.request_builder().sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


BAD_CERTIFICATE_REQUESTS: list[tuple[str, Callable[[], bytes], str, str]] = [
    ("garbage", lambda: b"garbage", "1", "no certificate request"),
    ("empty", lambda: b"", "1", "no certificate request"),
    (
        "garbage in PEM",
        lambda: b"-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n",
        "1",
        "no certificate request",
    ),
    ("forged", lambda: forged(tls.request_pem(tls.new_key())), "1", "does not fit its key"),
    ("small key", small_key_request, "1", "1024 bits; at least 2048"),
    ("no instance", lambda: tls.request_pem(tls.new_key()), "", "instance_id"),
    ("instance is no number", lambda: tls.request_pem(tls.new_key()), "x" * 70, "instance_id"),
]


@pytest.mark.parametrize(
    ("request_of", "instance", "says"),
    [case[1:] for case in BAD_CERTIFICATE_REQUESTS],
    ids=[case[0] for case in BAD_CERTIFICATE_REQUESTS],
)
def test_a_bad_certificate_request_is_refused(
    autoscaler: Autoscaler, request_of: Callable[[], bytes], instance: str, says: str
) -> None:
    answer = tls.sign(autoscaler.url, request_of(), instance)
    assert answer.status_code == 422
    assert says in answer.json()["error"]


def test_signing_can_be_made_to_fail_first(autoscaler: Autoscaler) -> None:
    autoscaler.faults.fail_with(503, "/api/v0/sign_cert/", times=2)
    request = tls.request_pem(tls.new_key())
    assert [tls.sign(autoscaler.url, request).status_code for _ in range(3)] == [503, 503, 200]


def test_one_connection_serves_many_requests(autoscaler: Autoscaler) -> None:
    address = autoscaler.url.removeprefix("http://").split(":")
    with socket.create_connection((address[0], int(address[1])), timeout=DEADLINE) as connection:
        stream = connection.makefile("rb")
        for _ in range(3):
            connection.sendall(b"GET /pubkey/ HTTP/1.1\r\nHost: x\r\n\r\n")
            assert stream.readline() == b"HTTP/1.1 200 OK\r\n"
            length = 0
            while (line := stream.readline()) != b"\r\n":
                if line.lower().startswith(b"content-length:"):
                    length = int(line.split(b":")[1])
            assert b"PUBLIC KEY" in stream.read(length)
        stream.close()


def test_many_clients_hammering(autoscaler: Autoscaler) -> None:
    def hammer(_client: int) -> list[int]:
        with requests.Session() as session:
            session.trust_env = False
            post(session, autoscaler.url + "/worker_status/", status(id=_client))
            answers = [ask(session, autoscaler) for _ in range(50)]
        return [cast("int", answer["request_idx"]) for answer in answers]

    with ThreadPoolExecutor(8) as pool:
        indices = [index for part in pool.map(hammer, range(8)) for index in part]
    assert sorted(indices) == list(range(1, 401))


def test_a_client_that_asks_without_a_pause(autoscaler: Autoscaler, http: requests.Session) -> None:
    """With a new connection each time, as one that hangs up does; the others are not kept waiting."""
    gone = "http://127.0.0.1:9"
    post(http, autoscaler.url + "/worker_status/", status_report(gone))
    index = ask(http, autoscaler)["request_idx"]
    before = threading.active_count()
    enough = threading.Event()
    body = json.dumps(
        {"endpoint": "hello_world", "api_key": "k", "cost": 100.0, "request_idx": index}
    ).encode()

    def hammer(_client: int) -> int:
        count = 0
        while not enough.is_set():
            answer = tests_http.ask(autoscaler.url, "POST", "/route/", body).object()
            assert (answer["request_idx"], answer["url"]) == (index, gone)
            count += 1
        return count

    with ThreadPoolExecutor(4) as pool:
        hammering = [pool.submit(hammer, client) for client in range(4)]
        try:
            wait_until(lambda: autoscaler.fleet.routes_given > 1300, "as many questions as were seen once")
            slowest = max(seconds_of(autoscaler.url) for _ in range(20))
            during = threading.active_count()
        finally:
            enough.set()
        assert sum(future.result(DEADLINE) for future in hammering) + 1 == autoscaler.fleet.routes_given
    assert slowest < 1
    assert during <= before + 2 * 4 + 2
    assert autoscaler.fleet.requests_seen == 1
    [worker] = cast("list[dict[str, object]]", answer_of(http.get(autoscaler.url + "/workers/"))["workers"])
    assert worker["routed_since_report"] == 100.0


def seconds_of(url: str) -> float:
    """How long an answer takes."""
    begun = time.monotonic()
    assert tests_http.ask(url, "GET", "/pubkey/").status == 200
    return time.monotonic() - begun


def ok_app(_environ: object, start_response: Callable[[str, list[tuple[str, str]]], object]) -> list[bytes]:
    start_response("200 OK", [("Content-Length", "2")])
    return [b"ok"]


def test_a_connection_of_no_use_ends_without_a_word(caplog: pytest.LogCaptureFixture) -> None:
    server = LocalServer(ok_app, name="pyworker-idle", idle_seconds=0.05)
    server.start()
    try:
        with tests_http.RawClient(server.url) as client:
            assert client.socket.recv(1) == b""
    finally:
        server.stop()
    assert "timed out" not in caplog.text


def test_connections_are_bounded() -> None:
    server = LocalServer(ok_app, name="pyworker-bounded", max_connections=2)
    server.start()
    try:
        kept = [tests_http.RawClient(server.url) for _ in range(2)]
        for client in kept:
            client.send(tests_http.request_bytes("GET", "/", b""))
            assert client.answer().status == 200
        with tests_http.RawClient(server.url) as refused:
            answer = refused.answer()
        assert (answer.status, answer.header("Retry-After")) == (503, "1")
        assert answer.json() == {"error": "too many connections are open"}
        kept[0].close()

        def is_served() -> bool:
            return tests_http.ask(server.url, "GET", "/").status == 200

        wait_until(is_served, "a place for another client")
        kept[1].close()
    finally:
        server.stop()


def test_faults(autoscaler: Autoscaler, http: requests.Session) -> None:
    url = autoscaler.url + "/worker_status/"
    autoscaler.faults.fail_with(503, "/worker_status/", times=2)
    assert [post(http, url, status()).status_code for _ in range(3)] == [503, 503, 200]
    assert len(autoscaler.fleet.reports) == 1
    hold = autoscaler.faults.hang("/worker_status/")
    with ThreadPoolExecutor(1) as pool:
        held = pool.submit(post, http, url, status())
        assert hold.arrived.wait(DEADLINE)
        assert len(autoscaler.fleet.reports) == 1
        hold.release()
        assert held.result(DEADLINE).status_code == 200
    assert repr(autoscaler.faults) == "<Faults [0 ordered, 0 holds]>"


def test_stopping_ends_every_thread(signer: Signer, http: requests.Session) -> None:
    before = set(threading.enumerate())
    autoscaler = Autoscaler(signer=signer).start()
    http.get(autoscaler.url + "/pubkey/", timeout=DEADLINE)  # leaves its connection open
    hold = autoscaler.faults.hang("/workers/")
    with ThreadPoolExecutor(1) as pool:
        held = pool.submit(requests.get, autoscaler.url + "/workers/", timeout=DEADLINE)
        assert hold.arrived.wait(DEADLINE)
        autoscaler.stop()
        autoscaler.stop()
        assert held.exception(DEADLINE) is None or isinstance(held.exception(), requests.ConnectionError)
    assert set(threading.enumerate()) == before


def test_started_again_it_has_the_same_address(signer: Signer, http: requests.Session) -> None:
    autoscaler = Autoscaler(signer=signer).start()
    url = autoscaler.url
    autoscaler.stop()
    with autoscaler:
        assert autoscaler.url == url
        assert http.get(url + "/pubkey/", timeout=DEADLINE).text == signer.public_pem()


def test_a_kept_key(tmp_path: Path) -> None:
    path = tmp_path / "key.pem"
    made = Signer.from_file(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert Signer.from_file(path).public_pem() == made.public_pem()
    path.write_text("garbage")
    with pytest.raises(ConfigError, match=r"key\.pem does not hold a private RSA key"):
        Signer.from_file(path)
    path.write_text(made.public_pem())
    with pytest.raises(ConfigError, match="public key"):
        Signer.from_file(path)
    with pytest.raises(ConfigError, match="cannot use the key file"):
        Signer.from_file(tmp_path / "missing" / "key.pem")


def command(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "pyworker.local.autoscaler", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )


@pytest.mark.parametrize("ending", [signal.SIGTERM, signal.SIGINT])
def test_the_command(tmp_path: Path, signer: Signer, ending: signal.Signals, http: requests.Session) -> None:
    key_file = tmp_path / "key.pem"
    key_file.write_bytes(signer.key.export_key("PEM"))
    with command("--port", "0", "--key-file", str(key_file)) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        url = next(word for word in line.split() if word.startswith("http://"))
        assert http.get(url + "/pubkey/", timeout=DEADLINE).text == signer.public_pem()
        process.send_signal(ending)
        out, err = process.communicate(timeout=DEADLINE)
    assert (process.returncode, out, err) == (0, "", "")


def test_a_taken_port(tmp_path: Path, signer: Signer) -> None:
    key_file = tmp_path / "key.pem"
    key_file.write_bytes(signer.key.export_key("PEM"))
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        with command("--port", port, "--key-file", str(key_file)) as process:
            out, err = process.communicate(timeout=DEADLINE)
    assert (process.returncode, out) == (1, "")
    assert err.count("\n") == 1
    assert f"127.0.0.1:{port}" in err


def test_a_worker_that_cannot_start_is_known_with_its_reason(
    autoscaler: Autoscaler, http: requests.Session
) -> None:
    report = {"id": 5, "mtoken": "", "version": "1.1.0", "error_msg": "no disk", "url": "http://127.0.0.1:1"}
    assert post(http, autoscaler.url + "/worker_status/", report).status_code == 200
    [worker] = http.get(autoscaler.url + "/workers/").json()["workers"]
    assert (worker["state"], worker["error_msg"]) == ("errored", "no disk")
