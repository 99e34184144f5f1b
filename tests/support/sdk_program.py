"""A program of the public SDK with its surroundings: on our engine, or on its own."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path

from pyworker.local.autoscaler import Autoscaler
from tests.support.http import Answer, RawClient, ask, next_request_idx
from tests.support.process import ROOT
from tests.support.scripted import ScriptedServer
from tests.support.stack import Stack
from tests.support.waiting import DEADLINE

PROGRAMS = ROOT / "tests" / "sdk" / "programs"
OUR_IMPORT = "from pyworker.sdk import"
THEIR_IMPORT = "from vastai import"


class ProgramStack(Stack[ScriptedServer]):
    """A worker that is one file, `worker.py` in `folder`."""

    def __init__(
        self,
        folder: Path,
        autoscaler: Autoscaler,
        model: ScriptedServer,
        program: Path,
        *,
        python: Path | None = None,
        variables: Mapping[str, str] | None = None,
    ) -> None:
        """python: has the public SDK, on whose engine the program then runs; None: ours does."""
        own = {"MODEL_SERVER_URL": "", "PROGRAM_MODEL_PORT": str(model.port)}
        super().__init__(folder, autoscaler, model, {**own, **(variables or {})}, program.stem)
        text = program.read_text("utf-8")
        assert text.count(OUR_IMPORT) == 1, f"{program} has not one import line"
        if python is not None:
            text = text.replace(OUR_IMPORT, THEIR_IMPORT)
        (folder / "worker.py").write_text(text, "utf-8")
        self.worker.command = (str(python or sys.executable), "worker.py")

    def wait_loaded(self, timeout: float = DEADLINE) -> None:
        """Until a report says that the worker can serve."""
        self.wait_for_report(
            lambda report: report["max_perf"] > 0 and not report["error_msg"],
            "a report of a ready worker",
            timeout,
        )

    def body(self, payload: object, request_idx: int) -> bytes:
        """A signed request of this payload."""
        return json.dumps({"auth_data": self.auth_data(request_idx=request_idx), "payload": payload}).encode()

    def call(self, path: str, payload: object) -> tuple[Answer, int]:
        """Its response, and its index in the reports."""
        index = next_request_idx()
        return ask(self.url, "POST", path, self.body(payload, index)), index

    def begin(self, path: str, payload: object) -> tuple[RawClient, int]:
        """The same, sent only; reading the response and closing the connection are the caller's."""
        index = next_request_idx()
        client = RawClient(self.url)
        client.post(path, self.body(payload, index))
        return client, index

    def work_served(self, expected: float) -> float:
        """What the reports say in sum, once it is `expected` or the time is over."""
        self.autoscaler.fleet.wait_for(lambda _: self._served() >= expected, DEADLINE)
        return self._served()

    def _served(self) -> float:
        return sum(float(str(report["cur_perf"])) for report in self.reports)
