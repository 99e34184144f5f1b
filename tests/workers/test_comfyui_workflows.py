"""Templates, workflows and their workload, and what is made of ComfyUI's JSON: without any server."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyworker.data_types import JsonDataException
from pyworker.errors import ConfigError
from tests.support.comfyui.stack import blank
from workers.comfyui import errors
from workers.comfyui.benchmark import BenchmarkWorkflow, stable_diffusion
from workers.comfyui.data_types import CustomWorkflow, GenerateSync, TemplatePrompt
from workers.comfyui.history import Entry, Place, place_of
from workers.comfyui.settings import TEMPLATES, BenchmarkSettings
from workers.comfyui.templates import Library, read_template
from workers.comfyui.workflows import RANDOM_INT, with_random_integers
from workers.comfyui.workload import FLAT, MOST, image_units, units

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=20,
)


def faults(workflow: object, **values: object) -> dict[str, Any]:
    """What a client is told of a request."""
    with pytest.raises(JsonDataException) as caught:
        CustomWorkflow.from_json_msg({"workflow": workflow, **values})
    return dict(caught.value.json_msg)


# -- the workload ----------------------------------------------------------------------------------------


def test_an_image_of_a_megapixel_with_28_steps_is_200_units() -> None:
    assert image_units(1024, 1024, 28) == 200
    # 85 + 175 for one tile, (0.61 * 20 + 6.57).
    assert image_units(512, 512, 20) == pytest.approx(200 * 260 * 18.77 / (785 * 23.65))
    assert image_units(513, 512, 20) == pytest.approx(200 * 435 * 18.77 / (785 * 23.65))


def test_the_size_and_steps_of_a_workflow_are_found() -> None:
    assert units(stable_diffusion(1024, 1024, 28)) == 200
    assert units(stable_diffusion(512, 512, 20)) == image_units(512, 512, 20)


def test_more_images_are_more_work() -> None:
    workflow = stable_diffusion(1024, 1024, 28)
    workflow["5"]["inputs"]["batch_size"] = 4
    assert units(workflow) == 800
    workflow["5"]["inputs"]["length"] = 81  # a video: 21 frames in its latent
    assert units(workflow) == 800 * 21


def test_two_samplers_share_the_steps() -> None:
    workflow = stable_diffusion(1024, 1024, 25)
    sampler = workflow["3"]
    workflow["3"] = {**sampler, "inputs": {**sampler["inputs"], "start_at_step": 0, "end_at_step": 20}}
    workflow["33"] = {**sampler, "inputs": {**sampler["inputs"], "start_at_step": 20, "end_at_step": 10000}}
    assert units(workflow) == image_units(1024, 1024, 20) + image_units(1024, 1024, 5)


def test_a_workflow_without_size_or_steps_is_flat() -> None:
    assert units(blank()) == FLAT
    without_size = {key: node for key, node in stable_diffusion().items() if key != "5"}
    assert units(without_size) == FLAT


def test_what_was_cached_is_no_work() -> None:
    workflow = stable_diffusion(1024, 1024, 28)
    assert units(workflow, {"4", "5", "6", "7"}) == 200
    assert units(workflow, set(workflow)) == 0
    assert units(blank(), {"1", "elsewhere"}) == FLAT / 2


@pytest.mark.parametrize("value", [10**400, -(10**400), 0, -1, True, "512", 1e300, None, [1]])
def test_absurd_numbers_make_no_absurd_workload(value: object) -> None:
    for node_id, name in (("5", "width"), ("5", "height"), ("5", "batch_size"), ("3", "steps")):
        workflow = stable_diffusion()
        workflow[node_id]["inputs"][name] = value
        assert 0 <= units(workflow) <= MOST


# -- workflows -------------------------------------------------------------------------------------------


def test_a_random_integer_replaces_a_value_and_no_text() -> None:
    workflow = blank(color=RANDOM_INT, filename_prefix=f"a {RANDOM_INT}")
    before = copy.deepcopy(workflow)
    drawn = {with_random_integers(workflow)["1"]["inputs"]["color"] for _ in range(5)}
    assert len(drawn) > 1
    assert all(0 <= number < 2**32 for number in drawn)
    assert with_random_integers(workflow)["5"]["inputs"]["filename_prefix"] == f"a {RANDOM_INT}"
    assert workflow == before


def test_a_workflow_of_the_editor_is_told_apart() -> None:
    told = faults({"nodes": [{"id": 1}], "links": []})
    assert told == {"workflow": "is in the editor's format: export it from ComfyUI with Export (API)"}


def test_a_node_of_another_shape_is_named() -> None:
    assert faults({}) == {"workflow": "is empty: expected the nodes of a workflow"}
    assert faults({"1": 7}) == {"workflow.1": "must be an object with class_type and inputs"}
    assert faults({"1": {"inputs": {}}}) == {"workflow.1.class_type": "must be the name of a node's class"}
    assert faults({"1": {"class_type": "A"}}) == {"workflow.1.inputs": "must be an object"}
    assert len(faults({str(number): None for number in range(5000)})) == 20
    assert faults({"x" * 5000: None}).popitem()[0] == f"workflow.{'x' * 99}…"


def test_what_is_not_the_workflow_is_checked_too() -> None:
    assert faults(blank(), outputs="s3") == {"outputs": "Input should be 'data_uri' or 'file'"}
    assert faults([blank()]) == {"workflow": "must be an object"}
    assert list(faults(blank(), request_id="x" * 201)) == ["request_id"]


def test_a_request_may_be_wrapped() -> None:
    payload = CustomWorkflow.from_json_msg({"input": {"workflow": blank(), "outputs": "file"}})
    assert (payload.workflow_to_run, payload.outputs) == (blank(), "file")
    with pytest.raises(JsonDataException) as caught:
        CustomWorkflow.from_json_msg({"input": {"workflow": {"1": 7}}})
    assert list(caught.value.json_msg) == ["input.workflow.1"]


# -- templates -------------------------------------------------------------------------------------------

TEMPLATE = {
    "parameters": {
        "text": ["1.text", "2.text"],
        "seed": "3.seed",
        "cfg": "3.cfg",
        "tiled": "3.tiled",
        "image": "4.image",
    },
    "workflow": {
        "1": {"class_type": "A", "inputs": {"text": "default", "clip": ["4", 0]}},
        "2": {"class_type": "A", "inputs": {"text": "default"}},
        "3": {"class_type": "B", "inputs": {"seed": RANDOM_INT, "cfg": 8, "tiled": False}},
        "4": {"class_type": "C", "inputs": {"image": None}},
    },
}


@pytest.fixture
def library(tmp_path: Path) -> Library:
    (tmp_path / "one.json").write_text(json.dumps(TEMPLATE))
    (tmp_path / "bare.json").write_text(json.dumps(blank()))
    (tmp_path / "notes.txt").write_text("no template")
    made = Library()
    made.load(tmp_path)
    return made


def fill(library: Library, name: str, **values: object) -> dict[str, Any]:
    return library.fill(name, values, "template", "values")


def refused(library: Library, name: str, **values: object) -> dict[str, Any]:
    with pytest.raises(JsonDataException) as caught:
        fill(library, name, **values)
    return dict(caught.value.json_msg)


@pytest.mark.parametrize("text", ['", "x": "', "{prompt}", "__RANDOM_INT__ ", "\\\n\x00\u2028", "$(id)", ""])
def test_a_value_stays_a_value(library: Library, text: str) -> None:
    filled = fill(library, "one", text=text, image="cat.png", cfg=7.5, tiled=True)
    assert filled["1"]["inputs"] == {"text": text, "clip": ["4", 0]}
    assert filled["2"]["inputs"] == {"text": text}
    assert filled["3"]["inputs"] == {"seed": RANDOM_INT, "cfg": 7.5, "tiled": True}
    assert set(filled) == set(TEMPLATE["workflow"])
    assert fill(library, "one", image="x")["1"]["inputs"]["text"] == "default", "the template stays as it is"


def test_a_wrong_value_is_named(library: Library) -> None:
    assert refused(library, "one") == {"values.image": "missing parameter"}
    told = refused(library, "one", image=["1", 0], text=7, seed="7", cfg=True, tiled=1, size=3)
    assert told == {
        "values.image": "must be text, a number, true or false",
        "values.text": "must be text",
        "values.seed": "must be a number",
        "values.cfg": "must be a number",
        "values.tiled": "must be true or false",
        "values.size": "the template one has no such parameter; it has: text, seed, cfg, tiled, image",
    }
    assert refused(library, "two") == {"template": "there is no such template; there are: bare, one"}
    assert refused(library, "../one")["template"].startswith("there is no such template")
    assert len(refused(library, "bare", **{str(number): 1 for number in range(5000)})) == 20


def test_a_bare_workflow_is_a_template_without_parameters(library: Library) -> None:
    assert fill(library, "bare") == blank()


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("{", "is not JSON"),
        ("[]", "workflow: is empty"),
        ('{"1": {"class_type": "A"}}', "workflow.1.inputs: must be an object"),
        (json.dumps({**TEMPLATE, "parameters": {"x": "9.text"}}), "parameters.x: '9.text' names no input"),
        (json.dumps({**TEMPLATE, "parameters": {"x": "1.clip"}}), "'1.clip' is a link to another node"),
        (json.dumps({**TEMPLATE, "parameters": {"x": []}}), "parameters.x: [] names no input"),
        (json.dumps({**TEMPLATE, "parameters": {"x": ["1.text", "3.cfg"]}}), "inputs of several types"),
    ],
)
def test_a_file_that_is_no_template_is_named(tmp_path: Path, content: str, problem: str) -> None:
    path = tmp_path / "broken.json"
    path.write_text(content)
    with pytest.raises(ConfigError) as caught:
        read_template(path)
    assert str(caught.value).startswith(str(path))
    assert problem in str(caught.value)


def test_a_folder_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"the templates in .* cannot be read: No such file or directory"):
        Library().load(tmp_path / "none")


def test_the_templates_of_the_worker_are_whole() -> None:
    made = Library()
    made.load(TEMPLATES)
    assert made.names == ["blank_image", "text_to_image"]
    assert fill(made, "text_to_image", prompt="a cat")["6"]["inputs"]["text"] == "a cat"
    assert TemplatePrompt.for_test().count_workload() == image_units(512, 512, 20)


# -- /generate/sync --------------------------------------------------------------------------------------


def generate(**fields: object) -> GenerateSync:
    GenerateSync.library.load(TEMPLATES)
    return GenerateSync.from_json_msg({"input": fields})


def generate_faults(**fields: object) -> dict[str, Any]:
    with pytest.raises(JsonDataException) as caught:
        generate(**fields)
    return dict(caught.value.json_msg)


def test_a_workflow_or_a_modifier_is_taken() -> None:
    assert generate(workflow_json=blank(), modifier="").workflow_to_run == blank()
    modified = generate(modifier="blank_image", modifications={"width": 99}, workflow_json={})
    assert modified.workflow_to_run["1"]["inputs"]["width"] == 99
    assert generate(workflow_json=blank()).delivery == "base64"
    assert generate(workflow_json=blank(), return_outputs_as_base64=False).delivery == "file"


def test_what_is_not_done_is_refused_by_name() -> None:
    empty: dict[str, Any] = {
        "s3": {"bucket_name": "", "access_key_id": None},
        "webhook": {"url": "", "extra_params": {}},
    }
    assert generate(workflow_json=blank(), **empty).workflow_to_run == blank()
    assert generate(workflow_json=blank(), s3=None, webhook=None).workflow_to_run == blank()
    told = generate_faults(workflow_json=blank(), s3={"bucket_name": "b"}, webhook={"url": "http://x"})
    assert set(told) == {"input.s3", "input.webhook"}
    assert "is not supported" in told["input.s3"]


def test_neither_or_both_is_refused() -> None:
    assert set(generate_faults()) == {"input.workflow_json"}
    assert set(generate_faults(workflow_json=blank(), modifier="blank_image")) == {"input.modifier"}
    assert set(generate_faults(modifier="none")) == {"input.modifier"}
    assert set(generate_faults(modifier="blank_image", modifications={"x": 1})) == {"input.modifications.x"}


# -- the benchmark ---------------------------------------------------------------------------------------


def test_the_benchmark_has_another_seed_each_time(tmp_path: Path) -> None:
    made = BenchmarkWorkflow(BenchmarkSettings(width=640, height=320, steps=7), tmp_path)
    workflow, other = made.make(), made.make()
    assert workflow["3"]["inputs"]["seed"] != other["3"]["inputs"]["seed"]
    assert (workflow["5"]["inputs"]["width"], workflow["5"]["inputs"]["height"]) == (640, 320)
    assert workflow["3"]["inputs"]["steps"] == 7


def test_a_file_is_measured_instead(tmp_path: Path) -> None:
    (tmp_path / "benchmark.json").write_text(json.dumps(blank(width=7)))
    assert BenchmarkWorkflow(BenchmarkSettings(), tmp_path).make() == blank(width=7)
    path = tmp_path / "other.json"
    path.write_text(json.dumps(blank(width=8, color=RANDOM_INT)))
    made = BenchmarkWorkflow(BenchmarkSettings(path=path), tmp_path).make()
    assert made["1"]["inputs"]["width"] == 8
    assert isinstance(made["1"]["inputs"]["color"], int)


# -- what ComfyUI says -----------------------------------------------------------------------------------


@given(JSON)
def test_no_history_is_too_odd(value: Any) -> None:
    for history in (value, {"me": value}, {"me": {"outputs": value, "status": {"messages": value}}}):
        entry = Entry.of(history, "me") or Entry()
        assert isinstance(entry.files, list)
        assert isinstance(entry.cached, frozenset)
        assert entry.failure is None or errors.failure_of(entry.failure).body()
        assert entry.execution_seconds is None or entry.execution_seconds >= 0


@given(JSON)
def test_no_refusal_is_too_odd(value: Any) -> None:
    shapes = (value, {"error": value}, {"node_errors": value}, {"node_errors": {"1": {"errors": [value]}}})
    for body in shapes:
        refusal = errors.refusal(body)
        assert json.dumps(refusal.body())
        assert refusal.message == "ComfyUI refused the workflow"


@given(JSON)
def test_no_queue_is_too_odd(value: Any) -> None:
    assert place_of({"queue_running": value, "queue_pending": [value]}, "my-prompt", "me-too") is None


def test_a_prompt_is_found_in_the_queue() -> None:
    queue: dict[str, Any] = {
        "queue_running": [[0, "a", {}, {"client_id": "x"}, []]],
        "queue_pending": [[1, "b", {}, {}, []]],
    }
    assert place_of(queue, "a", "") == place_of(queue, "other", "x") == Place(0, "a")
    assert place_of(queue, "b", "y") == Place(1, "b")
    assert place_of(queue, "c", "y") is None


def test_a_message_that_may_be_logged_holds_nothing_of_the_client() -> None:
    secret = "a secret prompt"
    body = {
        "error": {"type": secret, "message": secret},
        "node_errors": {secret: {"errors": [{"message": secret}]}},
    }
    assert secret not in str(errors.refusal(body))
    assert secret in str(errors.refusal(body).body())
    data = {"node_id": secret, "node_type": secret, "exception_type": secret, "exception_message": secret}
    for name in ("execution_error", "execution_interrupted"):
        failure = Entry(status={"messages": [[name, data]]}).failure
        assert failure is not None
        assert secret not in str(errors.failure_of(failure))
        assert secret in str(errors.failure_of(failure).body())


def test_many_and_long_errors_are_cut() -> None:
    error = {
        "type": "x" * 10**6,
        "message": "y" * 10**6,
        "details": "z" * 10**6,
        "extra_info": {"input_name": "i"},
    }
    body = {"error": error, "node_errors": {str(n): {"errors": [error] * 100} for n in range(1000)}}
    assert len(json.dumps(errors.refusal(body).body())) < 1_000_000


def test_many_files_are_cut() -> None:
    entry = Entry(outputs={"1": {"images": [{"filename": f"{number}.png"} for number in range(5000)]}})
    assert len(entry.files) == 1000
    assert entry.files[0].path == "output/0.png"
