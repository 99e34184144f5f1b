"""A real Prometheus, of Debian's package `prometheus`, that scrapes one worker."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

import pytest
from typing_extensions import Self

from tests.support.http import ask
from tests.support.ports import free_port
from tests.support.waiting import wait_until

STOP_DEADLINE = 20.0


def program(name: str) -> str:
    """`prometheus` or `promtool`. Skips the test if it is not installed, but fails it in CI."""
    found = shutil.which(name)
    if found is None:
        reason = f"{name} is not installed: sudo apt-get install -y prometheus"
        if os.environ.get("CI") == "true":
            pytest.fail(reason, pytrace=False)
        pytest.skip(reason)
    return found


def promtool(*arguments: str | Path, text: bytes = b"") -> str:
    """What `promtool` says with this on its standard input. Fails the test unless it is satisfied."""
    done = subprocess.run(
        [program("promtool"), *map(str, arguments)], input=text, capture_output=True, timeout=60, check=False
    )
    said = (done.stdout + done.stderr).decode("utf-8", "replace")
    assert done.returncode == 0, said
    return said


def own_address() -> str:
    """An address of this machine other than loopback, as long as it has one: nothing is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
        except OSError:
            return "127.0.0.1"
        return str(probe.getsockname()[0])


class Prometheus:
    """One process, which scrapes `target` (a base URL) every second with a bearer token."""

    def __init__(self, folder: Path, target: str, token: str, rules: Sequence[Path]) -> None:
        """Not started yet."""
        self._folder = folder
        self._log_file = folder / "prometheus.log"
        self._config = {
            "global": {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"},
            "rule_files": [str(path) for path in rules],
            "scrape_configs": [
                {
                    "job_name": "pyworker",
                    "authorization": {"credentials": token},
                    "static_configs": [{"targets": [urlsplit(target).netloc]}],
                }
            ],
        }
        self._process: subprocess.Popen[bytes] | None = None
        self.url = f"http://127.0.0.1:{free_port()}"

    def __enter__(self) -> Self:
        command = program("prometheus")
        config = self._folder / "prometheus.yml"
        config.write_text(json.dumps(self._config), "utf-8")  # JSON is YAML
        with self._log_file.open("wb") as log:
            self._process = subprocess.Popen(
                [
                    command,
                    f"--config.file={config}",
                    f"--storage.tsdb.path={self._folder / 'data'}",
                    f"--web.listen-address={urlsplit(self.url).netloc}",
                ],
                cwd=self._folder,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        try:
            wait_until(self._is_ready, "Prometheus")
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_exc: object) -> None:
        self.stop()

    def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait(STOP_DEADLINE)

    def _is_ready(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, self._log_file.read_text("utf-8", "replace")
        try:
            return ask(self.url, "GET", "/-/ready").status == 200
        except OSError:
            return False

    def api(self, path: str, **parameters: str) -> Any:
        """`data` of the response of its HTTP API (https://prometheus.io/docs/prometheus/latest/querying/api)."""
        query = f"?{urlencode(parameters)}" if parameters else ""
        answer = ask(self.url, "GET", f"/api/v1/{path}{query}")
        body = json.loads(answer.body)
        assert body["status"] == "success", body
        return body["data"]

    def query(self, expression: str) -> Sequence[tuple[Mapping[str, str], float]]:
        """The labels and the value of each series, now."""
        result = self.api("query", query=expression)["result"]
        return [(one["metric"], float(one["value"][1])) for one in result]

    def value(self, expression: str) -> float:
        """Of the only series; NaN if there is none."""
        found = self.query(expression)
        assert len(found) <= 1, found
        return found[0][1] if found else float("nan")

    def __repr__(self) -> str:
        return f"<Prometheus {self.url}>"
