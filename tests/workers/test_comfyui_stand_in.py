"""The stand-in for ComfyUI answers as the real server does."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote, urlsplit

import pytest
from wsproto import ConnectionType, WSConnection
from wsproto.events import RejectConnection, Request, TextMessage

from tests.support.comfyui.png import png, size_of
from tests.support.comfyui.server import ComfyServer
from tests.support.comfyui.stack import blank, slow
from tests.support.http import Answer, ask


@pytest.fixture
def comfy() -> Iterator[ComfyServer]:
    with ComfyServer() as running:
        yield running


def post(comfy: ComfyServer, path: str, value: object) -> Answer:
    return ask(comfy.url, "POST", path, json.dumps(value).encode())


def get(comfy: ComfyServer, path: str) -> Any:
    return ask(comfy.url, "GET", path).json()


def submit(comfy: ComfyServer, workflow: object, **more: object) -> str:
    answer = post(comfy, "/prompt", {"prompt": workflow, **more})
    assert answer.status == 200, answer
    return answer.object()["prompt_id"]


def done(comfy: ComfyServer, prompt_id: str) -> dict[str, Any]:
    comfy.engine.wait_for(lambda: prompt_id in comfy.engine.history, "its end")
    return get(comfy, f"/history/{prompt_id}")[prompt_id]


class Listener:
    """A websocket client that shares no code with the worker's. Belongs to the test."""

    def __init__(self, comfy: ComfyServer, client_id: str, origin: str = "") -> None:
        self._socket = socket.create_connection(("127.0.0.1", comfy.port), 10)
        self._protocol = WSConnection(ConnectionType.CLIENT)
        headers = [(b"Origin", origin.encode())] if origin else []
        request = Request(
            host=urlsplit(comfy.url).netloc, target=f"/ws?clientId={client_id}", extra_headers=headers
        )
        self._socket.sendall(self._protocol.send(request))

    def messages(self) -> Iterator[dict[str, Any]]:
        text = ""
        while True:
            data = self._socket.recv(65536)
            self._protocol.receive_data(data or None)
            for event in self._protocol.events():
                if isinstance(event, RejectConnection):
                    yield {"type": "refused", "data": {"status": event.status_code}}
                if isinstance(event, TextMessage):
                    text += event.data
                    if event.message_finished:
                        message, text = json.loads(text), ""
                        yield message

    def close(self) -> None:
        self._socket.close()


@pytest.mark.parametrize("prefix", ["", "/api"])
def test_a_prompt_from_submission_to_its_file(comfy: ComfyServer, prefix: str) -> None:
    answer = post(comfy, f"{prefix}/prompt", {"prompt": blank(), "prompt_id": "mine", "client_id": "me"})
    assert answer.object() == {"prompt_id": "mine", "number": 0, "node_errors": {}}
    entry = done(comfy, "mine")
    assert set(entry) == {"prompt", "outputs", "status", "meta"}
    assert entry["prompt"] == [0, "mine", blank(), {"client_id": "me"}, ["5"]]
    assert entry["status"]["status_str"] == "success"
    assert entry["status"]["completed"] is True
    names = [name for name, _ in entry["status"]["messages"]]
    assert names == ["execution_start", "execution_cached", "execution_success"]
    [image] = entry["outputs"]["5"]["images"]
    assert image == {"filename": "test_00001_.png", "subfolder": "", "type": "output"}
    view = ask(comfy.url, "GET", f"{prefix}/view?filename=test_00001_.png&subfolder=&type=output")
    assert (view.header("Content-Type"), size_of(view.body)) == ("image/png", (64, 48))
    assert ask(comfy.url, "GET", f"{prefix}/view?filename=no.png&type=output").status == 404
    assert "got prompt" in comfy.lines
    assert any(line.startswith("Prompt executed in 0.0") for line in comfy.lines)


def test_the_events_of_a_prompt_in_order(comfy: ComfyServer) -> None:
    listener = Listener(comfy, "me")
    messages = listener.messages()
    first = next(messages)
    assert (first["type"], first["data"]["sid"]) == ("status", "me")
    prompt_id = submit(comfy, slow(2), client_id="me")
    seen: list[tuple[str, Any]] = []
    while not seen or seen[-1][0] != "executing" or seen[-1][1]["node"] is not None:
        message = next(messages)
        if message["type"] != "status":
            seen.append((message["type"], message["data"]))
    listener.close()
    assert all(data["prompt_id"] == prompt_id for _, data in seen)
    assert [name for name, _ in seen] == [
        "execution_start",
        "execution_cached",
        *("progress_state", "executing", "progress", "progress"),
        *("progress_state", "executing", "executed"),
        "execution_success",
        "executing",
    ]
    assert [data["value"] for name, data in seen if name == "progress"] == [1, 2]


def test_a_foreign_origin_is_refused(comfy: ComfyServer) -> None:
    own = {"Origin": comfy.url, "Host": urlsplit(comfy.url).netloc}
    assert ask(comfy.url, "GET", "/queue", headers=own).status == 200
    foreign = {**own, "Origin": "https://example.com"}
    assert ask(comfy.url, "GET", "/queue", headers=foreign).status == 403
    listener = Listener(comfy, "me", origin="https://example.com")
    assert next(listener.messages()) == {"type": "refused", "data": {"status": 403}}
    listener.close()


def test_broken_json_is_an_internal_error_in_plain_text(comfy: ComfyServer) -> None:
    answer = ask(comfy.url, "POST", "/prompt", b'{"prompt": ')
    assert (answer.status, answer.header("Content-Type")) == (500, "text/plain; charset=utf-8")
    assert "Traceback (most recent call last):" in comfy.lines
    assert post(comfy, "/prompt", {"prompt": blank()}).status == 200


def test_what_is_refused_before_the_queue(comfy: ComfyServer) -> None:
    cases: list[tuple[object, str]] = [
        ({}, "no_prompt"),
        ({"prompt": {"1": {"inputs": {}}}}, "invalid_prompt"),
        ({"prompt": {"1": {"class_type": "NoSuchNode", "inputs": {}}}}, "invalid_prompt"),
        ({"prompt": {"1": blank()["1"]}}, "prompt_no_outputs"),
        ({"prompt": blank(width=0)}, "prompt_outputs_failed_validation"),
    ]
    answers = [post(comfy, "/prompt", body) for body, _ in cases]
    assert [answer.status for answer in answers] == [400] * len(cases)
    assert [answer.object()["error"]["type"] for answer in answers] == [kind for _, kind in cases]
    answer = answers[-1]
    node = answer.object()["node_errors"]["1"]
    assert (node["class_type"], node["dependent_outputs"]) == ("EmptyImage", ["5"])
    assert node["errors"][0]["type"] == "value_smaller_than_min"
    assert node["errors"][0]["extra_info"]["input_name"] == "width"
    assert "Failed to validate prompt for output 5:" in comfy.lines
    assert any(line.startswith("invalid prompt: {") for line in comfy.lines)


def test_a_good_output_beside_a_bad_one_is_executed(comfy: ComfyServer) -> None:
    workflow: dict[str, Any] = {**blank(), "6": {"class_type": "PreviewImage", "inputs": {}}}
    answer = post(comfy, "/prompt", {"prompt": workflow})
    assert answer.status == 200
    assert list(answer.object()["node_errors"]) == ["6"]
    assert list(done(comfy, answer.object()["prompt_id"])["outputs"]) == ["5"]


def test_an_identical_prompt_is_cached_whole(comfy: ComfyServer) -> None:
    first = done(comfy, submit(comfy, blank()))
    second = done(comfy, submit(comfy, blank()))
    cached = [data["nodes"] for name, data in second["status"]["messages"] if name == "execution_cached"]
    assert (cached, second["outputs"]) == ([["1", "5"]], first["outputs"])
    comfy.engine.history_of_cached = False
    assert done(comfy, submit(comfy, blank()))["outputs"] == {}
    assert len(comfy.engine.files) == 1
    assert post(comfy, "/free", {"free_memory": True}).status == 200
    assert done(comfy, submit(comfy, blank()))["outputs"]
    assert len(comfy.engine.files) == 2


def test_an_execution_error(comfy: ComfyServer) -> None:
    comfy.engine.fail("SlowImage", "torch.OutOfMemoryError", "Allocation on device")
    entry = done(comfy, submit(comfy, slow()))
    assert entry["status"]["status_str"] == "error"
    [name, data] = entry["status"]["messages"][-1]
    assert (name, data["node_id"], data["node_type"]) == ("execution_error", "1", "SlowImage")
    assert data["exception_type"] == "torch.OutOfMemoryError"
    assert "!!! Exception during processing !!! Allocation on device" in comfy.lines


def test_the_queue_and_interrupts(comfy: ComfyServer) -> None:
    comfy.engine.hold("SlowImage")
    first, second, third = (submit(comfy, slow(seed=seed)) for seed in range(3))
    comfy.engine.wait_for(lambda: comfy.engine.running == first, "the first to run")
    queue = get(comfy, "/queue")
    assert [item[1] for item in queue["queue_running"]] == [first]
    assert [item[1] for item in queue["queue_pending"]] == [second, third]
    assert get(comfy, "/prompt") == {"exec_info": {"queue_remaining": 3}}
    assert get(comfy, f"/history/{first}") == {}
    assert post(comfy, "/interrupt", {"prompt_id": second}).status == 200
    assert post(comfy, "/queue", {"delete": [second]}).body == b""
    assert post(comfy, "/interrupt", {"prompt_id": first}).body == b""
    entry = done(comfy, first)
    assert entry["status"]["messages"][-1][0] == "execution_interrupted"
    assert {f"Interrupting prompt {first}", "Processing interrupted"} <= set(comfy.lines)
    comfy.engine.release("SlowImage")
    assert done(comfy, third)["status"]["completed"]
    assert second not in comfy.engine.history
    assert post(comfy, "/history", {"clear": True}).status == 200
    assert get(comfy, "/history") == {}


def test_an_upload_is_taken_from_a_form(comfy: ComfyServer) -> None:
    data = png(2, 2, 0xFF0000)
    names: list[str] = []
    for overwrite in ("false", "false", "true"):
        body = (
            b'--b\r\nContent-Disposition: form-data; name="image"; filename="a.png"\r\n\r\n'
            + data
            + b"\r\n--b\r\n"
            b'Content-Disposition: form-data; name="overwrite"\r\n\r\n'
            + overwrite.encode()
            + b"\r\n--b--\r\n"
        )
        answer = ask(
            comfy.url, "POST", "/upload/image", body, {"Content-Type": "multipart/form-data; boundary=b"}
        )
        assert {**answer.object(), "name": ""} == {"name": "", "subfolder": "", "type": "input"}
        names.append(answer.object()["name"])
    assert names == ["a.png", "a (1).png", "a.png"]
    assert comfy.uploads["a.png"] == data


def test_a_file_name_with_folder_and_odd_characters(comfy: ComfyServer) -> None:
    entry = done(comfy, submit(comfy, blank(filename_prefix="some folder/a&b")))
    [image] = entry["outputs"]["5"]["images"]
    assert (image["subfolder"], image["filename"]) == ("some folder", "a&b_00001_.png")
    query = f"filename={quote(image['filename'])}&subfolder={quote(image['subfolder'])}&type=output"
    assert size_of(ask(comfy.url, "GET", f"/view?{query}").body) == (64, 48)


def test_its_health(comfy: ComfyServer) -> None:
    assert get(comfy, "/system_stats")["system"]["comfyui_version"] == "0.3.64"
    assert comfy.lines[-2:] == ["", f"To see the GUI go to: {comfy.url}"]
