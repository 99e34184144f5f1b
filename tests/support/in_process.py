"""A worker within the process of the test, behind real sockets: for what only its own books can tell."""

from __future__ import annotations

import json
import threading
from pathlib import Path

from typing_extensions import Self
from werkzeug.serving import make_server

from pyworker.app import create_app, worker_of
from pyworker.config import Settings
from pyworker.lifecycle.state import ModelState
from tests.support.http import Answer, RawClient, ask, next_request_idx
from tests.support.stack import LOADED_LINE
from tests.support.waiting import DEADLINE, wait_until


class InProcessWorker:
    """A worker, ready. It reports nowhere and checks no signatures. `stop` belongs to the test."""

    def __init__(
        self,
        folder: Path,
        model_url: str,
        report_addr: str,
        throughput: float = 1000.0,
        package: str = "tests.support.echo_worker",
    ) -> None:
        log = folder / "model.log"
        log.write_text(LOADED_LINE + "\n")
        (folder / ".has_benchmark").write_text(str(throughput))
        settings = Settings(
            model_log=log,
            model_server_url=model_url,
            report_addrs=(report_addr,),
            public_url="http://127.0.0.1:3000",
            unsecured=True,
            state_dir=folder,
        )
        self.app = create_app(package, settings)
        self.worker = worker_of(self.app)
        self._server = make_server("127.0.0.1", 0, self.app, threaded=True)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(
            target=self._server.serve_forever,
            kwargs={"poll_interval": 0.02},
            name="pyworker-in-process",
            daemon=True,
        )

    def __enter__(self) -> Self:
        self._thread.start()
        self.worker.start()
        wait_until(lambda: self.worker.lifecycle.state is ModelState.READY, "a ready worker")
        return self

    def __exit__(self, *_exc: object) -> None:
        self._server.shutdown()
        self._thread.join(DEADLINE)
        self._server.server_close()
        self.worker.close()

    @property
    def in_hand(self) -> int:
        """How many requests it holds this very moment."""
        return self.worker.ledger.counts.in_hand

    def open(self, path: str, prompt: str) -> RawClient:
        """A request, sent and in the queue: the next one certainly comes after it. None may end meanwhile."""
        open_exchanges = self.worker.pipeline.open_exchanges
        before = open_exchanges.count
        client = RawClient(self.url)
        client.post(path, self._envelope(prompt))
        wait_until(lambda: open_exchanges.count > before, f"request {prompt!r} in the queue")
        return client

    def post(self, path: str, prompt: str) -> Answer:
        """A request, answered."""
        return ask(self.url, "POST", path, self._envelope(prompt))

    def _envelope(self, prompt: str) -> bytes:
        auth_data = {
            "signature": "",
            "url": self.url,
            "endpoint": "echo",
            "cost": 1.0,
            "reqnum": 1,
            "request_idx": next_request_idx(),
        }
        return json.dumps({"auth_data": auth_data, "payload": {"prompt": prompt}}).encode()

    def __repr__(self) -> str:
        return f"<InProcessWorker {self.url} {self.worker!r}>"
