"""Memory, disk, descriptors, threads and GPU, as far as this process can tell. Nothing here raises."""

from __future__ import annotations

import resource
import shutil
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import FrameType

_MOST_THREADS = 100
_MOST_FRAMES = 12
_GPU_SECONDS = 3.0
_GPU_FIELDS = (
    "name,temperature.gpu,utilization.gpu,memory.used,memory.total,ecc.errors.uncorrected.volatile.total"
)
_LONGEST = 2000
_CGROUP = Path("/sys/fs/cgroup")
_UNLIMITED = 2**60


def memory() -> Mapping[str, int]:
    """Bytes: of this process (resident, most resident), of the machine, and of the container if it has a
    limit; and how many processes of the container the kernel has killed for memory.
    """
    own, machine = _kilobytes("/proc/self/status"), _kilobytes("/proc/meminfo")
    known = {
        "resident": own.get("VmRSS"),
        "most_resident": own.get("VmHWM"),
        "machine_total": machine.get("MemTotal"),
        "machine_available": machine.get("MemAvailable"),
        "container_used": _number(_CGROUP / "memory.current", _CGROUP / "memory/memory.usage_in_bytes"),
        "container_limit": _number(_CGROUP / "memory.max", _CGROUP / "memory/memory.limit_in_bytes"),
        "killed_for_memory": killed_for_memory(),
    }
    if (known["container_limit"] or 0) > _UNLIMITED:
        known["container_limit"] = None
    return {name: value for name, value in known.items() if value is not None}


def killed_for_memory() -> int | None:
    """How many processes of this container the kernel has killed since it started; None if unknown."""
    for path in (_CGROUP / "memory.events", _CGROUP / "memory/memory.oom_control"):
        for line in _text(path).splitlines():
            name, _, value = line.partition(" ")
            if name == "oom_kill" and value.isdigit():
                return int(value)
    return None


def disk(*folders: Path) -> Mapping[str, Mapping[str, int]]:
    """Bytes of the file systems of these folders."""
    found: dict[str, Mapping[str, int]] = {}
    for folder in folders:
        try:
            usage = shutil.disk_usage(folder)
        except OSError:
            continue
        found[str(folder)] = {"total": usage.total, "free": usage.free}
    return found


def descriptors() -> Mapping[str, int]:
    """Open ones, and the limit."""
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        return {"open": sum(1 for _ in Path("/proc/self/fd").iterdir()), "limit": limit}
    except OSError:
        return {"limit": limit}


def threads() -> Sequence[Mapping[str, object]]:
    """Each with its name and its stack, innermost first: file, line, function, and nothing of its data."""
    frames = sys._current_frames()  # pyright: ignore[reportPrivateUsage]
    # The threads of requests are many and alike: the others come first.
    by_name = sorted(
        threading.enumerate(), key=lambda one: (one.name.startswith("pyworker-request"), one.name)
    )
    return [
        {"name": thread.name, "stack": _stack(frames.get(thread.ident or 0))}
        for thread in by_name[:_MOST_THREADS]
    ]


def _stack(frame: FrameType | None) -> Sequence[str]:
    stack: list[str] = []
    while frame is not None and len(stack) < _MOST_FRAMES:
        code = frame.f_code
        stack.append(f"{code.co_filename}:{frame.f_lineno} {code.co_name}")
        frame = frame.f_back
    return stack


def gpu() -> Sequence[str]:
    """A line for each GPU, as `nvidia-smi` tells; empty without it. Takes up to 3 s."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    command = [program, f"--query-gpu={_GPU_FIELDS}", "--format=csv"]
    try:
        done = subprocess.run(
            command, capture_output=True, timeout=_GPU_SECONDS, check=False, stdin=subprocess.DEVNULL
        )
    except subprocess.TimeoutExpired:
        return [f"nvidia-smi did not end within {_GPU_SECONDS:g} s: the driver hangs"]
    except OSError as error:
        return [f"nvidia-smi cannot be run ({error.strerror})"]
    said = (done.stdout or done.stderr)[:_LONGEST].decode("utf-8", "replace").splitlines()
    return said if done.returncode == 0 else [f"nvidia-smi failed (status {done.returncode})", *said]


def _kilobytes(path: str) -> Mapping[str, int]:
    """The lines "Name:  123 kB" of a file of /proc, in bytes."""
    found: dict[str, int] = {}
    for line in _text(Path(path)).splitlines():
        name, _, value = line.partition(":")
        number = value.removesuffix(" kB").strip()
        if value.endswith(" kB") and number.isdigit():
            found[name] = int(number) * 1024
    return found


def _number(*paths: Path) -> int | None:
    for path in paths:
        if (text := _text(path).strip()).isdigit():
            return int(text)
    return None


def _text(path: Path) -> str:
    try:
        return path.read_text("utf-8", "replace")
    except OSError:
        return ""
