"""The worker of ComfyUI from its start to its end: the benchmark, settings, deadlines, a drain."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Protocol

import pytest

from pyworker.local.signing import Signer
from tests.support.comfyui.sockets import ClientSocket
from tests.support.comfyui.stack import ComfyStack, blank, comfy_stack, slow
from tests.support.http import next_request_idx
from workers.comfyui.benchmark import stable_diffusion


class NewComfy(Protocol):
    def __call__(self, variables: Mapping[str, str] | None = None) -> ComfyStack: ...


@pytest.fixture
def new_comfy(tmp_path: Path, signing_key: Signer) -> Iterator[NewComfy]:
    with ExitStack() as ending:

        def make(variables: Mapping[str, str] | None = None) -> ComfyStack:
            return ending.enter_context(comfy_stack(tmp_path, signing_key, variables))

        yield make


def seeds(stack: ComfyStack) -> list[int]:
    """Of all prompts that were executed."""
    workflows = [
        stack.comfy.engine.history[prompt_id]["prompt"][2] for prompt_id in stack.comfy.engine.executed
    ]
    return [workflow["3"]["inputs"]["seed"] for workflow in workflows]


def test_the_benchmark_runs_the_built_in_workflow(new_comfy: NewComfy) -> None:
    sizes = {"BENCHMARK_TEST_WIDTH": "128", "BENCHMARK_TEST_HEIGHT": "64", "BENCHMARK_TEST_STEPS": "3"}
    stack = new_comfy(sizes)
    stack.worker.start()
    stack.wait_ready()
    drawn = seeds(stack)
    assert len(drawn) == 3, "a warm-up and two rounds of one request"
    assert len(set(drawn)) == 3
    [entry, *_] = stack.comfy.engine.history.values()
    sampler, latent = entry["prompt"][2]["3"]["inputs"], entry["prompt"][2]["5"]["inputs"]
    assert (latent["width"], latent["height"], sampler["steps"]) == (128, 64, 3)
    assert (stack.folder / ".has_benchmark").exists()
    assert "/view" not in stack.comfy.paths("GET"), "its files are of no use"


def test_the_benchmark_runs_a_workflow_of_a_file(new_comfy: NewComfy, tmp_path: Path) -> None:
    path = tmp_path / "mine.json"
    path.write_text(json.dumps(slow(seed="__RANDOM_INT__", width=16)))
    stack = new_comfy({"BENCHMARK_JSON_PATH": str(path)})
    stack.worker.start()
    stack.wait_ready()
    assert len(stack.comfy.engine.executed) == 3
    inputs = [entry["prompt"][2]["1"]["inputs"] for entry in stack.comfy.engine.history.values()]
    assert {given["width"] for given in inputs} == {16}
    assert len({given["seed"] for given in inputs}) == 3


def test_a_benchmark_that_is_cached_is_told(new_comfy: NewComfy, tmp_path: Path) -> None:
    path = tmp_path / "mine.json"
    path.write_text(json.dumps(blank()))
    stack = new_comfy({"BENCHMARK_JSON_PATH": str(path)})
    stack.worker.start()
    stack.wait_for_report(lambda report: "in its cache: give it a seed" in report["error_msg"], "why")


def test_a_checkpoint_that_is_missing_is_told(new_comfy: NewComfy, tmp_path: Path) -> None:
    path = tmp_path / "mine.json"
    workflow = stable_diffusion()
    workflow["4"]["inputs"]["ckpt_name"] = "none.safetensors"
    path.write_text(json.dumps(workflow))
    stack = new_comfy({"BENCHMARK_JSON_PATH": str(path)})
    stack.worker.start()
    told = "node 4 (CheckpointLoaderSimple): Value not in list: ckpt_name: 'none.safetensors' not in"
    stack.wait_for_report(lambda report: told in report["error_msg"], "what is wrong")


@pytest.mark.parametrize(
    ("variable", "value", "told"),
    [
        ("BENCHMARK_TEST_STEPS", "0", "BENCHMARK_TEST_STEPS='0' is not valid: expected an integer between 1"),
        (
            "BENCHMARK_JSON_PATH",
            "/none.json",
            "BENCHMARK_JSON_PATH='/none.json' is not valid: expected the path",
        ),
        ("COMFYUI_TEMPLATES", "/none", "COMFYUI_TEMPLATES='/none' is not valid: "),
        (
            "COMFYUI_MAX_OUTPUT_BYTES",
            "much",
            "COMFYUI_MAX_OUTPUT_BYTES='much' is not valid: expected an integer",
        ),
    ],
)
def test_a_wrong_setting_is_told_in_one_line(
    new_comfy: NewComfy, variable: str, value: str, told: str
) -> None:
    stack = new_comfy({variable: value})
    stack.worker.launch()
    assert stack.worker.wait() != 0
    assert told in stack.worker.log


def test_a_template_folder_of_ones_own(new_comfy: NewComfy, tmp_path: Path) -> None:
    folder = tmp_path / "templates"
    folder.mkdir()
    (folder / "mine.json").write_text(json.dumps({"parameters": {"w": "1.width"}, "workflow": blank()}))
    stack = new_comfy({"COMFYUI_TEMPLATES": str(folder)})
    stack.start_ready()
    assert stack.ask("/prompt", {"template": "mine", "values": {"w": 20}}).status == 200
    told = stack.ask("/prompt", {"template": "blank_image"}).object()["payload"]["template"]
    assert told == "there is no such template; there are: mine"


def test_no_progress_is_a_timeout_and_interrupts_the_prompt(new_comfy: NewComfy) -> None:
    stack = new_comfy({"MODEL_TIMEOUT": "2"})
    stack.start_ready()
    engine = stack.comfy.engine
    # With progress it may take longer.
    pause = threading.Event()

    def take_time(event: str, _: ClientSocket) -> None:
        if event == "progress":
            pause.wait(0.6)

    stack.comfy.sockets.before = take_time
    assert stack.run(slow(steps=6)).status == 200
    engine.hold("step 2")
    request_idx = next_request_idx()
    with stack.begin(slow(steps=3, seed=2), request_idx) as client:
        prompt_id = engine.wait_running()
        answer = client.answer()
    assert answer.status == 504
    assert answer.object()["error"] == "the prompt made no progress in ComfyUI for 2 s"
    engine.wait_for(lambda: prompt_id in engine.history, "its interruption")
    assert f"Interrupting prompt {prompt_id}" in stack.comfy.lines
    assert stack.outcome(request_idx) == "Error"
    engine.release("step 2")
    assert stack.run(blank()).status == 200


def test_a_prompt_whose_id_never_came_is_interrupted_by_the_one_in_the_queue(new_comfy: NewComfy) -> None:
    stack = new_comfy({"MODEL_TIMEOUT": "1"})
    stack.comfy.takes_ids = False
    stack.start_ready()
    engine = stack.comfy.engine
    engine.hold("SlowImage")
    engine.hold("answering")
    assert stack.run(slow()).status == 504
    engine.wait_for(lambda: engine.executed, "its interruption")
    engine.release("answering")
    engine.release("SlowImage")
    assert f"Interrupting prompt {engine.executed[-1]}" in stack.comfy.lines


def test_the_end_of_the_worker_interrupts_its_prompt(new_comfy: NewComfy) -> None:
    stack = new_comfy({"DRAIN_TIMEOUT": "1"})
    stack.start_ready()
    engine = stack.comfy.engine
    engine.hold("SlowImage")
    request_idx = next_request_idx()
    with stack.begin(slow(), request_idx) as client:
        prompt_id = engine.wait_running()
        stack.worker.terminate()
        answer = client.answer()
    assert answer.status == 503
    assert stack.worker.wait() == 0
    engine.wait_for(lambda: prompt_id in engine.history, "its interruption")
    assert stack.outcome(request_idx) == "Error"


def test_a_drain_lets_a_prompt_finish(new_comfy: NewComfy) -> None:
    stack = new_comfy({"DRAIN_TIMEOUT": "20"})
    stack.start_ready()
    engine = stack.comfy.engine
    engine.hold("SlowImage")
    with stack.begin(slow()) as client:
        engine.wait_running()
        stack.worker.terminate()
        stack.wait_draining()
        engine.release("SlowImage")
        assert client.answer().status == 200
    assert stack.worker.wait() == 0


def test_comfyui_that_is_gone_is_a_bad_gateway(new_comfy: NewComfy) -> None:
    stack = new_comfy()
    stack.start_ready()
    stack.comfy.engine.hold("SlowImage")
    with stack.begin(slow()) as client:
        stack.comfy.engine.wait_running()
        stack.comfy.close()
        assert client.answer().status == 502
    assert stack.run(blank()).status == 502
