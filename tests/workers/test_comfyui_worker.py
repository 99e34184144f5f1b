"""The worker of ComfyUI in front of the stand-in: what clients get, and what happens in ComfyUI."""

from __future__ import annotations

import base64
import contextlib
import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pyworker.local.signing import Signer
from tests.support.comfyui.png import png, size_of
from tests.support.comfyui.server import Fault
from tests.support.comfyui.sockets import ClientSocket, Mode
from tests.support.comfyui.stack import CUSTOM, ComfyStack, blank, comfy_stack, image_size, slow
from tests.support.http import Answer, ask, next_request_idx
from tests.support.process import ROOT
from tests.support.stack import MODEL_API_KEY
from workers.comfyui import client

# Bytes; a picture of one colour above 4096 x 4096 pixels is larger.
MAX_OUTPUT = 40_000
PROCESS_SECONDS = 60


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory, signing_key: Signer) -> Iterator[ComfyStack]:
    variables = {"COMFYUI_MAX_OUTPUT_BYTES": str(MAX_OUTPUT), "MODEL_API_KEY": MODEL_API_KEY}
    with comfy_stack(tmp_path_factory.mktemp("comfyui"), signing_key, variables) as stack:
        stack.start_ready()
        yield stack


@pytest.fixture
def stack(shared: ComfyStack) -> Iterator[ComfyStack]:
    shared.forget()
    yield shared
    # Whatever a test has done, the worker serves, and no request ever named an origin.
    assert all("Origin" not in headers for _, _, headers in shared.comfy.requests)
    shared.forget()
    answer = shared.run(blank(color=7))
    assert answer.status == 200, answer
    assert shared.reports[-1]["error_msg"] == ""


def body_of(answer: Answer, status: int = 200) -> dict[str, Any]:
    assert answer.status == status, answer
    return answer.object()


# -- what a client gets ----------------------------------------------------------------------------------


def test_the_images_of_a_workflow(stack: ComfyStack) -> None:
    before = stack.work_served()
    stack.comfy.requests.clear()
    request_idx = next_request_idx()
    body = body_of(stack.ask(CUSTOM, {"workflow": blank(), "request_id": "mine"}, request_idx))
    paths = stack.comfy.paths("GET")
    assert (body["id"], body["status"], body["message"]) == ("mine", "completed", "completed")
    [output] = body["output"]
    assert image_size(output) == (64, 48)
    about = {name: output[name] for name in ("node_id", "output_type", "type", "subfolder")}
    assert about == {"node_id": "5", "output_type": "images", "type": "output", "subfolder": ""}
    assert output["local_path"] == f"output/{output['filename']}"
    prompt_id = body["comfyui_response"]["prompt_id"]
    assert body["comfyui_response"]["outputs"] == stack.comfy.engine.history[prompt_id]["outputs"]
    assert set(body["timings"]) == {"execution", "until_done", "outputs"}
    assert stack.outcome(request_idx) == "Success"
    assert stack.work_served() - before == 100
    # It was told of the end by the websocket, and asked once for the result.
    assert [path for path in paths if path.startswith("/history")] == [f"/history/{prompt_id}"]
    assert "/queue" not in paths
    assert paths.count("/ws") == 1


def test_references_instead_of_files(stack: ComfyStack) -> None:
    body = body_of(stack.run(blank(filename_prefix="folder/a b"), outputs="file"))
    [output] = body["output"]
    assert output["local_path"] == f"output/folder/{output['filename']}"
    assert "data" not in output
    assert "/view" not in stack.comfy.paths("GET")


def test_several_outputs_of_several_nodes(stack: ComfyStack) -> None:
    workflow: dict[str, Any] = {
        **blank(),
        "6": {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}},
        "7": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "ü & ?/ü & ?"}},
    }
    workflow["1"]["inputs"]["batch_size"] = 2
    outputs = body_of(stack.run(workflow))["output"]
    assert sorted(output["node_id"] for output in outputs) == ["5", "5", "6", "6", "7", "7"]
    assert {output["type"] for output in outputs} == {"output", "temp"}
    assert {image_size(output) for output in outputs} == {(64, 48)}


def test_a_template_is_filled(stack: ComfyStack) -> None:
    answer = stack.ask("/prompt", {"template": "blank_image", "values": {"width": 33, "height": 11}})
    assert image_size(body_of(answer)["output"][0]) == (33, 11)
    answer = stack.ask("/prompt", {"template": "blank_image", "values": {"widht": 33}})
    assert "it has: width, height, color" in body_of(answer, 422)["payload"]["values.widht"]
    text = 'a "cat", "seed": 7'
    answer = stack.ask("/prompt", {"template": "text_to_image", "values": {"prompt": text, "steps": 2}})
    assert image_size(body_of(answer)["output"][0]) == (512, 512)
    assert executed(stack)[-1]["6"]["inputs"]["text"] == text


def test_the_shape_of_the_wrapper(stack: ComfyStack) -> None:
    body = body_of(stack.ask("/generate/sync", {"input": {"request_id": "r", "workflow_json": blank(9, 9)}}))
    assert list(body) == ["id", "status", "message", "comfyui_response", "output", "timings"]
    assert body["id"] == "r"
    [output] = body["output"]
    assert image_size(output) == (9, 9)
    assert not output["data"].startswith("data:")
    wanted: dict[str, Any] = {
        "modifier": "blank_image",
        "modifications": {"width": 5, "height": 6},
        "workflow_json": {},
    }
    assert image_size(body_of(stack.ask("/generate/sync", {"input": wanted}))["output"][0]) == (5, 6)
    wanted["return_outputs_as_base64"] = False
    assert "data" not in body_of(stack.ask("/generate/sync", {"input": wanted}))["output"][0]
    answer = stack.ask("/generate/sync", {"input": {**wanted, "s3": {"bucket_name": "b"}}})
    assert "is not supported" in body_of(answer, 422)["payload"]["input.s3"]


def test_an_image_that_comes_with_the_workflow(stack: ComfyStack) -> None:
    uri = f"data:image/png;base64,{base64.b64encode(png(31, 17, 0xABCDEF)).decode()}"
    workflow: dict[str, Any] = {**blank(), "1": {"class_type": "LoadImage", "inputs": {"image": uri}}}
    for _ in range(2):
        assert image_size(body_of(stack.run(workflow))["output"][0]) == (31, 17)
    [name] = stack.comfy.uploads
    assert name.endswith(".png [temp]")
    workflow["1"]["inputs"]["image"] = "data:image/png;base64,%%%"
    assert body_of(stack.run(workflow), 422)["error"] == "node 1, input image: the file is not base64"
    workflow["1"]["inputs"]["image"] = "none.png"
    assert "Invalid image file: none.png" in body_of(stack.run(workflow), 422)["error"]
    for number in range(17):
        workflow[f"x{number}"] = {"class_type": "LoadImage", "inputs": {"image": uri}}
    assert "may hold 16 files" in body_of(stack.run(workflow), 422)["error"]
    stack.comfy.faults["/upload/image"] = fault("413 Too Large")
    workflow = {**blank(), "1": {"class_type": "LoadImage", "inputs": {"image": uri}}}
    assert "ComfyUI answered 413 to POST /upload/image" in body_of(stack.run(workflow), 502)["error"]
    stack.forget()


def test_a_cached_run(stack: ComfyStack) -> None:
    before = stack.work_served()
    first = body_of(stack.run(blank()))
    second = body_of(stack.run(blank()))
    assert second["output"] == first["output"]
    assert "made nothing new: change an input, such as a seed" in second["message"]
    stack.comfy.engine.history_of_cached = False
    third = body_of(stack.run(blank()))
    assert third["output"] == []
    assert third["message"] == second["message"]
    assert stack.work_served() - before == 100, "that of the first"


def test_what_was_not_cached_is_what_was_done(stack: ComfyStack) -> None:
    before = stack.work_served()
    body_of(stack.run(blank()))
    assert body_of(stack.run(blank(filename_prefix="other")))["message"] == "completed"
    assert stack.work_served() - before == 150


def test_an_output_that_is_gone_is_told_beside_the_others(stack: ComfyStack) -> None:
    body_of(stack.run(blank()))
    stack.comfy.engine.files.clear()
    [output] = body_of(stack.run(blank()))["output"]
    assert output["error"] == "ComfyUI no longer has this file"


def test_outputs_that_are_ignored_are_told(stack: ComfyStack) -> None:
    workflow: dict[str, Any] = {**blank(), "6": {"class_type": "PreviewImage", "inputs": {}}}
    body = body_of(stack.run(workflow))
    assert body["message"] == "ComfyUI ignored outputs for errors at the nodes 6"
    errors = body["comfyui_response"]["node_errors"]["6"]["errors"]
    assert errors[0]["message"] == "Required input is missing"
    assert len(body["output"]) == 1


def test_outputs_above_the_limit(stack: ComfyStack) -> None:
    large = blank(8000, 8000)
    request_idx = next_request_idx()
    body = body_of(stack.ask(CUSTOM, {"workflow": large, "request_id": "mine"}, request_idx), 413)
    assert f"larger than {MAX_OUTPUT} bytes together" in body["error"]
    assert "COMFYUI_MAX_OUTPUT_BYTES" in body["error"]
    assert (body["id"], body["status"]) == ("mine", "failed")
    assert stack.outcome(request_idx) == "Success"
    assert len(body_of(stack.run(large, outputs="file"))["output"]) == 1
    many = blank()
    many["1"]["inputs"]["batch_size"] = MAX_OUTPUT // 50
    assert body_of(stack.run(many), 413)["output"], "they are named"


def test_the_key_of_the_model_server_is_sent_everywhere(stack: ComfyStack) -> None:
    body_of(stack.run(blank()))
    sent = {path: headers.get("Authorization") for _, path, headers in stack.comfy.requests}
    assert {"/ws", "/prompt", "/view"} <= set(sent)
    assert set(sent.values()) - {None} == {f"Bearer {MODEL_API_KEY}"}
    assert {path for path, value in sent.items() if value is None} <= {"/system_stats"}


def options(stack: ComfyStack) -> list[str]:
    """What leads a program to the worker."""
    return ["--autoscaler", stack.autoscaler.url, "-k", "key", "-e", "comfyui"]


def test_the_example_client_saves_what_was_made(
    stack: ComfyStack, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    to_folder = [*options(stack), "--folder", str(tmp_path)]
    assert client.main([*to_folder, "--template", "blank_image", "--set", "width=21"]) == 0
    [saved] = tmp_path.iterdir()
    assert capsys.readouterr().out == f"{saved}\n"
    assert size_of(saved.read_bytes()) == (21, 512)
    workflow = tmp_path / "mine.json"
    workflow.write_text(json.dumps(blank(filename_prefix="mine")))
    assert client.main([*to_folder, "--workflow", str(workflow)]) == 0
    assert len(list(tmp_path.glob("mine_*.png"))) == 1
    workflow.write_text(json.dumps(blank(width=0)))
    assert client.main([*to_folder, "--workflow", str(workflow)]) == 1
    assert "Value 0 smaller than min of 1: width" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        client.main([*to_folder, "--template", "blank_image", "--set", "wide=21"])
    assert "values.wide" in capsys.readouterr().err


def test_the_load_test(stack: ComfyStack) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "workers.comfyui.test_load", *options(stack), "-n", "2", "-rps", "20"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=PROCESS_SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert len({workflow["3"]["inputs"]["seed"] for workflow in executed(stack)[-2:]}) == 2


def executed(stack: ComfyStack) -> list[dict[str, Any]]:
    """The workflows, in order of their end."""
    engine = stack.comfy.engine
    return [engine.history[prompt_id]["prompt"][2] for prompt_id in engine.executed]


# -- errors ----------------------------------------------------------------------------------------------


def with_input(name: str, value: object, node_id: str = "1") -> dict[str, Any]:
    workflow = blank()
    workflow[node_id]["inputs"][name] = value
    return workflow


REFUSED: list[tuple[dict[str, Any], tuple[str, str, str, str]]] = [
    (with_input("width", 0), ("1", "EmptyImage", "width", "Value 0 smaller than min of 1")),
    (with_input("width", 10**6), ("1", "EmptyImage", "width", "Value 1000000 bigger than max of 16384")),
    (with_input("width", "wide"), ("1", "EmptyImage", "width", "Failed to convert an input value to a INT")),
    (with_input("images", ["1"], "5"), ("5", "SaveImage", "images", "Bad linked input")),
    (
        with_input("filename_prefix", ["1", 0], "5"),
        ("5", "SaveImage", "filename_prefix", "Return type mismatch"),
    ),
    (with_input("images", ["9", 0], "5"), ("5", "SaveImage", "", "Exception when validating node")),
    (
        {**blank(), "5": {"class_type": "SaveImage", "inputs": {"filename_prefix": "x"}}},
        ("5", "SaveImage", "images", "Required input is missing"),
    ),
]


@pytest.mark.parametrize(("workflow", "told"), REFUSED, ids=[told[3] for _, told in REFUSED])
def test_an_error_of_the_validation_names_the_node(
    stack: ComfyStack, workflow: dict[str, Any], told: tuple[str, str, str, str]
) -> None:
    node_id, class_type, given, message = told
    request_idx, before = next_request_idx(), stack.work_served()
    body = body_of(stack.ask(CUSTOM, {"workflow": workflow, "request_id": "mine"}, request_idx), 422)
    node = body["node_errors"][node_id]
    assert node["class_type"] == class_type
    assert node["errors"][0]["input"] == given
    assert node["errors"][0]["message"].startswith(message)
    assert f"node {node_id} ({class_type}): {message}" in body["error"]
    assert (body["id"], body["status"]) == ("mine", "failed")
    assert stack.outcome(request_idx) == "Success", "the client's fault"
    assert stack.work_served() == before


@pytest.mark.parametrize(
    ("workflow", "told"),
    [
        ({"1": {"class_type": "NoSuchNode", "inputs": {}}}, "node NoSuchNode does not exist.: Node ID '#1'"),
        ({"1": blank()["1"]}, "Prompt has no outputs"),
    ],
)
def test_an_error_of_the_whole_workflow(stack: ComfyStack, workflow: dict[str, Any], told: str) -> None:
    body = body_of(stack.run(workflow), 422)
    assert told in body["error"]
    assert body["comfyui_error"]["type"] in ("invalid_prompt", "prompt_no_outputs")


def test_a_node_that_fails(stack: ComfyStack) -> None:
    stack.comfy.engine.fail("EmptyImage", "torch.OutOfMemoryError", "Allocation on device")
    request_idx = next_request_idx()
    body = body_of(stack.ask(CUSTOM, {"workflow": blank()}, request_idx), 500)
    stack.comfy.engine.mend("EmptyImage")
    assert body["error"] == (
        "ComfyUI failed at node 1 (EmptyImage): torch.OutOfMemoryError: Allocation on device"
    )
    assert body["node"] == {
        "node_id": "1",
        "class_type": "EmptyImage",
        "exception_type": "torch.OutOfMemoryError",
        "exception_message": "Allocation on device",
    }
    assert "raceback" not in json.dumps(body)
    assert stack.outcome(request_idx) == "Error"
    assert "Allocation" not in stack.worker.log


def test_a_storm_of_bad_workflows_takes_nobody_down(stack: ComfyStack) -> None:
    stack.comfy.engine.fail("SlowImage")
    for _ in range(5):
        for workflow, _told in REFUSED:
            assert stack.run(workflow).status == 422
        assert stack.run({"1": {"class_type": "No", "inputs": {}}}).status == 422
        assert stack.run({"1": 7}).status == 422
        assert stack.run(slow()).status == 500
    stack.comfy.engine.mend("SlowImage")
    assert "Traceback (most recent call last):" in stack.comfy.lines
    stack.wait_for_next_report(lambda report: report["max_perf"] > 0, "a report")
    assert all(report["error_msg"] == "" for report in stack.reports)
    assert stack.run(slow()).status == 200


def fault(status: str, text: bytes = b"") -> Fault:
    head = f"HTTP/1.1 {status}\r\nContent-Type: text/plain\r\nContent-Length: {len(text)}\r\n\r\n"

    def answer(connection: socket.socket) -> None:
        connection.sendall(head.encode() + text)

    return answer


def hang_up(_: socket.socket) -> None:
    """A server that closes the connection instead."""


def test_comfyui_failing_before_the_queue(stack: ComfyStack) -> None:
    text = b"500 Internal Server Error\n\nServer got itself in trouble"
    stack.comfy.faults["/prompt"] = fault("500 Internal Server Error", text)
    assert "failed on this workflow before it was queued" in body_of(stack.run(blank()), 500)["error"]
    stack.forget()


@pytest.mark.parametrize(
    ("path", "answer", "told"),
    [
        ("/prompt", fault("404 Not Found"), "ComfyUI answered 404 to POST /prompt: is it ComfyUI"),
        ("/prompt", fault("200 OK", b"<html>"), "ComfyUI's response is not JSON"),
        ("/prompt", fault("200 OK", b"[]"), "ComfyUI's response to POST /prompt has no prompt_id"),
        ("/prompt", fault("200 OK", b'{"prompt_id": "../../x?"}'), "has no prompt_id"),
        ("/prompt", hang_up, "closed the connection"),
        ("/history/", fault("200 OK", b"{"), "ComfyUI's response is not JSON"),
        ("/history/", fault("403 Forbidden"), "ComfyUI answered 403 to GET /history"),
        ("/view", fault("403 Forbidden"), "ComfyUI answered 403 to GET /view"),
    ],
)
def test_a_server_that_answers_otherwise_is_a_bad_gateway(
    stack: ComfyStack, path: str, answer: Fault, told: str
) -> None:
    stack.comfy.faults[path] = answer
    found = body_of(stack.run(blank()), 502)["error"]
    stack.forget()
    assert told in found


# -- events, or none -------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", [Mode.REFUSED, Mode.UNANSWERED, Mode.SILENT])
def test_without_a_websocket_the_history_tells(stack: ComfyStack, mode: Mode) -> None:
    stack.comfy.sockets.mode = mode
    body = body_of(stack.run(slow()))
    assert image_size(body["output"][0]) == (64, 48)
    if mode is not Mode.SILENT:
        stack.worker.wait_for_log("ComfyUI's websocket cannot be opened, asking its history instead")


@pytest.mark.parametrize("event", ["execution_start", "progress", "executed", "execution_success"])
def test_a_websocket_that_drops(stack: ComfyStack, event: str) -> None:
    def drop(name: str, listener: ClientSocket) -> None:
        if name == event:
            listener.drop()

    stack.comfy.sockets.before = drop
    assert image_size(body_of(stack.run(slow()))["output"][0]) == (64, 48)


def test_pings_are_answered(stack: ComfyStack) -> None:
    stack.comfy.sockets.received.clear()
    stack.comfy.sockets.before = lambda name, listener: listener.ping() if name == "executing" else None
    body_of(stack.run(slow()))
    assert "Pong" in stack.comfy.sockets.received


def frame(opcode: int, payload: bytes, length: int | None = None, *, final: bool = True) -> bytes:
    """length: the one that is claimed."""
    claimed = len(payload) if length is None else length
    if claimed < 126:
        size = bytes([claimed])
    elif claimed < 2**16:
        size = b"\x7e" + claimed.to_bytes(2, "big")
    else:
        size = b"\x7f" + claimed.to_bytes(8, "big")
    return bytes([opcode | (0x80 if final else 0)]) + size + payload


@pytest.mark.parametrize(
    "noise",
    [
        frame(1, b"{") + frame(1, b"[]") + frame(1, b"7") + frame(1, b'{"type": 7, "data": []}'),
        frame(1, json.dumps({"type": "executing", "data": {"node": None, "prompt_id": "other"}}).encode()),
        frame(2, b"\x00\x00\x00\x01" + bytes(2**21)),
        frame(1, b"a" * 2**21),
        frame(1, b"", final=False) + frame(0, b"", final=False) * 10_000 + frame(0, b"{}"),
    ],
    ids=["no-events", "of-others", "preview", "long", "fragments"],
)
def test_noise_on_the_websocket(stack: ComfyStack, noise: bytes) -> None:
    """It is skipped, and the events behind it are taken."""
    stack.comfy.sockets.before = lambda name, listener: (
        listener.send_raw(noise) if name == "executing" else None
    )
    body_of(stack.run(slow()))
    assert_asked_once(stack)


def assert_asked_once(stack: ComfyStack) -> None:
    assert "/queue" not in stack.comfy.paths("GET"), "nobody had to ask"
    assert len([path for path in stack.comfy.paths("GET") if path.startswith("/history")]) == 1


def test_the_history_is_asked_once_it_is_written(stack: ComfyStack) -> None:
    """Its entry comes after the event of success; an event behind it says that it is there."""
    stack.comfy.engine.writing = 0.3
    body_of(stack.run(slow()))
    assert_asked_once(stack)


def test_a_history_that_is_written_late_is_asked_again(stack: ComfyStack) -> None:
    stack.comfy.engine.writing = 2.0
    assert image_size(body_of(stack.run(slow()))["output"][0]) == (64, 48)
    assert "/queue" in stack.comfy.paths("GET")


@pytest.mark.parametrize(
    "noise",
    [
        frame(1, b"\xff\xfe"),
        frame(3, b""),
        b"\x81\xff" + bytes(20),
        frame(8, b"\x03\xe8"),
        frame(1, b"", 2**63),
    ],
    ids=["no-utf-8", "opcode", "masked", "close", "length"],
)
def test_a_websocket_that_breaks_the_protocol_is_given_up(stack: ComfyStack, noise: bytes) -> None:
    stack.comfy.sockets.before = lambda name, listener: (
        listener.send_raw(noise) if name == "executing" else None
    )
    body_of(stack.run(slow()))
    assert [path for path in stack.comfy.paths("GET") if path == "/queue" or path.startswith("/history")]


def test_a_frame_without_an_end_costs_no_memory(stack: ComfyStack) -> None:
    """Its length is claimed, and 100 MB of it come; the history tells of the end."""
    sent = False

    def flood(name: str, listener: ClientSocket) -> None:
        nonlocal sent
        if name == "executing" and not sent:
            sent = True
            listener.send_raw(frame(1, b"", 2**40))
            for _ in range(100):
                listener.send_raw(b"x" * 10**6)

    stack.comfy.sockets.before = flood
    before = stack.worker.peak_memory
    body_of(stack.run(slow()))
    assert sent
    assert stack.worker.peak_memory - before < 30 * 2**20


def test_a_history_without_an_end_costs_bounded_memory(stack: ComfyStack) -> None:
    def endless(connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n{")
        with contextlib.suppress(OSError):
            while True:
                connection.sendall(b" " * 2**20)

    stack.comfy.faults["/history/"] = endless
    before = stack.worker.peak_memory
    assert "longer than" in body_of(stack.run(blank()), 502)["error"]
    assert stack.worker.peak_memory - before < 150 * 2**20
    # The queue holds the workflows of all: it tells nothing then, and the history decides.
    stack.comfy.faults = {"/queue": endless}
    stack.comfy.sockets.mode = Mode.REFUSED
    body_of(stack.run(slow()))


# -- cancellation ----------------------------------------------------------------------------------------


def direct(stack: ComfyStack, workflow: dict[str, Any]) -> str:
    """A prompt of somebody else, who uses ComfyUI without the worker."""
    answer = ask(stack.comfy.url, "POST", "/prompt", json.dumps({"prompt": workflow}).encode())
    return answer.object()["prompt_id"]


def test_a_client_that_hangs_up_interrupts_just_its_prompt(stack: ComfyStack) -> None:
    engine = stack.comfy.engine
    stack.comfy.lines.clear()
    engine.hold("SlowImage")
    request_idx, next_idx = next_request_idx(), next_request_idx()
    with stack.begin(slow(seed=1), request_idx):
        prompt_id = engine.wait_running()
        other = direct(stack, slow(seed=2))
        following = stack.begin(slow(seed=3), next_idx)
        stack.wait_in_hand(2)
    with following:
        engine.wait_for(lambda: prompt_id in engine.history, "its interruption")
        engine.release("SlowImage")
        assert following.answer().status == 200
    assert engine.history[prompt_id]["status"]["messages"][-1][0] == "execution_interrupted"
    assert engine.history[other]["status"]["completed"]
    assert (stack.outcome(request_idx), stack.outcome(next_idx)) == ("Cancelled", "Success")
    assert stack.comfy.lines.count("Processing interrupted") == 1
    assert f"Interrupting prompt {prompt_id}" in stack.comfy.lines


def test_a_prompt_that_waits_is_taken_out_of_the_queue(stack: ComfyStack) -> None:
    engine = stack.comfy.engine
    engine.hold("SlowImage")
    other = direct(stack, slow(seed=1))
    engine.wait_for(lambda: engine.running == other, "somebody else's prompt to run")
    request_idx = next_request_idx()
    with stack.begin(slow(seed=2), request_idx):
        engine.wait_for(lambda: engine.waiting, "ours to wait")
        [prompt_id] = engine.waiting
    engine.wait_for(lambda: not engine.waiting, "ours to be deleted")
    assert engine.running == other
    engine.release("SlowImage")
    engine.wait_for(lambda: other in engine.history, "the other's end")
    assert engine.history[other]["status"]["completed"]
    assert prompt_id not in engine.history
    assert stack.outcome(request_idx) == "Cancelled"
    assert "/interrupt" not in stack.comfy.paths("POST")


def test_a_release_that_chooses_the_id_itself(stack: ComfyStack) -> None:
    """It does not look at the id of the request."""
    stack.comfy.takes_ids = False
    body = body_of(stack.run(blank()))
    assert body["comfyui_response"]["prompt_id"] == stack.comfy.engine.executed[-1]
    engine = stack.comfy.engine
    engine.hold("SlowImage")
    with stack.begin(slow(seed=1)):
        prompt_id = engine.wait_running()
    engine.wait_for(lambda: prompt_id in engine.history, "its interruption")


@pytest.mark.parametrize("takes_ids", [True, False])
@pytest.mark.parametrize("gate", ["queueing", "answering"])
def test_a_client_that_hangs_up_before_its_prompt_is_accepted(
    stack: ComfyStack, gate: str, takes_ids: bool
) -> None:
    """ComfyUI queues it all the same: its response is awaited, and then it is taken out."""
    engine = stack.comfy.engine
    stack.comfy.takes_ids = takes_ids
    engine.paused.clear()
    engine.hold("SlowImage")
    engine.hold(gate)
    request_idx, next_idx = next_request_idx(), next_request_idx()
    with stack.begin(slow(seed=1), request_idx):
        engine.wait_for(lambda: engine.paused, "the prompt to come")
    stack.worker.wait_for_log(f"499 request {request_idx}: the client hung up")
    with stack.begin(blank(), next_idx) as following:
        engine.release(gate)
        assert following.answer().status == 200
    [interrupted, _] = engine.executed[-2:]
    assert engine.history[interrupted]["status"]["messages"][-1][0] == "execution_interrupted"
    assert (stack.outcome(request_idx), stack.outcome(next_idx)) == ("Cancelled", "Success")


def test_an_interruption_by_somebody_else(stack: ComfyStack) -> None:
    engine = stack.comfy.engine
    engine.hold("SlowImage")
    request_idx = next_request_idx()
    with stack.begin(slow(), request_idx) as asking:
        engine.wait_running()
        assert ask(stack.comfy.url, "POST", "/interrupt", b"{}").status == 200
        body = body_of(asking.answer(), 499)
    engine.release("SlowImage")
    assert body["error"] == "interrupted in ComfyUI at node 1 (SlowImage)"
    assert body["status"] == "cancelled"
    assert stack.outcome(request_idx) == "Success", "no failure of the model server"


def test_a_prompt_that_comfyui_forgot(stack: ComfyStack) -> None:
    """Its queue was cleared, or it was restarted. Without events of that, the next look tells."""
    engine = stack.comfy.engine
    stack.comfy.sockets.mode = Mode.REFUSED
    engine.hold("SlowImage")
    other = direct(stack, slow(seed=1))
    engine.wait_for(lambda: engine.running == other, "somebody else's prompt to run")
    with stack.begin(slow(seed=2)) as asking:
        engine.wait_for(lambda: engine.waiting, "ours to wait")
        assert ask(stack.comfy.url, "POST", "/queue", b'{"clear": true}').status == 200
        assert "no longer knows the prompt" in body_of(asking.answer(), 502)["error"]
    engine.release("SlowImage")
    engine.wait_for(lambda: not engine.remaining, "an empty queue")
