"""The queue, the cache, the history, and the one thread that executes workflows."""

from __future__ import annotations

import heapq
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from tests.support.comfyui.checks import source_of
from tests.support.comfyui.nodes import NODES, Image
from tests.support.comfyui.png import png, size_of
from tests.support.comfyui.runs import Interrupted, NodeFailed, Prompt, Run, Send, key_of, needed
from tests.support.waiting import DEADLINE

File = tuple[str, str, str]  # type, subfolder, name


class Engine:
    """Executes one prompt after the other. Any thread may call any method.

    history_of_cached: whether the history names the files of outputs that came from the cache.
    writing: seconds from the end of an execution until it is in the history.
    """

    def __init__(self, send: Send, log: Callable[[str], None], uploads: Mapping[str, bytes]) -> None:
        self._send = send
        self._log = log
        self._uploads = uploads
        # Guards everything below; notified at each change.
        self._changed = threading.Condition()
        self._pending: list[Prompt] = []
        self._running: Prompt | None = None
        self._interrupting: str | None = None
        self._closing = False
        self._held: set[str] = set()
        self._failing: dict[str, NodeFailed] = {}
        self._cache: dict[str, tuple[Any, dict[str, Any] | None]] = {}
        self._counter = 0
        self.history: dict[str, dict[str, Any]] = {}
        self.files: dict[File, bytes] = {}
        self.history_of_cached = True
        self.writing = 0.0
        self.executed: list[str] = []  # ids of prompts, in order of their end
        self.paused: list[str] = []  # gates at which somebody was held
        self._thread = threading.Thread(target=self._work, name="comfyui-execution", daemon=True)
        self._thread.start()

    # -- orders of a test --------------------------------------------------------------------------------

    def hold(self, class_type: str) -> None:
        """Nodes of this class wait (or what asks for this gate in `pause`), until `release`."""
        with self._changed:
            self._held.add(class_type)

    def release(self, class_type: str | None = None) -> None:
        """Let them go on. None: all that is held."""
        with self._changed:
            self._held = set() if class_type is None else self._held - {class_type}
            self._changed.notify_all()

    def fail(self, class_type: str, kind: str = "RuntimeError", message: str = "no luck") -> None:
        """Nodes of this class fail from now on."""
        with self._changed:
            self._failing[class_type] = NodeFailed(kind, message)

    def mend(self, class_type: str) -> None:
        """They work again."""
        with self._changed:
            del self._failing[class_type]

    def wait_for(self, condition: Callable[[], object], what: str) -> None:
        """Until `condition()` holds, looked at after each change."""
        with self._changed:
            assert self._changed.wait_for(condition, DEADLINE), f"not within {DEADLINE:g} s: {what}"

    def pause(self, gate: str) -> None:
        """Wait while this gate is held."""
        with self._changed:
            if gate in self._held:
                self.paused.append(gate)
                self._changed.notify_all()
            self._changed.wait_for(lambda: gate not in self._held or self._closing)

    def wait_running(self) -> str:
        """The id of the prompt that runs, after waiting for one."""
        self.wait_for(lambda: self._running, "a prompt that runs")
        running = self.running
        assert running is not None
        return running

    @property
    def running(self) -> str | None:
        """The id of the prompt that runs."""
        with self._changed:
            return None if self._running is None else self._running.id

    @property
    def waiting(self) -> list[str]:
        """The ids of those that are pending."""
        with self._changed:
            return [prompt.id for prompt in sorted(self._pending)]

    # -- the API -----------------------------------------------------------------------------------------

    def put(self, prompt: Prompt) -> None:
        # Before it may run: events of a run may wait for a client that waits for the response to its request.
        self._send_status(1)
        with self._changed:
            heapq.heappush(self._pending, prompt)
            self._changed.notify_all()

    def listed(self) -> dict[str, object]:
        """What GET /queue says."""
        with self._changed:
            running = [] if self._running is None else [self._running.listed()]
            return {"queue_running": running, "queue_pending": [p.listed() for p in sorted(self._pending)]}

    @property
    def remaining(self) -> int:
        with self._changed:
            return len(self._pending) + (self._running is not None)

    def delete(self, prompt_ids: list[str] | None) -> None:
        """Take these (None: all) out of the queue; one that runs goes on."""
        with self._changed:
            kept = [] if prompt_ids is None else [p for p in self._pending if p.id not in prompt_ids]
            self._pending = kept
            heapq.heapify(self._pending)
            self._changed.notify_all()
        self._send_status()

    def interrupt(self, prompt_id: str | None) -> None:
        """None: whatever runs."""
        with self._changed:
            running = self._running
            if prompt_id is not None and (running is None or running.id != prompt_id):
                self._log(f"Prompt {prompt_id} is not currently running, skipping interrupt")
                return
            self._log(f"Interrupting prompt {prompt_id}" if prompt_id else "Global interrupt (no prompt_id)")
            self._interrupting = None if running is None else running.id
            self._changed.notify_all()

    def forget(self, prompt_ids: list[str] | None) -> None:
        """Out of the history; None: all."""
        with self._changed:
            for prompt_id in list(self.history) if prompt_ids is None else prompt_ids:
                self.history.pop(prompt_id, None)

    def free(self) -> None:
        """Drop what is cached."""
        with self._changed:
            self._cache.clear()

    def close(self) -> None:
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._thread.join(DEADLINE)

    # -- the execution thread ----------------------------------------------------------------------------

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._pending or self._closing)
                if self._closing:
                    return
                prompt = self._running = heapq.heappop(self._pending)
                self._interrupting = None
                self._changed.notify_all()
            self._run(prompt)

    def _run(self, prompt: Prompt) -> None:
        started = time.monotonic()
        run = Run(prompt, self._send)
        try:
            outputs = self._execute(prompt, run)
        except Interrupted:
            self._log("Processing interrupted")
            outputs = run.outputs
            run.tell("execution_interrupted", **run.where(), executed=run.done)
        except NodeFailed as error:
            self._log(f"!!! Exception during processing !!! {error}")
            self._log("Traceback (most recent call last):")
            self._log('  File "/opt/ComfyUI/execution.py", line 496, in execute')
            outputs = run.outputs
            run.tell(
                "execution_error",
                **run.where(),
                executed=run.done,
                exception_message=str(error),
                exception_type=error.kind,
                traceback=['  File "/opt/ComfyUI/execution.py", line 496, in execute\n'],
                current_inputs={},
                current_outputs=[],
            )
        else:
            run.tell("execution_success")
        self._log(f"Prompt executed in {time.monotonic() - started:.2f} seconds")
        self._finish(prompt, run, outputs)

    def _finish(self, prompt: Prompt, run: Run, outputs: dict[str, Any]) -> None:
        succeeded = run.messages[-1][0] == "execution_success"
        entry = {
            "prompt": prompt.listed(),
            "outputs": outputs,
            "status": {
                "status_str": "success" if succeeded else "error",
                "completed": succeeded,
                "messages": run.messages,
            },
            "meta": {},
        }
        with self._changed:
            self._changed.wait_for(lambda: self._closing, self.writing)
            self.history[prompt.id] = entry
            self._running = None
            self.executed.append(prompt.id)
            self._changed.notify_all()
        self._send_status()
        run.send("executing", {"node": None, "prompt_id": prompt.id})

    def _execute(self, prompt: Prompt, run: Run) -> dict[str, Any]:
        run.tell("execution_start")
        keys = {node_id: key_of(prompt.workflow, node_id) for node_id in needed(prompt)}
        with self._changed:
            cached = [node_id for node_id, key in keys.items() if key in self._cache]
        run.tell("execution_cached", nodes=cached)
        values: dict[str, Any] = {}
        kept: dict[str, tuple[Any, dict[str, Any] | None]] = {}
        for node_id, key in keys.items():
            with self._changed:
                found = self._cache.get(key)
            if found is None:
                run.node = node_id
                found = self._execute_node(prompt, node_id, values, run)
                if found[1] is not None:
                    run.outputs[node_id] = found[1]
            elif found[1] is not None and self.history_of_cached:
                run.outputs[node_id] = found[1]
            kept[key] = found
            values[node_id] = found[0]
        with self._changed:
            self._cache = kept
        return run.outputs

    def _execute_node(
        self, prompt: Prompt, node_id: str, values: Mapping[str, Any], run: Run
    ) -> tuple[Any, dict[str, Any] | None]:
        node = prompt.workflow[node_id]
        kind = NODES[node["class_type"]]
        inputs = {
            name: values[source[0]] if (source := source_of(value)) else value
            for name, value in node["inputs"].items()
        }
        run.send("progress_state", {"prompt_id": prompt.id, "nodes": run.states(node_id)})
        run.send("executing", {"node": node_id, "display_node": node_id, "prompt_id": prompt.id})
        self._pass(prompt, node["class_type"])
        if kind.steps:
            for step in range(1, inputs["steps"] + 1):
                about = {"value": step, "max": inputs["steps"], "prompt_id": prompt.id, "node": node_id}
                run.send("progress", about)
                self._pass(prompt, f"step {step}")
        if node["class_type"] == "LoadImage":
            inputs["image"] = Image(*size_of(self._uploads[inputs["image"]]), 0)
        value = kind.compute(inputs)
        run.done.append(node_id)
        if not kind.saves:
            return value, None
        output = {
            "images": self._save(value, kind.saves, inputs.get("filename_prefix", "ComfyUI_temp_abcde"))
        }
        about = {"node": node_id, "display_node": node_id, "output": output, "prompt_id": prompt.id}
        run.send("executed", about)
        return value, output

    def _pass(self, prompt: Prompt, gate: str) -> None:
        """Wait at this gate while it is held; raises what a test or an interrupt wants."""
        with self._changed:
            self._changed.wait_for(
                lambda: gate not in self._held or self._closing or self._interrupting == prompt.id
            )
            if self._interrupting == prompt.id or self._closing:
                raise Interrupted
            if gate in self._failing:
                raise self._failing[gate]

    def _save(self, image: Image, kind: str, prefix: str) -> list[dict[str, str]]:
        subfolder, _, name = prefix.rpartition("/")
        saved: list[dict[str, str]] = []
        for _ in range(image.count):
            with self._changed:
                self._counter += 1
                filename = f"{name}_{self._counter:05}_.png"
                self.files[kind, subfolder, filename] = png(image.width, image.height, image.colour)
            saved.append({"filename": filename, "subfolder": subfolder, "type": kind})
        return saved

    def _send_status(self, more: int = 0) -> None:
        self._send("status", {"status": {"exec_info": {"queue_remaining": self.remaining + more}}}, None)

    def __repr__(self) -> str:
        return f"<Engine {self.remaining} remaining, running {self.running}>"
