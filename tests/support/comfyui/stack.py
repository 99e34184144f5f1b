"""A worker of ComfyUI in front of the stand-in, and the workflows that tests send."""

from __future__ import annotations

import base64
import json
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit

from pyworker.local.autoscaler import Autoscaler
from pyworker.local.signing import Signer
from tests.support.comfyui.png import size_of
from tests.support.comfyui.server import ComfyServer
from tests.support.comfyui.sockets import Mode
from tests.support.http import Answer, RawClient, ask, next_request_idx
from tests.support.leaks import share_port, unshare_port
from tests.support.stack import Stack
from workers.comfyui.workload import MOST

COMFY_WORKER = "pyworker:create_app('comfyui')"
CUSTOM = "/custom_workflow"


def blank(width: int = 64, height: int = 48, color: object = 0, **save: object) -> dict[str, Any]:
    """A workflow that needs no model: an image of one colour."""
    inputs = {"width": width, "height": height, "batch_size": 1, "color": color}
    return {
        "1": {"class_type": "EmptyImage", "inputs": inputs},
        "5": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "test", **save}},
    }


def slow(steps: int = 3, seed: object = 1, width: int = 64, height: int = 48) -> dict[str, Any]:
    """A workflow whose node reports its progress."""
    inputs = {"width": width, "height": height, "steps": steps, "seed": seed}
    return {
        "1": {"class_type": "SlowImage", "inputs": inputs},
        "5": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "slow"}},
    }


def _marker(number: int) -> dict[str, Any]:
    """The most work that counts; but no output needs its large nodes, so they are not executed."""
    latent = {"width": 16384, "height": 16384, "batch_size": 4096}
    return {
        **blank(1, 1, number),
        "8": {"class_type": "EmptyLatentImage", "inputs": latent},
        "9": {"class_type": "KSampler", "inputs": {"steps": 10_000}},
    }


def image_size(output: Mapping[str, Any]) -> tuple[int, int]:
    """Of an output with data, in base64 or as a data URI."""
    data: str = output["data"]
    if data.startswith("data:"):
        kind, _, data = data.partition(";base64,")
        assert kind == f"data:{output['mimetype']}"
    assert output["mimetype"] == "image/png"
    return size_of(base64.b64decode(data, validate=True))


class ComfyStack(Stack):
    """Autoscaler, ComfyUI and worker together."""

    def __init__(
        self,
        folder: Path,
        autoscaler: Autoscaler,
        comfy: ComfyServer,
        variables: Mapping[str, str] | None = None,
        app: str = COMFY_WORKER,
    ) -> None:
        super().__init__(folder, autoscaler, cast("Any", comfy), variables, app)
        self.comfy = comfy
        # Requests of `work_served`, each of more work than all others together.
        self._marks = 0

    def checks_signatures(self) -> bool:
        body = {"auth_data": self.auth_data(), "payload": {"workflow": blank()}, "session_id": "none"}
        return ask(self.url, "POST", CUSTOM, json.dumps(body).encode()).status == 410

    def start_ready(self, throughput: float = 1000.0) -> None:
        """The stand-in has written that it is loaded."""
        self.keep_benchmark(throughput)
        self.worker.start()
        self.wait_ready()

    def body(self, payload: Mapping[str, Any], request_idx: int | None = None) -> bytes:
        """A request's body."""
        idx = next_request_idx() if request_idx is None else request_idx
        return json.dumps({"auth_data": self.auth_data(request_idx=idx), "payload": payload}).encode()

    def ask(self, path: str, payload: Mapping[str, Any], request_idx: int | None = None) -> Answer:
        """One request, answered."""
        return ask(self.url, "POST", path, self.body(payload, request_idx))

    def run(self, workflow: Mapping[str, Any], **options: object) -> Answer:
        """A workflow of the client's own, answered."""
        return self.ask(CUSTOM, {"workflow": workflow, **options})

    def begin(
        self, workflow: Mapping[str, Any], request_idx: int | None = None, **options: object
    ) -> RawClient:
        """The same, sent; the rest is the caller's."""
        client = RawClient(self.url)
        client.post(CUSTOM, self.body({"workflow": workflow, **options}, request_idx))
        return client

    def work_served(self) -> float:
        """The workload served by all that has ended, as reported; waits until everything is."""
        self._marks += 1
        assert self.run(_marker(self._marks), outputs="file").status == 200
        total = 0.0

        def is_reported() -> bool:
            nonlocal total
            total = sum(report["cur_perf"] for report in self.reports) - self._marks * MOST
            return total >= 0

        self.wait_for_report(lambda _: is_reported(), "all that was served")
        return total

    def forget(self) -> None:
        """The stand-in as it was at its start, but for the numbers in the names of files."""
        comfy = self.comfy
        comfy.faults.clear()
        comfy.requests.clear()
        comfy.sockets.mode = Mode.NORMAL
        comfy.sockets.before = lambda _event, _socket: None
        comfy.engine.history_of_cached = True
        comfy.engine.writing = 0.0
        comfy.takes_ids = True
        comfy.engine.release()
        comfy.engine.free()


@contextmanager
def comfy_stack(
    folder: Path, signer: Signer, variables: Mapping[str, str] | None = None, app: str = COMFY_WORKER
) -> Generator[ComfyStack]:
    """Not started yet; ended with the block. Its servers may outlive a test."""
    with Autoscaler(signer=signer) as autoscaler, ComfyServer(folder / "model.log") as comfy:
        autoscaler_port = urlsplit(autoscaler.url).port or 0
        share_port(autoscaler_port, "pyworker-autoscaler")
        share_port(comfy.port, f"comfyui-{comfy.port}")
        stack = ComfyStack(folder, autoscaler, comfy, variables, app)
        try:
            yield stack
        finally:
            stack.worker.stop()
            unshare_port(autoscaler_port)
            unshare_port(comfy.port)
