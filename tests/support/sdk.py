"""The public SDK in a process and a Python of its own: installed from the package registry, not changed."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import queue
import subprocess
import sys
import threading
import time
import venv
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
from typing_extensions import Self

from tests.support.process import ROOT
from tests.support.waiting import DEADLINE

SDK = "vastai==1.9.1"
API_KEY = "api-key-of-the-user"
ENDPOINT = "echo"
_DRIVER = ROOT / "tests" / "client" / "sdk_scripts" / "driver.py"
_INSTALL_SECONDS = 600
_LOOK = 0.5  # seconds between two looks whether the process still lives


def installed_sdk(folder: Path) -> Path:
    """A Python in `folder` that has the SDK; made at the first call, kept for later runs."""
    folder.mkdir(exist_ok=True)
    # Another test process may want it at the same time.
    with (folder / "sdk.lock").open("ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        return _installed(folder / f"{SDK.replace('==', '-')}-{sys.implementation.cache_tag}")


def _installed(home: Path) -> Path:
    python, complete = home / "bin" / "python", home / "complete"
    if complete.exists():
        return python
    venv.create(home, clear=True, with_pip=True)
    done = subprocess.run(
        [str(python), "-m", "pip", "install", "--quiet", "--no-compile", SDK],
        capture_output=True,
        text=True,
        timeout=_INSTALL_SECONDS,
        check=False,
    )
    if done.returncode:
        reason = done.stderr.strip().splitlines()[-1:] or ["pip did not say why"]
        pytest.fail(f"{SDK} cannot be installed from the package registry: {reason[0]}", pytrace=False)
    complete.touch()
    return python


class SdkClient:
    """The SDK's client of one endpoint. Belongs to one thread."""

    def __init__(
        self, python: Path, autoscaler_url: str, *, api_key: str = API_KEY, endpoint: str = ENDPOINT
    ):
        kept = ("PATH", "HOME", "LANG", "TMPDIR")
        self._process = subprocess.Popen(
            [str(python), str(_DRIVER), autoscaler_url, api_key, endpoint],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={name: os.environ[name] for name in kept if name in os.environ},
        )
        # Filled by the reader; one queue for each order.
        self._said: defaultdict[int, queue.Queue[dict[str, Any]]] = defaultdict(queue.Queue)
        self._orders = 0
        self._reader = threading.Thread(target=self._read, name="pyworker-sdk-reader", daemon=True)
        self._reader.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(DEADLINE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(DEADLINE)
        self._reader.join(DEADLINE)
        assert self._process.stdout is not None
        self._process.stdout.close()

    def began(self) -> dict[str, Any]:
        """What became of the first steps: root certificate and endpoint list."""
        return self.next(0)

    def order(self, do: str, **details: object) -> int:
        """Begin something; its number."""
        self._orders += 1
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"id": self._orders, "do": do, **details}) + "\n")
        self._process.stdin.flush()
        return self._orders

    def next(self, number: int, timeout: float = DEADLINE) -> dict[str, Any]:
        """The next thing that is said of this order."""
        deadline = time.monotonic() + timeout
        while (left := deadline - time.monotonic()) > 0:
            with contextlib.suppress(queue.Empty):
                return self._said[number].get(timeout=min(left, _LOOK))
            assert self._reader.is_alive() or not self.silent(number), "the SDK's process has ended"
        raise AssertionError(f"the SDK said nothing more of order {number} within {timeout:g} s")

    def silent(self, number: int) -> bool:
        """Whether nothing is to be read of this order now."""
        return self._said[number].empty()

    def do(self, do: str, **details: object) -> dict[str, Any]:
        """Do something and wait for what it brings."""
        return self.next(self.order(do, **details))

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            said: dict[str, Any] = json.loads(line)
            self._said[said.pop("id")].put(said)
