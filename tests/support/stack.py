"""Autoscaler, model server and worker together, with the words a test needs to speak to them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Generic, Protocol

from typing_extensions import TypeVar

from pyworker.local.autoscaler import Autoscaler
from pyworker.local.messages import FinishedRequest
from pyworker.local.signing import current_message
from tests.support.http import Answer, RawClient, ask, next_request_idx
from tests.support.process import WorkerProcess
from tests.support.scripted import ScriptedServer
from tests.support.waiting import DEADLINE, wait_until

ECHO_WORKER = "pyworker:create_app('tests.support.echo_worker')"
BOTH_WAYS = "pyworker:create_app('tests.support.both_ways')"
PLAIN_WORKER = "pyworker:create_app('tests.support.plain_worker')"
#: Of a client outside the fleet, for the plain worker.
API_KEY = "sk-key-of-this-test"
MASTER_TOKEN = "master-token-of-this-test"
MODEL_API_KEY = "api-key-of-the-model"
# Of the shared worker.
MAX_BODY = 2**20
LOADED_LINE = "echo model is loaded"
ERROR_LINE = "echo model has failed"
INFO_LINE = "echo model says"


class HasUrl(Protocol):
    """A model server."""

    @property
    def url(self) -> str:
        """Where it listens."""
        ...


Model = TypeVar("Model", bound=HasUrl, default=ScriptedServer)


class Stack(Generic[Model]):
    """One worker with its surroundings."""

    def __init__(
        self,
        folder: Path,
        autoscaler: Autoscaler,
        model: Model,
        variables: Mapping[str, str] | None = None,
        app: str = ECHO_WORKER,
    ) -> None:
        self.folder = folder
        self.autoscaler = autoscaler
        self.model = model
        self.variables = {
            "REPORT_ADDR": autoscaler.url,
            "MODEL_SERVER_URL": model.url,
            "MASTER_TOKEN": MASTER_TOKEN,
            **(variables or {}),
        }
        self._app = app
        # Workload of the requests of `served`.
        self._marks = 0.0
        self.worker = WorkerProcess(app, folder, self.variables)

    def again(self, variables: Mapping[str, str] | None = None) -> None:
        """A new process in the same folder, as after a restart of the instance; not started yet."""
        self.worker.stop()
        self.worker = WorkerProcess(self._app, self.folder, {**self.variables, **(variables or {})})

    @property
    def url(self) -> str:
        return self.worker.url

    def keep_benchmark(self, throughput: float) -> None:
        """What an earlier run measured."""
        (self.folder / ".has_benchmark").write_text(f"{throughput}\n", "utf-8")

    def start_ready(self, throughput: float = 1000.0) -> None:
        """Start the worker with a benchmark result of an earlier run, and wait until it is ready."""
        self.keep_benchmark(throughput)
        self.worker.say(LOADED_LINE)
        self.worker.start()
        self.wait_ready()

    def wait_ready(self) -> None:
        """Until a report of this very process says that it can serve."""
        self.wait_for_report(
            lambda report: report["max_perf"] > 0 and not report["error_msg"] and report["url"] == self.url,
            "a report of a ready worker",
        )
        wait_until(self.checks_signatures, "the public key at the worker")

    def checks_signatures(self) -> bool:
        """Asked with a session that does not exist: that costs nothing, and nothing of it is counted."""
        body = json.dumps({"auth_data": self.auth_data(), "payload": {"prompt": ""}, "session_id": "none"})
        return ask(self.url, "POST", "/pass", body.encode()).status == 410

    # -- reports -----------------------------------------------------------------------------------------

    @property
    def reports(self) -> list[Mapping[str, Any]]:
        """The status reports of this process, oldest first."""
        return [report for report in self.autoscaler.fleet.reports if report["url"] == self.url]

    def wait_for_report(
        self, condition: Callable[[Mapping[str, Any]], object], what: str, timeout: float = DEADLINE
    ) -> None:
        """Until some report of this process fulfils `condition`."""
        found = self.autoscaler.fleet.wait_for(
            lambda _: any(condition(report) for report in self.reports), timeout
        )
        assert found, f"not within {timeout:g} s: {what}; the last report: {self.reports[-1:]}"

    def wait_for_next_report(
        self, condition: Callable[[Mapping[str, Any]], object], what: str, timeout: float = DEADLINE
    ) -> None:
        """Until a report that comes after this moment fulfils `condition`."""
        seen = len(self.reports)
        found = self.autoscaler.fleet.wait_for(
            lambda _: any(condition(report) for report in self.reports[seen:]), timeout
        )
        assert found, f"not within {timeout:g} s: {what}; reports: {self.reports[seen:]}"

    def served(self: Stack[ScriptedServer]) -> float:
        """The workload served by all that has ended, as reported; waits until everything has."""
        # Those with an API key are in no list.
        nothing = self.autoscaler.fleet.wait_for(lambda _: self.reports[-1]["cur_load"] == 0, DEADLINE)
        assert nothing, self.reports[-1]
        seen = len(self.reports)
        mark = 1_000_000.0  # of a last request, which ends after all others
        self.model.once("/pass", b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")
        assert self.post("/pass", max_tokens=int(mark), work=mark).status == 200
        before = sum(report["cur_perf"] for report in self.reports[:seen])
        self.wait_for_report(
            lambda _: sum(report["cur_perf"] for report in self.reports) >= before + mark, "its workload"
        )
        total = sum(report["cur_perf"] for report in self.reports)
        self._marks += mark
        return total - self._marks

    def wait_draining(self) -> None:
        """Until a report says that no request would be served now, without calling that an error."""
        self.wait_for_next_report(
            lambda report: report["max_perf"] == 0 and not report["error_msg"], "a report of the drain"
        )

    def wait_in_hand(self, count: int) -> None:
        """Until the latest report speaks of so many requests in hand."""
        found = self.autoscaler.fleet.wait_for(
            lambda _: bool(self.reports) and self.reports[-1]["num_requests_working"] == count, DEADLINE
        )
        last = self.reports[-1]
        assert count or (last["cur_load"], last["working_request_idxs"]) == (0, []), last
        assert found, f"never {count} requests in hand; the last report: {self.reports[-1:]}"

    def records(self, request_idx: int) -> list[FinishedRequest]:
        """What was reported of this request once it ended."""
        return [record for record in self.autoscaler.fleet.finished if record.request_idx == request_idx]

    def outcome(self, request_idx: int) -> str:
        """How this request ended, as reported; fails where that was said more than once."""
        found = self.autoscaler.fleet.wait_for(lambda _: bool(self.records(request_idx)), DEADLINE)
        assert found, f"request {request_idx} was never reported"
        [record] = self.records(request_idx)
        return record.status

    # -- requests ----------------------------------------------------------------------------------------

    def auth_data(self, **changes: object) -> dict[str, Any]:
        """What the autoscaler would hand to a client of this worker now."""
        url = str(changes.get("url", self.url))
        return {
            "signature": self.autoscaler.signer.sign(current_message(url)),
            "url": url,
            "endpoint": "echo",
            "cost": 1.0,
            "reqnum": 1,
            "request_idx": next_request_idx(),
            **changes,
        }

    def envelope(self, prompt: str = "hello", *, request_idx: int | None = None, **payload: object) -> bytes:
        """A request's body."""
        auth_data = self.auth_data() if request_idx is None else self.auth_data(request_idx=request_idx)
        return json.dumps({"auth_data": auth_data, "payload": {"prompt": prompt, **payload}}).encode()

    def post(
        self, path: str, prompt: str = "hello", *, request_idx: int | None = None, **payload: object
    ) -> Answer:
        """One good request, answered."""
        return ask(self.url, "POST", path, self.envelope(prompt, request_idx=request_idx, **payload))

    def open(
        self, path: str, prompt: str = "hello", *, request_idx: int | None = None, **payload: object
    ) -> RawClient:
        """One good request, sent; reading the answer and closing the connection are the caller's."""
        client = RawClient(self.url)
        client.post(path, self.envelope(prompt, request_idx=request_idx, **payload))
        return client

    def __repr__(self) -> str:
        return f"<Stack {self.worker!r} {self.model!r}>"


#: Makes a stack of the test's own: `new_stack(variables, app)`.
NewStack = Callable[..., Stack]
