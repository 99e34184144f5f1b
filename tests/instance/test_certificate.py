"""pyworker.instance.certificate as the launcher uses it, with a real console and real files."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.console import FAULT, Console
from tests.support.process import ROOT
from tests.support.scripted import Act, ScriptedServer, head
from tests.support.waiting import DEADLINE

#: A process of its own, since the signals of its main thread are used.
PROGRAM = """
import sys
from pathlib import Path
from pyworker.instance.certificate import NotSigned, ask_console, require_certificate

key, certificate, address, console, patience, deadline = sys.argv[1:]
try:
    require_certificate(
        Path(key),
        Path(certificate),
        address,
        lambda request: ask_console(console, "7", request, float(deadline)),
        float(patience),
        lambda line: print(line, file=sys.stderr),
    )
except NotSigned as error:
    sys.exit(f"there is no certificate: {error}")
"""


@pytest.fixture
def console(tmp_path: Path) -> Iterator[Console]:
    with Console(tmp_path / "console") as console:
        yield console


class Certificates:
    """The two files of an instance."""

    def __init__(self, folder: Path) -> None:
        self.key, self.certificate = folder / "instance.key", folder / "instance.crt"

    def ask(
        self, console_url: str, address: str, patience: float = 0.5, deadline: float = 20
    ) -> subprocess.CompletedProcess[str]:
        """One run of the program."""
        given = (str(self.key), str(self.certificate), address, console_url, str(patience), str(deadline))
        command = [sys.executable, "-c", PROGRAM, *given]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)

    def names(self) -> str:
        command = ["openssl", "x509", "-in", str(self.certificate), "-noout", "-ext", "subjectAltName"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE, check=True)
        return done.stdout


@pytest.fixture
def files(tmp_path: Path) -> Certificates:
    return Certificates(tmp_path)


@pytest.mark.parametrize(
    ("before", "after", "named"),
    [
        ("203.0.113.7", "203.0.113.8", "IP Address:203.0.113.8"),
        ("203.0.113.7", "2001:db8::1", "IP Address:2001:DB8:0:0:0:0:0:1"),
        ("203.0.113.7", "https://worker.example.org:40123", "DNS:worker.example.org"),
        ("old.example.org", "203.0.113.7", "IP Address:203.0.113.7"),
    ],
)
def test_a_certificate_for_an_address_of_before_is_renewed(
    console: Console, files: Certificates, before: str, after: str, named: str
) -> None:
    assert files.ask(console.url, before).returncode == 0
    key = files.key.read_bytes()
    assert files.ask(console.url, before).returncode == 0
    assert len(console.signings) == 1, "kept while the address is the same"
    assert files.ask(console.url, after).returncode == 0
    assert len(console.signings) == 2
    assert named in files.names()
    assert files.key.read_bytes() == key


def test_one_that_names_no_address_is_kept(console: Console, files: Certificates) -> None:
    assert files.ask(console.url, "").returncode == 0
    assert files.ask(console.url, "203.0.113.8").returncode == 0
    assert len(console.signings) == 1


def test_where_the_console_fails_the_old_one_is_kept_and_that_is_said(
    console: Console, files: Certificates
) -> None:
    assert files.ask(console.url, "203.0.113.7").returncode == 0
    before = files.certificate.read_bytes()
    console.faults.extend([FAULT] * 5)
    done = files.ask(console.url, "203.0.113.8")
    assert done.returncode == 0
    assert "the certificate is not renewed, but still valid" in done.stderr
    assert files.certificate.read_bytes() == before


def test_a_console_that_drips_holds_nobody_up(files: Certificates) -> None:
    gates = [threading.Event() for _ in range(100)]
    done = threading.Event()

    def drip() -> None:
        for gate in gates:
            if done.wait(0.5):
                return
            gate.set()

    with ScriptedServer() as console:
        steps = [step for gate in gates for step in (b"x", gate)]
        console.default = (head("Content-Length: 5000"), *steps, Act.CLOSE)
        thread = threading.Thread(target=drip)
        thread.start()
        began = time.monotonic()
        try:
            failed = files.ask(console.url, "203.0.113.7", patience=1, deadline=2)
        finally:
            done.set()
            thread.join()
    assert failed.returncode == 1
    assert "no complete response within 2 s" in failed.stderr
    assert time.monotonic() - began < 15


def test_no_password_of_the_consoles_url_is_said(files: Certificates) -> None:
    done = files.ask("http://user:hunter2@127.0.0.1:9", "203.0.113.7")
    assert done.returncode == 1
    assert "hunter2" not in done.stdout + done.stderr
