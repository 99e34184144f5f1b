"""One prompt on ComfyUI, from its submission to its end.

Its events come by websocket. Its result is taken from the history, which also tells of the end if the
websocket cannot be opened, drops or is silent.
"""

from __future__ import annotations

import logging
import math
import threading
import time
import uuid
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import pydantic_core
import requests

from pyworker.errors import ModelTimeout, ModelUnreachable, ResponseTooLarge
from pyworker.jobs import Job
from pyworker.runtime.log_limit import LogLimit
from pyworker.runtime.thread_pool import waiting
from pyworker.upstream.origin import Origin
from workers.comfyui.errors import GenerationFailed, node_errors, refusal
from workers.comfyui.history import Entry, Place, place_of
from workers.comfyui.websocket import EventSocket, SocketLost, event_socket
from workers.comfyui.workflows import Workflow, as_object, is_whole

logger = logging.getLogger(__name__)

#: Seconds without an event until the history is asked.
QUIET = 5.0
# Pauses between two looks while there is no websocket, or the end is near.
_FIRST_PAUSE, _LAST_PAUSE = 0.05, 1.0
# Seconds from the end of the execution until the history is asked, if no event says that it is written.
_WRITING = 1.0
# Seconds for ComfyUI to respond, if MODEL_TIMEOUT allows it: it does so late while it loads a model.
_RESPONSE = 300.0
# Bytes of a response in JSON: the history holds the workflow.
MAX_JSON = 64 * 2**20
# Looks in a row that find the prompt nowhere: it is in neither place for a moment between queue and history.
_LOOKS = 3
_CANCEL_SECONDS = 25.0
_REPEAT_INTERRUPT = 5.0
_ENDS = ("execution_success", "execution_error", "execution_interrupted")
_socket_lines = LogLimit()


@dataclass(frozen=True)
class Comfy:
    """A ComfyUI server. silence: seconds without progress that end a prompt, None for no limit."""

    origin: Origin
    api_key: str
    silence: float | None
    max_output_bytes: int


@dataclass(frozen=True)
class Finished:
    """A prompt that has ended. ignored: node errors for which ComfyUI left outputs out."""

    prompt_id: str
    entry: Entry
    ignored: Mapping[str, Any]


class Execution:
    """Belongs to the thread of its job."""

    def __init__(self, comfy: Comfy, job: Job) -> None:
        self._comfy = comfy
        self._job = job
        self._client_id = uuid.uuid4().hex
        self._prompt_id = str(uuid.uuid4())
        self._place: Place | None = None
        # Looks in a row that did not find it.
        self._missed = 0
        self._alive_at = time.monotonic()
        # When the history is to be asked, as a monotonic time: inf before the prompt's end.
        self._ends_at = math.inf

    def run(self, workflow: Workflow) -> Finished:
        """Returns once the prompt has ended, with success or not. A job that ends takes its prompt with it.

        Raises `WorkflowRefused`, `ModelUnreachable`, `ModelTimeout`, `Aborted`.
        """
        with self._job.on_cancel(self._cancel), ExitStack() as stack:
            events = self._listen(stack)
            ignored = self._submit(workflow)
            return Finished(self._prompt_id, self._await_end(events), ignored)

    def _listen(self, stack: ExitStack) -> EventSocket | None:
        """None if the websocket cannot be opened."""
        path = f"/ws?clientId={self._client_id}"
        try:
            return stack.enter_context(event_socket(self._comfy.origin, path, self._comfy.api_key, self._job))
        except SocketLost as error:
            _warn(f"ComfyUI's websocket cannot be opened, asking its history instead: {error}")
            return None

    def _submit(self, workflow: Workflow) -> Mapping[str, Any]:
        """Returns the errors of nodes whose outputs ComfyUI ignores."""
        message = {"prompt": workflow, "client_id": self._client_id, "prompt_id": self._prompt_id}
        # If the client hangs up meanwhile, ComfyUI queues it all the same: `_cancel` has to find it.
        response = self._job.send("POST", "/prompt", json=message, limit=MAX_JSON, starts=True)
        if response.status_code == 400:
            raise refusal(_json(response))
        if response.status_code == 500:
            raise GenerationFailed(
                "ComfyUI failed on a workflow before it was queued",
                "ComfyUI failed on this workflow before it was queued; its log says why",
            )
        body = as_object(_json(_good(response)))
        prompt_id = body.get("prompt_id")
        if not isinstance(prompt_id, str) or not prompt_id.replace("-", "").isalnum() or len(prompt_id) > 100:
            raise ModelUnreachable("ComfyUI's response to POST /prompt has no prompt_id")
        self._prompt_id = prompt_id
        return node_errors(body)

    def _await_end(self, events: EventSocket | None) -> Entry:
        pause = _FIRST_PAUSE
        self._alive()
        look_at = time.monotonic() + (_FIRST_PAUSE if events is None else QUIET)
        while True:
            self._check()
            left = min(look_at, self._late_at()) - time.monotonic()
            if left <= 0:
                entry = self._look()
                if entry is not None:
                    return entry
                is_idle = events is not None and self._ends_at == math.inf and not self._missed
                pause = QUIET if is_idle else min(pause * 1.5, _LAST_PAUSE)
                look_at = time.monotonic() + pause
            elif events is None:
                self._job.wait(left)
            else:
                try:
                    event = events.next(left)
                except SocketLost as error:
                    self._job.check()
                    _warn(f"ComfyUI's websocket was lost, asking its history instead: {error}")
                    events.close()
                    events, event = None, None
                    pause, look_at = _FIRST_PAUSE, 0.0
                if event is not None and self._takes(event):
                    pause = _FIRST_PAUSE
                    look_at = min(self._ends_at, time.monotonic() + QUIET)

    def _takes(self, event: Mapping[str, Any]) -> bool:
        """Whether this event is of our prompt."""
        name, data = event.get("type"), as_object(event.get("data"))
        if data.get("prompt_id") != self._prompt_id:
            return False
        self._alive()
        if name == "progress":
            done, total = data.get("value"), data.get("max")
            if is_whole(done) and is_whole(total):
                self._job.progress(done, total)
        elif name in _ENDS:
            self._ends_at = time.monotonic() + _WRITING
        elif name == "executing" and data.get("node") is None:
            self._ends_at = 0.0  # ComfyUI sends this once the history is written
        return True

    def _alive(self) -> None:
        self._alive_at = time.monotonic()
        self._job.progress(self._job.done, self._job.total)

    def _check(self) -> None:
        """Raises `Aborted`, or `ModelTimeout` if nothing has happened for too long."""
        if time.monotonic() >= self._late_at():
            where = "while it waited in ComfyUI's queue" if self._waits() else "in ComfyUI"
            raise ModelTimeout(f"the prompt made no progress {where} for {self._comfy.silence:g} s")
        self._job.check()

    def _late_at(self) -> float:
        silence = self._comfy.silence
        return math.inf if silence is None else self._alive_at + silence

    def _waits(self) -> bool:
        return self._place is not None and not self._place.is_running

    def _look(self) -> Entry | None:
        """The prompt's entry in the history, if it has ended. Raises `ModelUnreachable` if it is gone."""
        entry = self._entry()
        if entry is not None:
            return entry
        try:
            place = self._find()
        except ResponseTooLarge:  # it holds everybody's workflows
            return None
        if place is not None:
            self._missed = 0
            if place != self._place:
                self._place = place
                self._alive()
            return None
        self._missed += 1
        if self._missed < _LOOKS:
            return None
        entry = self._entry()
        if entry is None:
            raise ModelUnreachable(
                "ComfyUI no longer knows the prompt: it was restarted, or its queue or history was cleared"
            )
        return entry

    def _entry(self) -> Entry | None:
        response = self._send("GET", f"/history/{self._prompt_id}")
        return Entry.of(_json(_good(response)), self._prompt_id)

    def _find(self) -> Place | None:
        """Where the prompt is in the queue; None if it is not there."""
        queue = as_object(_json(_good(self._send("GET", "/queue"))))
        return place_of(queue, self._prompt_id, self._client_id)

    def _cancel(self) -> None:
        """Take the prompt out of the queue, or interrupt it; nobody else's. Returns once it is out."""
        deadline = time.monotonic() + _CANCEL_SECONDS
        pause, interrupt_at = _FIRST_PAUSE, 0.0
        while (place := self._find()) is not None and time.monotonic() < deadline:
            if not place.is_running:
                self._send("POST", "/queue", {"delete": [place.prompt_id]})
            elif time.monotonic() >= interrupt_at:
                # Older releases interrupt whatever runs: it is sent only while this prompt does.
                interrupt_at = time.monotonic() + _REPEAT_INTERRUPT
                self._send("POST", "/interrupt", {"prompt_id": place.prompt_id})
            with waiting:
                threading.Event().wait(pause)
            pause = min(pause * 2, _LAST_PAUSE)

    def _send(self, method: str, path: str, json: object = None) -> requests.Response:
        silence = self._comfy.silence
        seconds = _RESPONSE if silence is None else min(_RESPONSE, silence)
        return self._job.send(method, path, json=json, timeout=seconds, limit=MAX_JSON, deadline=seconds)

    def __repr__(self) -> str:
        return f"<Execution {self._prompt_id} {self._job!r}>"


def _good(response: requests.Response) -> requests.Response:
    """Raises `ModelUnreachable` for any other status than 200."""
    if response.status_code != 200:
        # Without the id, so that floods of it are one kind of line.
        path = "/" + response.request.path_url.split("/")[1]
        raise ModelUnreachable(
            f"ComfyUI answered {response.status_code} to {response.request.method} {path}: "
            "is it ComfyUI that listens there?"
        )
    return response


def _json(response: requests.Response) -> object:
    """Raises `ModelUnreachable` for what is no JSON."""
    try:
        return pydantic_core.from_json(response.content)
    except ValueError as error:
        raise ModelUnreachable("ComfyUI's response is not JSON") from error


def _warn(text: str) -> None:
    if (more := _socket_lines.suffix(text)) is not None:
        logger.warning("%s%s", text, more)
