"""The likely cause of what a file tells of, and what to do about it."""

from __future__ import annotations

import signal
from collections.abc import Iterator

from pyworker.black_box.reader import Part

_MIB = 2**20
_LITTLE_DISK = 100 * _MIB
_NEARLY_ALL = 0.9
_CRASHES = (signal.SIGSEGV, signal.SIGBUS, signal.SIGILL, signal.SIGFPE, signal.SIGABRT)
_GPU_MEMORY = ("CUDA out of memory", "OutOfMemoryError", "CUDA_ERROR_OUT_OF_MEMORY")

Cause = tuple[str, str]


def causes(box: Part) -> Iterator[Cause]:
    """What it was, most likely first, each with what to do; nothing if no sign of a cause is known."""
    yield from _of_the_end(box)
    yield from _of_resources(box)
    yield from _of_the_model(box)
    yield from _of_the_start(box)


def _of_the_end(box: Part) -> Iterator[Cause]:
    status = box.number("status")
    if status is None:
        return
    if box.flag("stuck"):
        yield (
            "the main thread stood still, so gunicorn ended the process",
            "its stack (above) says where it stood: look there for a call that blocks",
        )
    elif box.part("status_report").text("state") == "draining":
        yield (
            "it had been told to end, and did not in time",
            "raise DRAIN_TIMEOUT if requests take longer than that",
        )
    elif status == -signal.SIGKILL:
        yield from _of_a_kill(box)
    elif -status in _CRASHES:
        yield (
            f"the interpreter crashed ({signal.Signals(int(-status)).name}): a fault of a native library",
            "update the packages with native code, and look for driver messages: dmesg | tail",
        )


def _of_a_kill(box: Part) -> Iterator[Cause]:
    memory = box.part("memory")
    before, since = memory.number("killed_for_memory"), box.number("killed_for_memory_since")
    advice = "rent more memory, lower WORKER_THREADS or MAX_BODY_BYTES, or give the model server less"
    if before is not None and since is not None and since > before:
        yield "the kernel ended it: the container was out of memory", advice
    elif shortage := _memory_shortage(memory):
        yield f"out of memory, probably: {shortage} before the kernel or somebody sent SIGKILL", advice
    else:
        yield (
            "somebody sent SIGKILL (kill -9, the platform), and memory was not short at the last look",
            "ask who may have; a leap in memory within a few seconds is not seen here: dmesg | grep -i oom",
        )


def _memory_shortage(memory: Part) -> str:
    used, limit = memory.number("container_used"), memory.number("container_limit")
    if used and limit and used > _NEARLY_ALL * limit:
        return f"the container used {used / limit:.0%} of its memory"
    free, total = memory.number("machine_available"), memory.number("machine_total")
    if free is not None and total and free < (1 - _NEARLY_ALL) * total:
        return f"only {free / total:.0%} of the machine's memory was available"
    return ""


def _of_resources(box: Part) -> Iterator[Cause]:
    disk = box.part("disk")
    for folder in disk.names():
        free = disk.part(folder).number("free")
        if free is not None and free < _LITTLE_DISK:
            yield (
                f"the disk is full: {free / _MIB:.0f} MiB free at {folder}",
                "remove files, or rent more disk",
            )
            break
    descriptors = box.part("descriptors")
    is_open, limit = descriptors.number("open"), descriptors.number("limit")
    if is_open and limit and is_open > _NEARLY_ALL * limit:
        yield (
            f"{is_open:.0f} of {limit:.0f} descriptors were open",
            "raise the limit of open files (ulimit -Hn)",
        )
    for line in box.texts("gpu"):
        if line.startswith("nvidia-smi"):
            yield (
                f"the GPU does not answer: {line}",
                "reboot the instance, or rent another: dmesg | grep -i xid",
            )
            break
    if box.number("status") is None and (shortage := _memory_shortage(box.part("memory"))):
        yield f"memory was short: {shortage}", "rent more memory"


def _of_the_model(box: Part) -> Iterator[Cause]:
    status = box.part("status_report")
    error = status.text("error")
    said = [error, *box.texts("model_lines")]
    if any(sign in line for line in said for sign in _GPU_MEMORY):
        yield (
            "the model server ran out of GPU memory",
            "a smaller model, a shorter context, fewer parallel requests, or a larger GPU",
        )
    if error:
        yield f"the model server, or what is asked of it: {error}", "its log says more (MODEL_LOG)"
    problem = status.part("autoscaler").text("problem")
    if problem:
        yield f"the autoscaler accepted no report: {problem}", "check REPORT_ADDR and the network"


def _of_the_start(box: Part) -> Iterator[Cause]:
    status = box.part("status_report")
    if box.text("kind") == "slow-start" and (awaited := status.text("waits_for")):
        yield f"it waits for: {awaited}", "python -m pyworker.doctor checks what may be missing"
