"""ComfyUI's worker: three routes to ComfyUI's own API on port 8188."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import flask

from pyworker.backend import Backend
from pyworker.config import Settings
from pyworker.engines import COMFYUI
from pyworker.jobs import Job, JobHandler
from pyworker.server import start_server
from pyworker.upstream.origin import Origin
from workers.comfyui.benchmark import BenchmarkWorkflow
from workers.comfyui.data_types import ComfyPayload, CustomWorkflow, GenerateSync, TemplatePrompt
from workers.comfyui.errors import GenerationFailed, WorkflowError, failure_of
from workers.comfyui.execution import Comfy, Execution, Finished
from workers.comfyui.history import Entry
from workers.comfyui.inputs import with_uploads
from workers.comfyui.outputs import described, fetched
from workers.comfyui.settings import BenchmarkSettings, ComfySettings
from workers.comfyui.workflows import RANDOM_INT
from workers.comfyui.workload import units

MODEL_SERVER_URL = "http://127.0.0.1:8188"
LOG_FILE = Path("/var/log/portal/comfyui.log")
HEALTH = "/system_stats"
#: Seconds: a few images.
MAX_QUEUE_TIME = 60.0
# Of the benchmark; the first run loads the checkpoint.
_BENCHMARK_TIMEOUT = 300.0
_ALL_CACHED = (
    "ComfyUI had the result of every node in its cache and made nothing new: change an input, such as a seed"
)
_NOT_MEASURABLE = (
    "ComfyUI has the result of the benchmark's workflow in its cache: give it a seed, or an input that is "
    f"{RANDOM_INT}"
)

P = TypeVar("P", bound=ComfyPayload)


@dataclass(kw_only=True)
class ComfyHandler(JobHandler[P], Generic[P]):
    """A route that executes one workflow and responds with its outputs."""

    comfy: Comfy
    benchmark: BenchmarkWorkflow

    def perform(self, payload: P, job: Job) -> flask.Response:
        started = time.monotonic()
        try:
            finished = Execution(self.comfy, job).run(with_uploads(payload.workflow_to_run, job))
            failure = finished.entry.failure
            if failure is not None:
                raise failure_of(failure)
            if job.client_request is None and payload.workflow_to_run.keys() <= finished.entry.cached:
                raise GenerationFailed(_NOT_MEASURABLE)
            job.settle(units(payload.workflow_to_run, finished.entry.cached))
            executed = time.monotonic()
            files = finished.entry.files
            if payload.delivery == "file":
                output = [described(file) for file in files]
            else:
                limit = self.comfy.max_output_bytes
                output = fetched(files, job, limit, as_uri=payload.delivery == "data_uri")
        except WorkflowError as error:
            error.request_id = payload.name
            # The benchmark's workflow is ours, so its report may say all.
            raise error if job.client_request is not None else error.told() from error
        timings = _timings(finished.entry, executed - started, time.monotonic() - executed)
        return job.respond(_body(payload, finished, output, timings))


def _body(
    payload: ComfyPayload, finished: Finished, output: list[dict[str, Any]], timings: Mapping[str, float]
) -> dict[str, Any]:
    entry = finished.entry
    told: dict[str, Any] = {"prompt_id": finished.prompt_id, "outputs": entry.outputs, "status": entry.status}
    if finished.ignored:
        told["node_errors"] = finished.ignored
    return {
        "id": payload.name or finished.prompt_id,
        "status": "completed",
        "message": _message(payload, finished),
        "comfyui_response": told,
        "output": output,
        "timings": timings,
    }


def _message(payload: ComfyPayload, finished: Finished) -> str:
    parts: list[str] = []
    if finished.ignored:
        parts.append(f"ComfyUI ignored outputs for errors at the nodes {', '.join(finished.ignored)}")
    if payload.workflow_to_run.keys() <= finished.entry.cached:
        parts.append(_ALL_CACHED)
    elif not finished.entry.files:
        parts.append("the workflow made no files")
    return "; ".join(parts) or "completed"


def _timings(entry: Entry, waited: float, fetched_in: float) -> dict[str, float]:
    """In seconds. execution: by ComfyUI's clock, without the time in its queue."""
    seconds = {"execution": entry.execution_seconds, "until_done": waited, "outputs": fetched_in}
    return {name: round(value, 3) for name, value in seconds.items() if value is not None}


class CustomWorkflowHandler(ComfyHandler[CustomWorkflow]):
    """A workflow of the client's own."""

    @property
    def endpoint(self) -> str:
        return "/custom_workflow"

    @classmethod
    def payload_cls(cls) -> type[CustomWorkflow]:
        return CustomWorkflow

    def make_benchmark_payload(self) -> CustomWorkflow:
        return CustomWorkflow(self.benchmark.make(), outputs="file")


class PromptHandler(ComfyHandler[TemplatePrompt]):
    """A template of the worker's folder."""

    @property
    def endpoint(self) -> str:
        return "/prompt"

    @classmethod
    def payload_cls(cls) -> type[TemplatePrompt]:
        return TemplatePrompt

    def make_benchmark_payload(self) -> TemplatePrompt:
        return TemplatePrompt.for_test()


class GenerateSyncHandler(ComfyHandler[GenerateSync]):
    """The shape of the service's wrapper."""

    @property
    def endpoint(self) -> str:
        return "/generate/sync"

    @classmethod
    def payload_cls(cls) -> type[GenerateSync]:
        return GenerateSync

    def make_benchmark_payload(self) -> GenerateSync:
        return GenerateSync(workflow_json=self.benchmark.make(), return_outputs_as_base64=False)


def create_backend(settings: Settings) -> Backend:
    """Where ComfyUI is, what its log lines mean, and the templates and benchmark of this worker."""
    own = settings.read(ComfySettings)
    ComfyPayload.library.load(own.templates)
    comfy = Comfy(
        origin=Origin(settings.model_server_url or MODEL_SERVER_URL, settings.model_ca_file),
        api_key=settings.model_api_key,
        silence=settings.model_timeout,
        max_output_bytes=own.max_output_bytes,
    )
    benchmark = BenchmarkWorkflow(settings.read(BenchmarkSettings), Path(__file__).parent)
    return Backend(
        model_server_url=MODEL_SERVER_URL,
        model_log_file=LOG_FILE,
        allow_parallel_requests=False,
        benchmark_handler=CustomWorkflowHandler(comfy=comfy, benchmark=benchmark, benchmark_runs=2),
        log_actions=COMFYUI,
        max_queue_time=MAX_QUEUE_TIME,
        benchmark_timeout=_BENCHMARK_TIMEOUT,
        health_endpoint=HEALTH,
        settings=settings,
    )


def create_blueprint(backend: Backend) -> flask.Blueprint:
    """The routes of this worker."""
    blueprint = flask.Blueprint("comfyui", __name__)
    made = backend.benchmark_handler
    assert isinstance(made, CustomWorkflowHandler)
    for kind in (PromptHandler, CustomWorkflowHandler, GenerateSyncHandler):
        handler = kind(comfy=made.comfy, benchmark=made.benchmark)
        blueprint.add_url_rule(handler.endpoint, view_func=backend.create_handler(handler), methods=["POST"])
    return blueprint


if __name__ == "__main__":
    start_server("comfyui")
